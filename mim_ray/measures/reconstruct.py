"""M for methods that paint: a head predicts what the first view hides, compared with the second view's pixels."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mim_ray.blocks import patchified, picture, single_precision, taken
from mim_ray.config import Spec
from mim_ray.measures.fourier import Fourier
from mim_ray.measures.heads import Decoder, Head
from mim_ray.views import Given, Measured, Tokens, View

FLOOR = "added to a patch's variance; 1e-2 keeps the noise of flat patches from being blown up, as in drawings"


class Reconstruct(Spec):
    """The error over the patches that the first view hides and the second shows; all, where none is hidden."""

    kind: Literal["reconstruct"] = "reconstruct"
    head: Head = Decoder()
    error: Literal["l2", "l1", "focal_l1"] = "l2"
    normalise: bool = Field(True, description="compare with patches of mean 0 and variance 1")
    floor: float = Field(1e-6, gt=0, description=FLOOR)
    fourier: Fourier | None = None

    @property
    def uses_pooled(self) -> bool:
        return False

    def projection(self, given: Given) -> nn.Module:
        return nn.Identity()

    def build(self, given: Given) -> "Reconstruction":
        return Reconstruction(self, given)


class Reconstruction(nn.Module):
    def __init__(self, spec: Reconstruct, given: Given) -> None:
        super().__init__()
        self.grid, self.error, self.fourier = given.grid, spec.error, spec.fourier
        self.normalise, self.floor = spec.normalise, spec.floor
        self.head = spec.head.build(given, hides=given.hides[0])

    def forward(self, seen: Tokens, other: None, a: View, b: View) -> Measured:
        wanted = a.hiding.hidden if a.hiding else None
        everything = self.fourier is not None
        painted = self.head([seen], None if everything else wanted)[0]
        with single_precision(painted):
            painted = painted.float()
            patches = target(b, self.grid.patch, None if everything else wanted, self.normalise, self.floor)
            hidden = taken(painted, wanted) if everything and wanted is not None else painted
            true = taken(patches, wanted) if everything and wanted is not None else patches
            error = mean_over_scored(distance(hidden - true, self.error), a, b)
            parts = {"reconstruction": error.detach()}
            if self.fourier is None:
                return Measured(error, parts)
            loss = self.fourier.loss(
                picture(painted, self.grid), picture(patches, self.grid), self._scored_pixels(a, b, painted)
            )
        return Measured(error + self.fourier.weight * loss, parts | {"fourier": loss.detach()})

    def _scored_pixels(self, a: View, b: View, painted: Tensor) -> Tensor:
        scored = torch.ones(painted.shape[:2], dtype=torch.bool, device=painted.device)
        if a.hiding is not None:
            scored = a.hiding.mask
        if a.hiding is not None and b.hiding is not None:
            scored = scored & ~b.hiding.mask
        return picture(scored[..., None].expand(-1, -1, self.grid.patch**2), self.grid)


def target(view: View, patch: int, wanted: Tensor | None, normalise: bool, floor: float) -> Tensor:
    """(B, W, pixels of a patch) in single precision."""
    patches = patchified(view.pixels, patch)
    patches = (patches if wanted is None else taken(patches, wanted)).float()
    return patch_normalised(patches, floor) if normalise else patches


def distance(difference: Tensor, error: Literal["l2", "l1", "focal_l1"]) -> Tensor:
    """(B, W, pixels) → (B, W)."""
    if error == "l2":
        return difference.square().mean(2)
    if error == "l1":
        return difference.abs().mean(2)
    return (difference.abs() * (2 * torch.sigmoid(0.2 * difference.abs()) - 1)).mean(2)


def mean_over_scored(errors: Tensor, a: View, b: View) -> Tensor:
    """(B, W) errors of a's hidden patches → the mean of each image over those that b shows, then over images."""
    if a.hiding is None or b.hiding is None:
        return errors.mean()
    scored = ~b.hiding.mask.gather(1, a.hiding.hidden)
    return ((errors * scored).sum(1) / scored.sum(1).clamp(min=1)).mean()


def patch_normalised(patches: Tensor, floor: float = 1e-6) -> Tensor:
    """Each patch to mean 0 and (unbiased) variance 1."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return (patches - mean) / (variance + floor).sqrt()


def as_in(patches: Tensor, normalised: Tensor, floor: float) -> Tensor:
    """The inverse of `patch_normalised`, with the mean and variance of these patches."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return normalised * (variance + floor).sqrt() + mean
