"""A²MIM's loss in the Fourier domain: as the paper says, and as the published code does."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mim_ray import world
from mim_ray.config import Spec


class Spectrum(Spec):
    """w · |DFT(painted) − DFT(picture)|, w = |the same difference|^alpha; every image by itself."""

    kind: Literal["paper"] = "paper"
    weight: float = Field(0.5, ge=0, description="λ")
    focused: bool = Field(True, description="whether frequencies are weighted by w")
    alpha: float = Field(1.0, ge=0, description="exponent of w")

    def loss(self, painted: Tensor, picture: Tensor, hidden: Tensor) -> Tensor:
        """(B, C, H, W) each; `hidden` (B, 1, H, W): where the gradient flows."""
        painted = torch.where(hidden, painted, painted.detach())
        difference: Tensor = torch.linalg.vector_norm(spectrum(painted - picture), dim=-1)
        weight = difference.detach().pow(self.alpha if self.focused else 0.0)
        twice = half_spectrum_counts(painted.shape[3], painted.device)
        total: Tensor = (twice * weight * difference).sum()
        return total / painted.numel()


class BatchSpectrum(Spec):
    """The published code's: spectra averaged over the batch, squared, weighted by log(1 + |Δ|), at most 1."""

    kind: Literal["code"] = "code"
    weight: float = Field(0.1, ge=0, description="λ")
    leak: float = Field(0.0, ge=0, le=1, description="share of the prediction that is scored where it was shown")

    def loss(self, painted: Tensor, picture: Tensor, hidden: Tensor) -> Tensor:
        elsewhere = (painted.detach() + picture) / 2
        scored = torch.where(hidden, 1.0, self.leak)
        mixed = painted * scored + elsewhere * (1 - scored)
        mean = world.averaged((mixed - picture).mean(0))
        power = spectrum(mean).square().sum(-1)
        weight = torch.log1p(power.detach().sqrt())
        weight = weight / weight.max().clamp(min=1e-12)
        return (half_spectrum_counts(mean.shape[2], mean.device) * weight * power).sum() / mean.numel()


Fourier = Annotated[Spectrum | BatchSpectrum, Field(discriminator="kind")]


def spectrum(x: Tensor) -> Tensor:
    """Of real pictures (…, H, W): half of it, as pairs of reals, which compilers know."""
    return torch.view_as_real(torch.fft.rfft2(x, norm="ortho"))


def half_spectrum_counts(width: int, device: torch.device) -> Tensor:
    """How many columns of the full spectrum each column of the half one stands for."""
    columns = torch.arange(width // 2 + 1, device=device)
    return torch.where((columns == 0) | (2 * columns == width), 1.0, 2.0)
