"""M of R-MAE: both views are decoded and compared; the second decoding is held to the pixels."""

from typing import Literal

from pydantic import Field
from torch import nn

from mim_ray.blocks import single_precision
from mim_ray.config import Spec
from mim_ray.measures.heads import Decoder, Head
from mim_ray.measures.reconstruct import FLOOR, distance, mean_over_scored, target
from mim_ray.views import Given, Measured, Tokens, View


class Relax(Spec):
    """‖d(z1) − d'(z2)‖² + λ ‖d'(z2) − x‖² over the patches that the first view hides and the second shows."""

    kind: Literal["relax"] = "relax"
    head: Head = Decoder()
    penalty: float = Field(1.0, ge=0, description="λ")
    separate: bool = Field(False, description="d' has weights of its own")
    normalise: bool = Field(True, description="compare with patches of mean 0 and variance 1")
    floor: float = Field(1e-6, gt=0, description=FLOOR)

    @property
    def uses_pooled(self) -> bool:
        return False

    def projection(self, given: Given) -> nn.Module:
        return nn.Identity()

    def build(self, given: Given) -> "Relaxation":
        return Relaxation(self, given)


class Relaxation(nn.Module):
    def __init__(self, spec: Relax, given: Given) -> None:
        super().__init__()
        self.patch, self.penalty = given.grid.patch, spec.penalty
        self.normalise, self.floor = spec.normalise, spec.floor
        self.stop_gradient = given.stop_gradient
        self.head = spec.head.build(given, hides=given.hides[0] if spec.separate else any(given.hides))
        self.second = spec.head.build(given, hides=given.hides[1]) if spec.separate else None

    def forward(self, seen: Tokens, other: Tokens, a: View, b: View) -> Measured:
        wanted = a.hiding.hidden if a.hiding else None
        if self.second is None:
            first, second = self.head([seen, other], wanted)
        else:
            first, second = self.head([seen], wanted)[0], self.second([other], wanted)[0]
        with single_precision(first):
            first, second = first.float(), second.float()
            fixed = second.detach() if self.stop_gradient else second
            apart = mean_over_scored(distance(first - fixed, "l2"), a, b)
            true = target(View(b.picture, None), self.patch, wanted, self.normalise, self.floor)
            kept = mean_over_scored(distance(second - true, "l2"), a, b)
        parts = {"distance": apart.detach(), "autoencoder": kept.detach()}
        return Measured(apart + self.penalty * kept, parts)
