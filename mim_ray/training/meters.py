"""Losses wait on the device and are read together: one reduction and one copy for many steps."""

import torch
import torch.distributed as dist
from torch import Tensor

from mim_ray import world
from mim_ray.views import Measured

Row = dict[str, float]


class Meters:
    def __init__(self) -> None:
        self._names: list[str] = []
        self._waiting: list[tuple[int, Tensor]] = []

    def add(self, step: int, measured: Measured) -> None:
        """`measured`: this worker's share of the mean over all pictures."""
        self._names = ["loss", *measured.parts]
        self._waiting.append((step, torch.stack([measured.loss.detach(), *measured.parts.values()])))

    def read(self) -> dict[int, Row]:
        """Of every step since the last time, the mean over all pictures; all workers call it and get the same."""
        if not self._waiting:
            return {}
        steps, rows = zip(*self._waiting, strict=True)
        self._waiting = []
        table = torch.stack(rows).float()
        if world.size() > 1:
            dist.all_reduce(table)
            table /= world.size()
        named = (dict(zip(self._names, row, strict=True)) for row in table.tolist())
        return dict(zip(steps, named, strict=True))

    def forget(self) -> None:
        self._waiting = []


def mean_of(rows: list[Row]) -> Row:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}


def recent(rows: list[Row]) -> Row:
    """What was learnt since the last time that it was logged."""
    return {f"train/{name}": value for name, value in mean_of(rows).items()}


def used_gigabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
