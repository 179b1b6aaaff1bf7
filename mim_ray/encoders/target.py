"""g: what the first view's features are compared with."""

import copy
import math
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field
from torch import nn

from mim_ray.config import Spec

M = TypeVar("M", bound=nn.Module)


class Pixels(Spec):
    """The second view's pixels."""

    kind: Literal["pixels"] = "pixels"


class Twin(Spec):
    """The same encoder on the second view."""

    kind: Literal["twin"] = "twin"
    stop_gradient: bool = Field(False, description="the second branch is a constant to the comparison")


class Ema(Spec):
    """A running average of the encoder on the second view."""

    kind: Literal["ema"] = "ema"
    momentum: float = Field(0.996, ge=0, le=1)
    final: float | None = Field(None, ge=0, le=1, description="approached by a half cosine; none: it stays")

    def momentum_at(self, share: float) -> float:
        """`share` of the run that is done."""
        if self.final is None:
            return self.momentum
        return self.final - (self.final - self.momentum) * 0.5 * (1 + math.cos(math.pi * share))


class Labels(Spec):
    """The picture's class."""

    kind: Literal["labels"] = "labels"


Target = Annotated[Pixels | Twin | Ema | Labels, Field(discriminator="kind")]


def shadow_of(module: M) -> M:
    """A copy that no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(shadow: nn.Module, module: nn.Module, momentum: float) -> None:
    """shadow ← momentum · shadow + (1 − momentum) · module, weights only."""
    torch._foreach_lerp_(list(shadow.parameters()), list(module.parameters()), 1 - momentum)
