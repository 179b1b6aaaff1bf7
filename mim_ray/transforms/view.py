"""T: from normalised pixels to what an encoder is shown."""

from contextlib import nullcontext
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.draws import Purpose
from mim_ray.transforms.colour import Jitter, mean_of
from mim_ray.transforms.cutmix import CutMix, Mixed
from mim_ray.transforms.erase import Erase
from mim_ray.transforms.keyed import keys, uniforms
from mim_ray.transforms.mask import Mask
from mim_ray.transforms.mixup import MixUp
from mim_ray.transforms.pixels import Normalise
from mim_ray.transforms.randaugment import RandAugment
from mim_ray.transforms.rotate import Rotate
from mim_ray.views import Grid, Hiding, View


class T(Spec):
    """A transformation of a picture; a second one may be told what the first has hidden."""

    mask: Mask | None = None
    fill: Literal["none", "mean", "picture_mean"] = Field(
        "none", description="what hidden pixels become: the mean of the shown ones, or of all (as published)"
    )
    colour: Jitter | None = Field(None, description="after masking, of the shown pixels")

    def __call__(
        self,
        pixels: Tensor,
        position: Tensor,
        *,
        grid: Grid,
        normalise: Normalise,
        seed: int,
        view: int,
        partner: Hiding | None,
    ) -> View:
        picture = pixels
        hiding = self.mask.hiding(grid, position, seed, view, partner) if self.mask else None
        shown = ~to_pixels(hiding.mask, grid) if hiding else None
        if shown is not None and (self.fill != "none" or (self.colour and self.colour.blur)):
            mean = mean_of(pixels, None if self.fill == "picture_mean" else shown)
            pixels = torch.where(shown, pixels, mean)
        if self.colour:
            key = keys(Purpose.COLOUR, seed, view, position)
            pixels = normalise.redone(self.colour(normalise.undone(pixels), key, shown))
        return View(pixels, hiding, picture)


class Shared(Spec):
    """What happens to the picture itself, before the two views are made of it."""

    augment: RandAugment | None = None
    rotate: Rotate | None = None
    erase: Erase | None = None
    cutmix: CutMix | None = None
    mixup: MixUp | None = Field(None, description="with cutmix, too: one or the other, as often")
    colour: Jitter | None = Field(None, description="of the whole picture, the target included")

    @property
    def mixes(self) -> bool:
        """Whether two pictures become one."""
        return self.cutmix is not None or self.mixup is not None

    def augmented(self, crop: Tensor, position: Tensor, normalise: Normalise, seed: int, view: int) -> Tensor:
        """Bytes, or fractions of them; in single precision, for places in a picture need all of it."""
        with torch.autocast(crop.device.type, enabled=False) if not crop.is_meta else nullcontext():
            if self.augment:
                crop = self.augment(crop, keys(Purpose.AUGMENT, seed, view, position))
            if self.rotate:
                crop = self.rotate(crop, keys(Purpose.ROTATE, seed, view, position))
            if self.erase:
                crop = self.erase(crop, keys(Purpose.ERASE, seed, view, position), normalise)
        return crop

    def mixed(self, crops: tuple[Tensor, ...], position: Tensor, seed: int) -> Mixed | None:
        cut = self.cutmix(crops, keys(Purpose.CUTMIX, seed, 0, position)) if self.cutmix else None
        mean = self.mixup(crops, keys(Purpose.MIXUP, seed, 0, position)) if self.mixup else None
        if cut is None or mean is None:
            return cut or mean
        is_cut = uniforms(keys(Purpose.EITHER, seed, 0, position), 1)[:, 0] < 0.5
        pairs = zip(cut.crops, mean.crops, strict=True)
        either = tuple(torch.where(is_cut[:, None, None, None], one, other) for one, other in pairs)
        return Mixed(either, torch.where(is_cut, cut.share, mean.share))

    def coloured(self, pixels: Tensor, position: Tensor, normalise: Normalise, seed: int, view: int) -> Tensor:
        if self.colour is None:
            return pixels
        # Views count from 0, so that a view's own jitter and this one never share a key.
        key = keys(Purpose.COLOUR, seed, ~view, position)
        return normalise.redone(self.colour(normalise.undone(pixels), key, None))


def to_pixels(mask: Tensor, grid: Grid) -> Tensor:
    """(B, N) → (B, 1, H, W)."""
    square = mask.view(-1, 1, grid.rows, grid.columns)
    return square.repeat_interleave(grid.patch, 2).repeat_interleave(grid.patch, 3)
