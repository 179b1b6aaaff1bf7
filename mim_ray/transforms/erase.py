"""Random erasing: a rectangle of some pictures becomes noise of the data's own mean and deviation."""

import math

import torch
from pydantic import Field
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.transforms.keyed import mixed, uniforms
from mim_ray.transforms.pixels import Normalise

TRIES = 10
"""As often a rectangle is drawn until one fits."""


class Erase(Spec):
    """timm's: area and shape of the rectangle are drawn until it fits, and each of its pixels for itself."""

    chance: float = Field(0.25, ge=0, le=1, description="probability for each picture")
    area: tuple[float, float] = Field((0.02, 1 / 3), description="least and most, of the picture")
    shape: float = Field(0.3, gt=0, le=1, description="flattest height / width; the steepest is one over it")

    def __call__(self, x: Tensor, key: Tensor, normalise: Normalise) -> Tensor:
        """(B, C, H, W) bytes, or what they became, → the same with fractions."""
        images, channels, height, width = x.shape
        top, left, high, wide = self._rectangles(key, height, width)
        rows, columns = (torch.arange(size, device=x.device)[None] for size in (height, width))
        inside = ((rows >= top) & (rows < top + high))[:, :, None] & ((columns >= left) & (columns < left + wide))[
            :, None
        ]
        noise = normals(mixed(key ^ -1), channels * height * width).view(images, channels, height, width)
        return torch.where(inside[:, None], 255 * normalise.undone(noise), x.float())

    def _rectangles(self, key: Tensor, height: int, width: int) -> list[Tensor]:
        """Top, left, height, width, (B, 1) each; those without one have no height."""
        u = uniforms(key, 3 + 2 * TRIES)
        area = (self.area[0] + u[:, 3 : 3 + TRIES] * (self.area[1] - self.area[0])) * height * width
        slope = torch.exp((2 * u[:, 3 + TRIES :] - 1) * -math.log(self.shape))
        high, wide = (area * slope).sqrt().round(), (area / slope).sqrt().round()
        fits = (high < height) & (wide < width)
        first = fits.float().argmax(1, keepdim=True)
        high, wide, fits = (found.gather(1, first) for found in (high, wide, fits))
        high = high * (fits & (u[:, :1] < self.chance))
        return [((height - high + 1) * u[:, 1:2]).floor(), ((width - wide + 1) * u[:, 2:3]).floor(), high, wide]


def normals(key: Tensor, count: int) -> Tensor:
    """(B, count) numbers of mean 0 and deviation 1, two of each pair of uniform ones."""
    u = uniforms(key, count + count % 2).view(len(key), -1, 2)
    radius, angle = (-2 * torch.log1p(-u[..., 0])).sqrt(), 2 * math.pi * u[..., 1]
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2).flatten(1)[:, :count]
