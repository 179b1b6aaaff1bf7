"""What a method sees and paints, as one picture to look at."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mim_ray.blocks import patchified, picture
from mim_ray.measures.reconstruct import Reconstruction, as_in
from mim_ray.measures.relax import Relaxation
from mim_ray.siamese import Siamese
from mim_ray.views import View

GREY = 0.5
MARGIN = 2


@torch.no_grad()
def sheet(model: Siamese, crops: tuple[Tensor, ...], position: Tensor) -> Tensor:
    """(height, width, 3) bytes, a row for each picture: itself, then each view and what is painted from it."""
    a, b, _ = model.prepared(crops, position)
    columns = [model.normalise(crops[0])]
    for view, painted in _paintings(model, a, b):
        columns += [view] if painted is None else [view, painted]
    shares = [model.normalise.undone(column).clamp(0, 1) for column in columns]
    return _tiled(torch.stack(shares, dim=1))


def save_sheet(model: Siamese, crops: tuple[Tensor, ...], position: Tensor, path: Path) -> None:
    Image.fromarray(sheet(model, crops, position).cpu().numpy()).save(path)


def _paintings(model: Siamese, a: View, b: View) -> list[tuple[Tensor, Tensor | None]]:
    measure, grey = model.measure, model.normalise.redone(torch.full_like(a.pixels, GREY))
    shown = [_shown(model, view, grey) for view in (a, b)]
    if isinstance(measure, Reconstruction):
        return [(shown[0], _painted(model, measure, measure.head([model.online(a)], None)[0], a, b))]
    if isinstance(measure, Relaxation):
        seen, other = model.online.pair(a, b)
        second = measure.head if measure.second is None else measure.second
        return [
            (shown[0], _painted(model, measure, measure.head([seen], None)[0], a, b)),
            (shown[1], _painted(model, measure, second([other], None)[0], b, b)),
        ]
    return [(shown[0], None), (shown[1], None)]


def _shown(model: Siamese, view: View, grey: Tensor) -> Tensor:
    if view.hiding is None:
        return view.pixels
    grid = model.online.encoder.grid
    patches, hidden = patchified(view.pixels, grid.patch), patchified(grey, grid.patch)
    return picture(torch.where(view.hiding.mask[..., None], hidden, patches), grid)


def _painted(
    model: Siamese, measure: Reconstruction | Relaxation, patches: Tensor, view: View, whole: View
) -> Tensor:
    """Hidden patches as they are painted, with the true mean and deviation where these were not asked for."""
    grid = model.online.encoder.grid
    true = patchified(whole.pixels, grid.patch).float()
    patches = patches.float()
    if measure.normalise:
        patches = as_in(true, patches, measure.floor)
    if view.hiding is None:
        return picture(patches, grid)
    return picture(torch.where(view.hiding.mask[..., None], patches, true), grid)


def _tiled(columns: Tensor) -> Tensor:
    """(pictures, columns, C, H, W) in 0 … 1 → bytes."""
    columns = columns.expand(-1, -1, 3, -1, -1)
    framed = torch.nn.functional.pad(columns, (MARGIN,) * 4, value=1.0)
    return (framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1) * 255).round().to(torch.uint8)
