"""The sheet shows what the method shows, and what is painted comes back in the picture's own colours."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mim_ray.blocks import patchified
from mim_ray.evaluate.pictures import MARGIN, sheet
from mim_ray.measures.reconstruct import patch_normalised
from mim_ray.methods import resolved
from mim_ray.siamese import Siamese

SIZE, SIDE = (32, 32), 32 + 2 * MARGIN
CROPS = torch.randint(0, 256, (3, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(method: str, columns: int, **changes: object) -> tuple[Siamese, Tensor]:
    """(pictures, columns, height, width, 3) without the frames."""
    model = resolved(method, {"encoder": "micro", **{k.replace("__", "."): v for k, v in changes.items()}}).method
    built = model.build(SIZE).eval()
    found = sheet(built, (CROPS,) * model.crops, torch.arange(3))
    assert found.shape == (3 * SIDE, columns * SIDE, 3)
    cells = found.unflatten(0, (3, SIDE)).unflatten(2, (columns, SIDE)).permute(0, 2, 1, 3, 4)
    return built, cells[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]


@pytest.mark.parametrize(
    ("method", "columns"), [("mae", 3), ("rmae", 5), ("simmim", 3), ("cmae", 3), ("mocov3", 3)]
)
def test_every_family_can_be_looked_at(method: str, columns: int) -> None:
    _, cells = drawn(method, columns)
    assert (cells[:, 0].int() - CROPS.permute(0, 2, 3, 1).int()).abs().max() <= 1


def test_hidden_patches_are_grey_and_the_others_as_they_are() -> None:
    model, cells = drawn("mae", 3)
    a, _, _ = model.prepared((CROPS,), torch.arange(3))
    assert a.hiding is not None
    mask = a.hiding.mask.view(3, 8, 8).repeat_interleave(4, 1).repeat_interleave(4, 2)
    whole, shown, painted = cells.unbind(1)
    assert (shown[mask].int() - 128).abs().max() <= 1
    assert torch.equal(shown[~mask], whole[~mask])
    assert torch.equal(painted[~mask], whole[~mask])


@pytest.mark.parametrize("normalise", [True, False])
def test_what_is_painted_right_is_the_picture(normalise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = resolved("mae", {"encoder": "micro", "method.measure.normalise": normalise}).method.build(SIZE)
    true = patchified(model.normalise(CROPS), 4)
    wanted = patch_normalised(true) if normalise else true
    head: Any = model.measure.head
    monkeypatch.setattr(type(head), "forward", lambda *_: [wanted])
    found = sheet(model, (CROPS,), torch.arange(3))[:, 2 * SIDE :].unflatten(0, (3, SIDE))
    painted = found[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert (painted.int() - CROPS.permute(0, 2, 3, 1).int()).abs().max() <= 1
