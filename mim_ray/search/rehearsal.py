"""Two steps and a look before a search begins: how long they take, and what there is to be searched for."""

import time
from typing import Any, NamedTuple

from mim_ray.evaluate.online import Onlooker
from mim_ray.training.job import Job
from mim_ray.training.pieces import pieces_that_fit
from mim_ray.training.place import Place
from mim_ray.training.schedule import planned
from mim_ray.training.step import Stepper
from mim_ray.training.worker import loader_for

WARM, TIMED = 1, 2
ALWAYS = (
    "train/lr", "train/gradient_norm", "train/epoch", "speed/images_per_second", "speed/data_wait",
    "memory/gigabytes",
)  # fmt: skip
"""Logged of every run."""


class Rehearsal(NamedTuple):
    steps_per_epoch: int
    step_seconds: float
    look_seconds: float
    metrics: list[str]


def rehearsed(job: Job, place: Place) -> dict[str, Any]:
    """On every worker, as a trial would be; nothing is kept."""
    run = job.run
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
    return Rehearsal(
        loader.steps_per_epoch,
        min(seconds[WARM:] or seconds),
        time.perf_counter() - began,
        [*found, *names],
    )._asdict()
