"""Runs that train by turns: each waits, in a process of its own, until `train_bench` tells it to go on.

The words that go to and fro are files in the run's storage.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mim_ray.data.loader import Batch
from mim_ray.run import Run
from mim_ray.training.job import Job, job_of
from mim_ray.training.place import Notice, Place, from_environment
from mim_ray.training.schedule import Plan, planned
from mim_ray.training.step import Stepper, Tensors
from mim_ray.training.worker import loader_for, work
from mim_ray.views import Measured

STEPS = 40
"""Of a turn."""

LOOK_SECONDS = 0.002
PATIENCE_SECONDS = 600.0
"""How long a run waits for its turn before it takes the benchmark for dead."""

FOLDER, STOP, STEPPED = "turns", "stop", "stepped"
TAKEN = "taken"
"""Beside the weights of a checkpoint: a row of each step that they have taken, its number and its samples."""


class Turns:
    """Between two turns of a run its first worker waits, where it tells what the turn has taken, and the others
    for it."""

    def __init__(self, run: Run, place: Place) -> None:
        self._folder, self._place = Path(run.storage) / FOLDER, place
        self._turn, self._began = 0, 0.0

    def notice(self) -> Notice:
        return Notice.STOP if (self._folder / STOP).exists() else self._place.notice()

    def wait(self) -> None:
        """Writes down what the turn has taken, and waits for the next go or the end."""
        aside = self._folder / "seconds.part"
        aside.write_text(str(time.perf_counter() - self._began))
        aside.replace(self._folder / f"seconds-{self._turn}")
        self._turn += 1
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (self._folder / f"go-{self._turn}").exists():
            if time.monotonic() > deadline:
                (self._folder / STOP).touch()
            if (self._folder / STOP).exists():
                return
            time.sleep(LOOK_SECONDS)
        self._began = time.perf_counter()


class InTurn(Stepper):
    """Waits after the last step of a turn, before anything of it is read, logged or saved: with that the next turn
    begins, so what is sent or written in the background goes on beside steps that count."""

    def __init__(self, run: Run, place: Place, plan: Plan, pieces: int) -> None:
        super().__init__(run, place, plan, pieces)
        self._turns = Turns(run, place)

    def __call__(self, batch: Batch, *, norm: bool = False) -> Measured:
        measured = super().__call__(batch, norm=norm)
        if self.place.rank == 0 and (batch.step + 1) % STEPS == 0:
            measured.loss.item()
            self._turns.wait()
        return measured


class Recorded(Stepper):
    """Its weights take with them, into every checkpoint, which samples they were trained on at which step."""

    def __init__(self, run: Run, place: Place, plan: Plan, pieces: int) -> None:
        super().__init__(run, place, plan, pieces)
        self._taken = torch.empty(0, 1 + run.batch, dtype=torch.int64)

    def __call__(self, batch: Batch, *, norm: bool = False) -> Measured:
        measured = super().__call__(batch, norm=norm)
        row = torch.cat([torch.tensor([batch.step]), batch.samples.cpu()])
        self._taken = torch.cat([self._taken, row[None]])
        with (Path(self.run.storage) / STEPPED).open("a") as file:
            file.write(f"{batch.step}\n")
        return measured

    def tensors(self) -> tuple[Tensors, Tensors]:
        weights, optimiser = super().tensors()
        return weights | {TAKEN: self._taken}, optimiser

    def load(self, weights: Tensors, optimiser: Tensors) -> None:
        own = dict(weights)
        self._taken = own.pop(TAKEN)
        super().load(own, optimiser)


def by_turns(job: Job, place: Place) -> dict[str, Any]:
    """The whole loop: loader, losses, journal, checkpoints."""
    return work(job, replace(place, notice=Turns(job.run, place).notice), InTurn)


def bare(job: Job) -> None:
    """A model, an optimiser, and one batch that stays in memory."""
    run, place = job.run, Place()
    loader = loader_for(run, place)
    stepper = Stepper(run, place, planned(run, loader.steps_per_epoch), pieces=1)
    batch = next(loader.batches(0, 1))
    batch = batch._replace(crops=tuple(crop.clone() for crop in batch.crops))
    turns = Turns(run, place)
    turns.wait()
    while turns.notice() != Notice.STOP:
        for _ in range(STEPS):
            loss = stepper(batch).loss
        loss.item()
        turns.wait()


def main(path: str, how: str) -> None:
    """What such a process does."""
    job = job_of(Path(path).read_bytes())
    match how:
        case "ray":
            from mim_ray.ray_train import connected, on_ray

            with connected(None):
                on_ray(job, by_turns)
        case "processes":
            by_turns(job, from_environment())
        case "process":
            by_turns(job, Place())
        case "bare":
            bare(job)
        case "recorded":
            work(job, Place(), Recorded)
        case _:
            raise ValueError(how)
