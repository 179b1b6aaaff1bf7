"""Where a worker stands: its rank, its device, and how it talks to whoever launched it. Knows no engine."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch

Numbers = Mapping[str, float]


class Notice(IntEnum):
    """What whoever launched a worker lets it know."""

    NONE = 0
    CHANGE = 1
    """More workers may come, who go on from the last checkpoint: one at once, and on."""
    SOON = 2
    """The machine may go at any moment: the same."""
    STOP = 3
    """A checkpoint at once, and no further."""


def nothing(_: Numbers) -> None:
    pass


def unseen(step: int, found: Numbers) -> None:
    pass


def no_notice() -> Notice:
    return Notice.NONE


@dataclass(frozen=True)
class Place:
    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: default_device(0))
    report: Callable[[Numbers], None] = nothing
    """Called by every worker at the end of an epoch."""
    notice: Callable[[], Notice] = no_notice
    """Asked by every worker together, every few seconds; what one is told, all will know."""
    tell: Callable[[Numbers], None] = nothing
    """Called by every worker: how far it is."""
    see: Callable[[int, Numbers], None] = unseen
    """Called by the first worker: what is found of the run at a step whenever it is looked at."""
    is_over: Callable[[], bool] = lambda: False
    """Asked by a worker on its own: whether it is to stop."""


def default_device(local_rank: int) -> torch.device:
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def from_environment() -> Place:
    """Of a process that torchrun has started; its group is made here."""
    local = int(os.environ["LOCAL_RANK"])
    device = default_device(local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Place(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)
