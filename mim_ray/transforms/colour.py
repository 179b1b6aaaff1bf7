"""Colour jitter on the device, drawn for every image and view from its key; the arithmetic is torchvision's."""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.transforms.keyed import uniforms
from mim_ray.transforms.pixels import grey


class Jitter(Spec):
    """Brightness, contrast, saturation, hue (always in this order), then grey, blur, solarise."""

    brightness: float = Field(0.4, ge=0, le=1)
    contrast: float = Field(0.4, ge=0, le=1)
    saturation: float = Field(0.4, ge=0, le=1)
    hue: float = Field(0.1, ge=0, le=0.5, description="in turns of the colour circle")
    chance: float = Field(0.8, ge=0, le=1, description="probability of the first four")
    grey: float = Field(0.2, ge=0, le=1, description="probability")
    blur: float = Field(0.0, ge=0, le=1, description="probability; hidden patches are then filled first")
    sigma: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.1, 2.0), description="of the blur, least and most, in pixels"
    )
    solarise: float = Field(0.0, ge=0, le=1, description="probability")

    def __call__(self, x: Tensor, key: Tensor, shown: Tensor | None) -> Tensor:
        """x (B, 3, H, W) in [0, 1]; `shown` (B, 1, H, W): the pixels that contrast may know of.

        In single precision, for a blur would lose some of it.
        """
        with torch.autocast(x.device.type, enabled=False) if not x.is_meta else nullcontext():
            return self._jittered(x, key, shown)

    def _jittered(self, x: Tensor, key: Tensor, shown: Tensor | None) -> Tensor:
        u = uniforms(key, 9)[..., None, None, None]
        change = u[:, 4] < self.chance
        moved = blended(x, torch.zeros_like(x), self._factor(self.brightness, u[:, 0]))
        moved = blended(moved, mean_of(grey(moved), shown), self._factor(self.contrast, u[:, 1]))
        moved = blended(moved, grey(moved), self._factor(self.saturation, u[:, 2]))
        moved = hue_turned(moved, self.hue * (2 * u[:, 3] - 1)) if self.hue else moved
        x = torch.where(change, moved, x)
        x = torch.where(u[:, 5] < self.grey, grey(x).expand_as(x), x)
        if self.blur:
            sigma = self.sigma[0] + u[:, 7] * (self.sigma[1] - self.sigma[0])
            x = torch.where(u[:, 6] < self.blur, blurred(x, sigma, math.ceil(3 * self.sigma[1])), x)
        if self.solarise:
            x = torch.where((u[:, 8] < self.solarise) & (x >= 0.5), 1 - x, x)
        return x

    @staticmethod
    def _factor(strength: float, u: Tensor) -> Tensor:
        return 1 + strength * (2 * u - 1)


def blended(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (share * x + (1 - share) * other).clamp(0, 1)


def mean_of(x: Tensor, shown: Tensor | None) -> Tensor:
    """(B, C, H, W) → (B, C, 1, 1) over the shown pixels."""
    if shown is None:
        return x.mean(dim=(2, 3), keepdim=True)
    return (x * shown).sum(dim=(2, 3), keepdim=True) / shown.sum(dim=(2, 3), keepdim=True)


def hue_turned(x: Tensor, turn: Tensor) -> Tensor:
    """Hue moved by `turn` with HSV's value and chroma kept."""
    red, green, blue = x.unbind(1)
    value, chroma = x.amax(1), x.amax(1) - x.amin(1)
    apart = chroma.clamp(min=1e-12)
    sector = torch.where(
        value == red,
        (green - blue) / apart,
        torch.where(value == green, 2 + (blue - red) / apart, 4 + (red - green) / apart),
    )
    sector = sector + 6 * turn[:, 0]
    distance = [(sector + n).remainder(6) for n in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in distance], dim=1)


def blurred(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Each image by a Gaussian of its own deviation (B, 1, 1, 1), mirrored at the edges."""
    images, channels, height, width = x.shape
    radius = min(radius, height - 1, width - 1)
    taps = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights = (weights / weights.sum(3, keepdim=True)).repeat_interleave(channels, 0)
    x = F.pad(x.reshape(1, images * channels, height, width), (radius, radius, radius, radius), mode="reflect")
    x = F.conv2d(F.conv2d(x, weights, groups=images * channels), weights.mT, groups=images * channels)
    return x.reshape(images, channels, height, width)
