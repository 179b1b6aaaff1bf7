"""A run on one worker: build, restore, and the loop. It knows neither Ray nor where MLflow is."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import torch

from mim_ray.data.loader import Loader
from mim_ray.data.subset import Subset
from mim_ray.encoders.target import Labels
from mim_ray.errors import Mistake
from mim_ray.memory import keep_what_is_freed
from mim_ray.run import Run
from mim_ray.training.job import Job
from mim_ray.training.logbook import Logbook, Stopped
from mim_ray.training.pieces import pieces_that_fit
from mim_ray.training.place import Place
from mim_ray.training.schedule import planned, warn_of_warm_up
from mim_ray.training.skips import NotFinite
from mim_ray.training.step import Stepper

Task = Callable[[Job, Place], dict[str, Any]]
"""What a worker does with a job; what comes back is JSON."""


def work(job: Job, place: Place, stepper_of: type[Stepper] = Stepper) -> dict[str, Any]:
    """Trains on from wherever the run's folder says it is; what comes back is JSON."""
    run = job.run
    if place.device.type == "cpu":
        keep_what_is_freed()
    loader = loader_for(run, place)
    plan = planned(run, loader.steps_per_epoch)
    if place.rank == 0:
        warn_of_warm_up(run, plan)
    stepper = stepper_of(run, place, plan, pieces_that_fit(run, place))
    logbook = Logbook(job, run, place, plan, loader)
    if place.world > 2:
        stepper.settle(next(loader.batches(0, 1)))
    with logbook:
        first = done = logbook.restore(stepper)
        if place.rank == 0:
            job.keep()
        began = time.perf_counter()
        with suppress(Stopped):
            while not logbook.is_over(done):
                try:
                    for batch in loader.batches(done, plan.steps):
                        measured = None
                        if batch.step not in logbook.skips.steps:
                            measured = stepper(batch, norm=logbook.reads(batch.step + 1))
                        done = batch.step + 1
                        logbook.after(stepper, done, measured)
                except NotFinite as spoiled:
                    done = logbook.rewind(stepper, spoiled.step)
        seconds = time.perf_counter() - began
        return {
            **logbook.end(stepper, done),
            "steps": done,
            "images_per_second": round((done - first) * run.batch / seconds, 1),
            "metrics": logbook.last,
        }


def usual_epoch(run: Run) -> Literal["all"] | None:
    """Of few pictures as of all, but where their labels are learnt."""
    has_few = run.data.few != Subset()
    return "all" if has_few and not isinstance(run.method.target, Labels) else None


def loader_for(run: Run, place: Place) -> Loader:
    if run.data.train is None:
        raise Mistake("data.train=none: expected a beton (mim-ray data import makes one), or a sample: set")
    return Loader(
        run.data.train,
        batch=run.batch,
        crop=run.data.crop,
        views=run.method.crops,
        seed=run.seed,
        rank=place.rank,
        world=place.world,
        samples_per_epoch=run.data.samples_per_epoch or usual_epoch(run),
        device=place.device,
        backend=run.data.backend,
        threads=run.data.threads or max(1, torch.get_num_threads() - 1),
        ahead=run.data.ahead,
        stage=run.data.stage,
        subset=run.data.few,
    )
