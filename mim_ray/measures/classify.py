"""M of supervised training: a linear classifier on the pooled feature, or many of them on a frozen one."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from mim_ray.blocks import EPSILON, single_precision
from mim_ray.config import Spec
from mim_ray.views import Given, Labelled, Measured, Tokens, View


class Classify(Spec):
    kind: Literal["classify"] = "classify"
    classes: int = Field(1000, ge=2)
    pool: Literal["mean", "class"] = Field("mean", description="of the patches, or the pooled feature")
    loss: Literal["ce", "bce"] = Field("ce", description="cross entropy, or binary cross entropy of each class")
    smoothing: float = Field(0.1, ge=0, lt=1)
    threshold: float | None = Field(
        None, ge=0, lt=1, description="bce: a class with a larger share in the picture than this is wholly wanted"
    )
    norm: bool = Field(False, description="a layer norm of its own before it, as in fine-tuning an MAE")
    spread: float = Field(0.01, ge=0, description="deviation of its first weights")

    @property
    def uses_pooled(self) -> bool:
        return self.pool == "class"

    def projection(self, given: Given) -> nn.Module:
        return nn.Identity()

    def build(self, given: Given) -> "Classification":
        return Classification(self, given)


class Classification(nn.Module):
    def __init__(self, spec: Classify, given: Given) -> None:
        super().__init__()
        self.spec = spec
        self.norm = nn.LayerNorm(given.width, EPSILON) if spec.norm else nn.Identity()
        self.head = nn.Linear(given.width, spec.classes)
        nn.init.trunc_normal_(self.head.weight, std=spec.spread)
        nn.init.zeros_(self.head.bias)

    def logits(self, seen: Tokens) -> dict[str, Tensor]:
        """(B, classes) of each classifier, by name; here there is one."""
        return {"": self.head(self.norm(feature_of(seen, self.spec.pool)))}

    def forward(self, seen: Tokens, other: Labelled, a: View, b: View) -> Measured:
        logits = self.logits(seen)[""]
        with single_precision(logits):
            logits, wanted = logits.float(), self._wanted(other)
            if self.spec.loss == "ce":
                loss = -(wanted * logits.log_softmax(1)).sum(1).mean()
            else:
                loss = F.binary_cross_entropy_with_logits(logits, wanted)
            top1 = (logits.argmax(1) == other.label).float().mean()
        return Measured(loss, {self.spec.loss: loss.detach(), "top1": top1})

    def _wanted(self, labels: Labelled) -> Tensor:
        classes = self.spec.classes
        wanted = F.one_hot(labels.label, classes).float()
        if labels.other is not None and labels.share is not None:
            own = labels.share[:, None]
            wanted = own * wanted + (1 - own) * F.one_hot(labels.other, classes)
        wanted = wanted * (1 - self.spec.smoothing) + self.spec.smoothing / classes
        return wanted if self.spec.threshold is None else (wanted > self.spec.threshold).float()


class Probe(Spec):
    """Batch norm without weights, then linear classifiers, each at its own multiple of the learning rate."""

    kind: Literal["probe"] = "probe"
    classes: int = Field(1000, ge=2)
    pool: Literal["mean", "class"] = Field("mean", description="of the patches, or the pooled feature")
    rates: tuple[PositiveFloat, ...] = Field(
        (0.1, 0.3, 1.0, 3.0, 10.0), min_length=1, description="multiples of the learning rate, trained at once"
    )

    @property
    def uses_pooled(self) -> bool:
        return self.pool == "class"

    def projection(self, given: Given) -> nn.Module:
        return nn.Identity()

    def build(self, given: Given) -> "Probing":
        return Probing(self, given)


class Probing(nn.Module):
    def __init__(self, spec: Probe, given: Given) -> None:
        super().__init__()
        self.spec = spec
        self.norm = nn.BatchNorm1d(given.width, EPSILON, affine=False)
        heads = [nn.Linear(given.width, spec.classes) for _ in spec.rates]
        for head in heads:
            nn.init.trunc_normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleList(heads)

    def logits(self, seen: Tokens) -> dict[str, Tensor]:
        """(B, classes) of each classifier, by its rate."""
        feature = self.norm(feature_of(seen, self.spec.pool))
        return {f"{rate:g}": head(feature) for rate, head in zip(self.spec.rates, self.heads, strict=True)}

    def rate_of(self, name: str) -> float:
        """Of a weight of ours, by its name: what it multiplies the learning rate by."""
        return self.spec.rates[int(name.split(".")[1])]

    def forward(self, seen: Tokens, other: Labelled, a: View, b: View) -> Measured:
        losses, parts = [], {}
        for rate, logits in self.logits(seen).items():
            with single_precision(logits):
                losses.append(F.cross_entropy(logits.float(), other.label))
            parts[f"ce_{rate}"] = losses[-1].detach()
            parts[f"top1_{rate}"] = (logits.argmax(1) == other.label).float().mean()
        return Measured(torch.stack(losses).sum(), parts)


def feature_of(seen: Tokens, pool: Literal["mean", "class"]) -> Tensor:
    return seen.patches.mean(1) if pool == "mean" else seen.pooled
