"""M of supervised training: a linear classifier on the pooled feature."""

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mim_ray.blocks import single_precision
from mim_ray.config import Spec
from mim_ray.views import Given, Labelled, Measured, Tokens, View


class Classify(Spec):
    kind: Literal["classify"] = "classify"
    classes: int = Field(1000, ge=2)
    pool: Literal["mean", "class"] = Field("mean", description="of the patches, or the pooled feature")
    loss: Literal["ce", "bce"] = Field("ce", description="cross entropy, or binary cross entropy of each class")
    smoothing: float = Field(0.1, ge=0, lt=1)

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
        self.head = nn.Linear(given.width, spec.classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, seen: Tokens, other: Labelled, a: View, b: View) -> Measured:
        logits = self.head(seen.patches.mean(1) if self.spec.pool == "mean" else seen.pooled)
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
        return wanted * (1 - self.spec.smoothing) + self.spec.smoothing / classes
