"""Two steps and a look before a search begins: how long they take, and what there is to be searched for."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from mim_ray.evaluate.online import Onlooker
from mim_ray.run import Run
from mim_ray.training.job import Job
from mim_ray.training.pieces import pieces_that_fit
from mim_ray.training.place import Place
from mim_ray.training.schedule import planned
from mim_ray.training.step import Stepper
from mim_ray.training.worker import loader_for, usual_epoch

WARM, TIMED = 1, 2
ALWAYS = (
    "train/lr", "train/gradient_norm", "train/epoch", "speed/images_per_second", "speed/data_wait",
    "memory/gigabytes",
)  # fmt: skip
"""Logged of every run."""


class Rehearsal(NamedTuple):
    pictures: int
    """Of the set."""
    samples: int
    """Of those the ones that are learnt from, where only a few are."""
    step_seconds: float = 0.0
    look_seconds: float = 0.0
    metrics: Sequence[str] = ()

    def epoch(self, run: Run) -> int:
        """Samples of an epoch, of any run on the same set."""
        return run.data.samples_per_epoch or (self.pictures if usual_epoch(run) == "all" else self.samples)

    def steps(self, run: Run) -> int:
        return run.epochs * (self.epoch(run) // run.batch)


def rehearsed(job: Job, place: Place) -> dict[str, Any]:
    """On every worker, as a trial would be; nothing is kept. Where no epoch has such a batch: the sizes alone."""
    run = job.run
    small = loader_for(run.model_copy(update={"batch": place.world}), place)
    sizes = Rehearsal(len(small.beton), small.order.samples)
    if sizes.epoch(run) < run.batch:
        return sizes._asdict()
    loader = loader_for(run, place)
    plan = planned(run, loader.steps_per_epoch)
    stepper = Stepper(run, place, plan, pieces_that_fit(run, place))
    stepper.begin()
    seconds, names = [], []
    batches = loader.batches(0, WARM + TIMED)
    began = time.perf_counter()
    for batch in batches:
        measured = stepper(batch)
        float(measured.loss.detach())
        names = ["train/loss", *(f"train/{name}" for name in measured.parts), *ALWAYS]
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    found: dict[str, float] = {}
    if run.eval.every_epochs is not None:
        onlooker = Onlooker(run, place.device)
        with stepper.precision():
            found = onlooker.look(stepper.judged)
            began = time.perf_counter()
            onlooker.look(stepper.judged)  # the first one has decoded its pictures
    return sizes._replace(
        step_seconds=min(seconds[WARM:] or seconds),
        look_seconds=time.perf_counter() - began,
        metrics=[*found, *names],
    )._asdict()
