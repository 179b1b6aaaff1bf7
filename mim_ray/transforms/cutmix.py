"""CutMix between neighbours of the stream: a window of one picture is pasted into the other."""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.errors import Mistake
from mim_ray.transforms.keyed import uniforms


class Mixed(NamedTuple):
    crops: tuple[Tensor, ...]
    share: Tensor
    """(B,) of a picture's area that is its own."""


class CutMix(Spec):
    """The window's area is uniform in [0, 1], its centre anywhere; the order of samples is random, so neighbours
    are strangers, and pairs stay the same for any number of workers with even batches."""

    chance: float = Field(1.0, ge=0, le=1, description="probability for each picture")

    def __call__(self, crops: tuple[Tensor, ...], key: Tensor) -> Mixed:
        images, _, height, width = crops[0].shape
        if images % 2:
            raise Mistake(f"cutmix pairs the pictures of a worker, which has {images}: expected an even number")
        u = uniforms(key, 4)
        side = (1 - u[:, 0]).sqrt() * (u[:, 1] < self.chance)
        low_y, high_y = _span(side * height, u[:, 2], height)
        low_x, high_x = _span(side * width, u[:, 3], width)
        rows, columns = (torch.arange(size, device=key.device)[None] for size in (height, width))
        inside = ((rows >= low_y) & (rows < high_y))[:, :, None] & ((columns >= low_x) & (columns < high_x))[
            :, None
        ]
        mixed = tuple(torch.where(inside[:, None], neighbours(crop), crop) for crop in crops)
        return Mixed(mixed, 1 - inside.float().mean(dim=(1, 2)))


def neighbours(x: Tensor) -> Tensor:
    """Every row of a batch replaced by the other of its pair."""
    return x.view(-1, 2, *x.shape[1:]).flip(1).flatten(0, 1)


def _span(length: Tensor, centre: Tensor, size: int) -> tuple[Tensor, Tensor]:
    middle = (centre * size).floor()
    low = (middle - (length / 2).floor()).clamp(0, size)[:, None]
    return low, (middle + (length / 2).floor()).clamp(0, size)[:, None]
