"""Runs that train by turns: each waits, in a process of its own, until `train_bench` tells it to go on.

The words that go to and fro are files in the run's storage.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mim_ray.data.loader import Batch
from mim_ray.training.job import Job, job_of
from mim_ray.training.place import Notice, Numbers, Place, from_environment
from mim_ray.training.schedule import planned
from mim_ray.training.step import Stepper
from mim_ray.training.worker import loader_for, work
from mim_ray.views import Measured

STEPS = 20
"""Of a turn."""

LOOK_SECONDS = 0.002
PATIENCE_SECONDS = 600.0
"""How long a run waits for its turn before it takes the benchmark for dead."""

FOLDER, STOP, TRAINED = "turns", "stop", "trained.jsonl"


class Turns:
    """Between two turns of a run its first worker waits, where it tells how far it is, and the others for it."""

    def __init__(self, job: Job, place: Place) -> None:
        self._folder, self._place = Path(job.run.storage) / FOLDER, place
        self._turn, self._began = 0, 0.0

    def tell(self, numbers: Numbers) -> None:
        self._place.tell(numbers)
        if self._place.rank == 0 and numbers["step"] % STEPS == 0:
            self.wait()

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


class Recorded(Stepper):
    """Writes down which samples it was given at which step."""

    def __call__(self, batch: Batch, *, norm: bool = False) -> Measured:
        measured = super().__call__(batch, norm=norm)
        with self.trained.open("a") as file:
            file.write(json.dumps([batch.step, batch.samples.tolist()]) + "\n")
        return measured

    @property
    def trained(self) -> Path:
        return Path(self.run.storage) / TRAINED


def by_turns(job: Job, place: Place) -> dict[str, Any]:
    """The whole loop: loader, losses, journal, checkpoints."""
    turns = Turns(job, place)
    return work(job, replace(place, tell=turns.tell, notice=turns.notice))


def bare(job: Job) -> None:
    """A model, an optimiser, and one batch that stays in memory."""
    run, place = job.run, Place()
    loader = loader_for(run, place)
    stepper = Stepper(run, place, planned(run, loader.steps_per_epoch), pieces=1)
    batch = next(loader.batches(0, 1))
    batch = batch._replace(crops=tuple(crop.clone() for crop in batch.crops))
    turns = Turns(job, place)
    turns.wait()
    while turns.notice() != Notice.STOP:
        for _ in range(STEPS):
            loss = stepper(batch).loss
        float(loss)
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
