"""Which patches of a picture are hidden: a function of (seed, view, position) alone."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.errors import Mistake
from mim_ray.views import Hiding

HIDE = 0x4D41534B
"""Sets the keys of masks apart from those of any other draw."""


class RandomMask(Spec):
    """Hides `ratio` of the patches, drawn for every picture by itself."""

    kind: Literal["random"] = "random"
    ratio: float = Field(0.75, ge=0, lt=1, description="share of the patches that is hidden")

    def hiding(self, patches: int, position: Tensor, seed: int, view: int, partner: Hiding | None) -> Hiding:
        shown = int(patches * (1 - self.ratio))
        if not shown:
            raise Mistake(f"mask.ratio={self.ratio}: hides all of {patches} patches: lower it")
        numbers = torch.arange(patches, device=position.device)
        keys = _mixed(_mixed(_mixed(_mixed(position[:, None] ^ HIDE) ^ seed) ^ view) ^ numbers)
        order = keys.argsort(dim=1)
        return Hiding(torch.cat([order[:, :shown].sort(1)[0], order[:, shown:].sort(1)[0]], dim=1), shown)


class ComplementMask(Spec):
    """Hides exactly what the partner shows, and shows exactly what it hides."""

    kind: Literal["complement"] = "complement"

    def hiding(self, patches: int, position: Tensor, seed: int, view: int, partner: Hiding | None) -> Hiding:
        if partner is None or partner.shown == patches:
            raise Mistake("mask=complement: the first view hides nothing, so its complement would be empty")
        return Hiding(partner.order.roll(-partner.shown, dims=1), patches - partner.shown)


Mask = Annotated[RandomMask | ComplementMask, Field(discriminator="kind")]


def _mixed(x: Tensor) -> Tensor:
    """splitmix64 in two's complement, without leaving the device."""
    x = x + (0x9E3779B97F4A7C15 - (1 << 64))
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ (x >> 31 & (1 << 33) - 1)
