"""A process of the tests: works on a job as one rank and writes what it found beside the job."""

import json
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from mim_ray.training import listener
from mim_ray.training.job import job_of
from mim_ray.training.place import Notice, Numbers, Place
from mim_ray.training.worker import work

NEVER = 1 << 30
Act = Callable[[], None]
"""Of a module's top level, for it travels to another process by its name."""


def nothing() -> None:
    pass


class Part(NamedTuple):
    job: Path
    rank: int
    world: int
    store: Path
    die_at: int = NEVER
    """After logging this step the process kills itself, as the kernel would."""
    stop_at: int = NEVER
    """From this step on it is asked to stop."""
    prepare: Act = nothing
    """Done before anything else."""
    at: Mapping[int, Act] = {}
    """Done after logging these steps."""

    @property
    def found(self) -> Path:
        return self.job.with_suffix(f".{self.rank}.json")

    @property
    def said(self) -> Path:
        return self.job.with_suffix(f".{self.rank}.said")


def take(part: Part) -> None:
    with part.said.open("w") as said:
        os.dup2(said.fileno(), 2)
    torch.set_num_threads(1)
    listener.EVERY_SECONDS = 0.0
    part.prepare()
    if part.world > 1:
        place, patience = f"file://{part.store}", timedelta(seconds=90)
        dist.init_process_group("gloo", place, patience, part.world, part.rank)
    history: list[dict[str, float]] = []

    def tell(numbers: Numbers) -> None:
        history.append(dict(numbers))
        if len(numbers) <= 2:  # where it begins, not a step
            return
        part.at.get(int(numbers["step"]), nothing)()
        if int(numbers["step"]) == part.die_at:
            os.kill(os.getpid(), 9)

    def notice() -> Notice:
        asked = bool(history) and history[-1]["step"] >= part.stop_at
        return Notice.STOP if asked else Notice.NONE

    here = Place(part.rank, part.world, torch.device("cpu"), tell=tell, notice=notice)
    result = work(job_of(part.job.read_bytes()), here)
    part.found.write_text(json.dumps({"result": result, "history": history}))
    if part.world > 1:
        dist.destroy_process_group()
