"""T: from normalised pixels to what an encoder is shown."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.draws import Purpose
from mim_ray.transforms.colour import Jitter, mean_of
from mim_ray.transforms.cutmix import CutMix, Mixed
from mim_ray.transforms.keyed import keys
from mim_ray.transforms.mask import Mask
from mim_ray.transforms.pixels import Normalise
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
        hiding = self.mask.hiding(grid, position, seed, view, partner) if self.mask else None
        shown = ~to_pixels(hiding.mask, grid) if hiding else None
        if shown is not None and (self.fill != "none" or (self.colour and self.colour.blur)):
            mean = mean_of(pixels, None if self.fill == "picture_mean" else shown)
            pixels = torch.where(shown, pixels, mean)
        if self.colour:
            key = keys(Purpose.COLOUR, seed, view, position)
            pixels = normalise.redone(self.colour(normalise.undone(pixels), key, shown))
        return View(pixels, hiding)


class Shared(Spec):
    """What happens to the picture itself, before the two views are made of it."""

    cutmix: CutMix | None = None
    colour: Jitter | None = Field(None, description="of the whole picture, the target included")

    def mixed(self, crops: tuple[Tensor, ...], position: Tensor, seed: int) -> Mixed | None:
        return self.cutmix(crops, keys(Purpose.CUTMIX, seed, 0, position)) if self.cutmix else None

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
