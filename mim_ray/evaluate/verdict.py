"""What classifiers say of every picture of a set; the workers share the pictures and all get the result."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mim_ray import world
from mim_ray.data.loader import Loader
from mim_ray.evaluate.features import evaluating
from mim_ray.siamese import Siamese

GUESSES = 5
SIDE = 512
"""Of the picture of confusions, at least."""


class Verdict:
    """`ranked`: of each classifier (n, 5) class numbers, the likeliest first; `wanted` (n,)."""

    def __init__(self, wanted: Tensor, ranked: dict[str, Tensor], classes: int) -> None:
        self.wanted, self.ranked, self.classes = wanted, ranked, classes

    def share(self, name: str, guesses: int) -> float:
        """Of the pictures, whose class is among the first guesses."""
        return float((self.ranked[name][:, :guesses] == self.wanted[:, None]).any(1).double().mean())

    @cached_property
    def best(self) -> str:
        """The classifier that is right most often."""
        return max(self.ranked, key=lambda name: self.share(name, 1))

    def metrics(self) -> dict[str, float]:
        found = {"eval/top1": self.share(self.best, 1), "eval/top5": self.share(self.best, GUESSES)}
        if len(self.ranked) > 1:
            found |= {"eval/rate": float(self.best)}
            found |= {f"eval/top1_{name}": self.share(name, 1) for name in self.ranked}
        return found

    def by_class(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Of the best classifier: one row for each class that the set has."""
        rows = []
        for number in self.wanted.unique().tolist():
            mine = self.ranked[self.best][self.wanted == number]
            right, wrong = mine[:, 0] == number, mine[mine[:, 0] != number, 0]
            row = {
                "class": named(number, names),
                "pictures": len(mine),
                "top1": float(right.double().mean()),
                "top5": float((mine == number).any(1).double().mean()),
                "taken_for": named(int(wrong.mode().values), names) if len(wrong) else "",
            }
            rows.append(row)
        return rows

    def confusions(self) -> Tensor:
        """(classes, classes): of the pictures of a class (row), the share that is taken for each (column)."""
        pairs = self.wanted * self.classes + self.ranked[self.best][:, 0]
        counts = torch.bincount(pairs, minlength=self.classes**2).view(self.classes, self.classes).double()
        return counts / counts.sum(1, keepdim=True).clamp(min=1)

    def draw(self, path: Path) -> None:
        """Dark where a class (row, from the top) is often taken for another (column)."""
        shade = (255 * (1 - self.confusions().sqrt())).round().numpy().astype(np.uint8)
        side = self.classes * max(1, -(-SIDE // self.classes))
        Image.fromarray(shade).resize((side, side), Image.Resampling.NEAREST).save(path)


def named(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)


@torch.no_grad()
def judged(model: Siamese, loader: Loader) -> Verdict:
    parts: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
    classes = 0
    with evaluating(model):
        for batch in loader.epoch():
            if not len(batch.samples) or batch.labels is None:
                continue
            logits = model.logits(batch.crops[0])
            classes = next(iter(logits.values())).shape[1]
            ranked = {name: one.topk(min(GUESSES, classes)).indices.cpu() for name, one in logits.items()}
            parts.append((batch.samples.cpu(), batch.labels.cpu(), ranked))
    every = [part for parts_of_one in world.gathered_objects(parts) for part in parts_of_one]
    order = torch.cat([samples for samples, _, _ in every]).argsort()
    return Verdict(
        torch.cat([labels for _, labels, _ in every])[order],
        {name: torch.cat([ranked[name] for _, _, ranked in every])[order] for name in every[0][2]},
        max(world.gathered_objects(classes)),
    )
