"""What is kept of a run while it goes on: metrics and checkpoints."""

import logging
import math
import time
from functools import cached_property
from importlib.metadata import version
from typing import Any

from mim_ray import world
from mim_ray.data.loader import Loader
from mim_ray.errors import Failure, Mistake, Overtaken
from mim_ray.evaluate.online import Onlooker, alarms
from mim_ray.fence import Fence
from mim_ray.run import Run
from mim_ray.tracking.spool import Record
from mim_ray.training.best import Best, bettered, measure_of, remembered, steps_between_looks, waited_enough
from mim_ray.training.checkpoint import Checkpoints, Snapshot, Torn, Writer, name_of
from mim_ray.training.job import CHECKPOINTS, Job
from mim_ray.training.listener import Listener
from mim_ray.training.meters import Meters, Row, mean_of, recent, used_gigabytes
from mim_ray.training.pieces import pieces_as_before
from mim_ray.training.place import Notice, Place
from mim_ray.training.reporter import Reporter
from mim_ray.training.schedule import Plan
from mim_ray.training.skips import NotFinite, Skips
from mim_ray.training.step import Stepper
from mim_ray.views import Measured

logger = logging.getLogger("mim_ray.training")
PATIENCE_SECONDS = 120.0
"""How long the end of a run waits for an MLflow that cannot be reached."""

SHORT_PATIENCE_SECONDS = 15.0
"""The same for a run that is asked to stop: whoever asked waits."""


class Stopped(Exception):
    """Someone asked for the end; the checkpoint is written."""


class Logbook:
    def __init__(self, job: Job, run: Run, place: Place, plan: Plan, loader: Loader) -> None:
        self.job, self.run, self.place, self.plan, self.loader = job, run, place, plan, loader
        fence = Fence(job.folder)
        self.checkpoints = Checkpoints(job.folder.below(CHECKPOINTS), run.checkpoint.keep, fence)
        self.reporter = Reporter(job, run, place, loader.beton, fence)
        self.writer = Writer(self.checkpoints, self.reporter.checkpoint)
        self.listener = Listener(place)
        self.onlooker = Onlooker(run, place.device)
        self.meters = Meters()
        self.window: list[Row] = []
        self.skips = Skips(job, loader, self.reporter)
        self.last: Row = {}
        self._seen: Row = {}
        self._seen_at = 0
        self.best: Best | None = None
        self._heeded = Notice.NONE
        self._carried: list[Record] = []
        self._saved, self._saved_at = -1, time.monotonic()
        self._began, self._began_waiting, self._began_at = time.monotonic(), 0.0, 0

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        """A run that ends by an exception keeps nothing going in a process that goes on; MLflow hears what led to
        it, unless the run is another's by now or somebody cannot wait."""
        if isinstance(error, Exception) and not isinstance(error, Overtaken):
            self.reporter.close(None, SHORT_PATIENCE_SECONDS)
        elif error is not None:
            self.reporter.leave()

    def restore(self, stepper: Stepper) -> int:
        """The newest whole checkpoint into the stepper, or else a first one; how many steps are done."""
        snapshot = self._newest()
        self.meters.forget()
        self.window, done = [], 0
        if snapshot is not None:
            self._check_kin(snapshot)
            try:
                stepper.load(snapshot.weights, snapshot.optimiser)
            except Failure as failure:
                raise Failure(f"{self.checkpoints.folder.url}/{snapshot.name}: {failure}") from None
            self.window, done = snapshot.state["window"], snapshot.step
            self.skips.restore(snapshot.state)
            self._carried = snapshot.state["pending"]
            if (best := snapshot.state["best"]) is not None:
                self.best = remembered(best, self._measure)
            self._seen, self.last = snapshot.state["seen"], snapshot.state["last"]
            self._seen_at = snapshot.state["seen_at"]
            self._saved = done
            stepper.bf16 = snapshot.state["bf16"]
            if snapshot.state["workers"] == self.place.world:
                stepper.pieces = pieces_as_before(self.run, self.place, snapshot.state["pieces"], stepper.pieces)
            found = None if self.best is None else self.checkpoints.folder.below(name_of(self.best.step))
            self.reporter.go_on(snapshot.state["sent"], found)
        self.reporter.open(self._carried)
        if snapshot is None:
            stepper.begin()
            self._save(stepper, 0, at_once=True)
        self.writer.step = done
        self.reporter.progress(done, self.plan.steps, done, {})
        if self._seen_at and self.place.rank == 0:
            self.place.see(self._seen_at, self.last)
        if done == 0 and self.run.eval.every_epochs is not None:
            self._look(stepper, 0)
        self._start_watch(done)
        self.listener.begin(done)
        return done

    def is_over(self, done: int) -> bool:
        """Whether the last step is done, or nothing better is waited for."""
        return done == self.plan.steps or waited_enough(self.best, self.run, self.plan.steps_per_epoch, done)

    def reads(self, done: int) -> bool:
        """Whether the losses up to this step are read for what is done after it: the same on every worker."""
        every = self.run.checkpoint.every_steps
        return (
            done % self.run.tracking.every_steps == 0
            or self._looks(done)
            or (every is not None and done % every == 0)
            or done == self.plan.steps
        )

    def after(self, stepper: Stepper, done: int, measured: Measured | None) -> None:
        """`measured`: of the step before; None where it was skipped."""
        if measured is not None:
            self.meters.add(done - 1, measured)
        if not self.reads(done) and not self.listener.is_due(done):
            return
        for step, row in self.meters.read().items():
            if not all(map(math.isfinite, row.values())):
                raise NotFinite(step)
            self.window.append(row)
        if done == self.plan.steps and not stepper.is_finite():
            raise NotFinite(done)  # the last update spoiled them, and no loss comes after it
        if done % self.run.tracking.every_steps == 0 or done == self.plan.steps:
            self._log(stepper, done)
        if self._looks(done):
            self._look(stepper, done)
        notice = self.listener.hear(done)
        urgent = notice > self._heeded and self._saved != done
        self._heeded = notice
        if urgent or self._is_due(done) or (self.best and self.best.step == done):
            self._save(stepper, done, at_once=urgent)
        if notice == Notice.STOP or (self.is_over(done) and done < self.plan.steps):
            raise Stopped(done)
        if done % max(self.plan.steps_per_epoch, self.run.tracking.every_steps) == 0:
            self.place.report({"step": done, **self.last})

    def rewind(self, stepper: Stepper, bad: int) -> int:
        """Back to the last checkpoint; the step whose loss was not finite, and the one before it, are left out."""
        self.skips.add(bad)
        self.writer.wait()
        return self.restore(stepper)

    def end(self, stepper: Stepper, done: int) -> dict[str, Any]:
        """The last checkpoint, and everything to MLflow."""
        if self._saved != done:
            self._save(stepper, done, at_once=True)
        self.writer.insist("last")
        if self.place.rank != 0:
            return {}
        self.reporter.catch_up()
        name, finished = name_of(done), self.is_over(done)
        if finished and done < self.plan.steps:
            words = f"no better {self.run.checkpoint.best} in {self.run.eval.patience} looks"
            logger.warning("the run ends at step %d of %d: %s", done, self.plan.steps, words)
        if finished and done:
            self.reporter.last(self.checkpoints.folder.below(name), done)
        unsent = self.reporter.close(
            "FINISHED" if finished else "KILLED", PATIENCE_SECONDS if finished else SHORT_PATIENCE_SECONDS
        )
        best = None if self.best is None else name_of(self.best.step)
        has_best = best is not None and best in self.checkpoints.names()
        return {
            "checkpoint": f"{self.checkpoints.folder.url}/{name}",
            "weights_sha256": self.checkpoints.checksum(name),
            "unsent": unsent,
            "finished": finished,
            "digest": self.reporter.digest,
            **({"best": f"{self.checkpoints.folder.url}/{best}"} if has_best else {}),
        }

    def _check_kin(self, snapshot: Snapshot) -> None:
        """Weights of another method may have the same names and shapes."""
        state, place = snapshot.state, f"{self.checkpoints.folder.url}/{snapshot.name}"
        if Job(state["method"], state["overrides"]).sentence != self.job.sentence:
            raise Mistake(f"{place} is of another method ({state['method']}, of {state['name']}): remove it")
        if state["dataset"] != self.loader.beton.checksum:
            raise Mistake(f"{place} is of other pictures than {self.run.data.train} holds now: bring them back")

    def _newest(self) -> Snapshot | None:
        """The first worker chooses, so that all of them go on from the same step."""
        newest = self.checkpoints.begin() if self.place.rank == 0 else None
        name = world.gathered_objects(newest.name if newest else None)[0]
        if name is None or newest is not None:
            return newest
        try:
            return self.checkpoints.read(name)
        except Torn as torn:
            raise Failure(
                f"{self.checkpoints.folder.url}/{name} cannot be read here ({torn}): is storage= a folder "
                "that every machine of the cluster sees?"
            ) from None

    def _is_due(self, done: int) -> bool:
        every, minutes = self.run.checkpoint.every_steps, self.run.checkpoint.every_minutes
        by_time = minutes is not None and time.monotonic() - self._saved_at > 60 * minutes
        return self.is_over(done) or by_time or (every is not None and done % every == 0)

    def _save(self, stepper: Stepper, done: int, *, at_once: bool) -> None:
        """By the first worker alone: all of them are the same."""
        self._saved, self._saved_at = done, time.monotonic()
        if self.place.rank != 0:
            return
        self.writer.wait()
        weights, optimiser = stepper.tensors()
        state = {
            "name": self.run.name,
            "method": self.job.method,
            "overrides": dict(self.job.overrides),
            "skipped": sorted(self.skips.steps),
            "rewinds": self.skips.rewinds,
            "window": list(self.window),  # it goes on to grow while this is written
            "pending": self.reporter.pending(),
            "best": self.best,
            "sent": self.reporter.sent(),
            "seen": self._seen,
            "seen_at": self._seen_at,
            "last": dict(self.last),
            "pieces": stepper.pieces,
            "workers": self.place.world,
            "bf16": stepper.bf16,
            "dataset": self.loader.beton.checksum,
            "versions": {name: version(name) for name in ("mim_ray", "torch")},
        }
        self.writer.write(Snapshot(done, weights, optimiser, state))
        if done == 0:
            self.writer.insist("first")
        elif at_once:
            self.writer.wait()

    def _log(self, stepper: Stepper, done: int) -> None:
        row, self.window = mean_of(self.window), []
        seconds = time.monotonic() - self._began
        self.last = {f"train/{name}": value for name, value in row.items()} | {
            "train/lr": float(self.plan.lr[done - 1]),
            "train/gradient_norm": float(stepper.norm),
            "train/epoch": done / self.plan.steps_per_epoch,
            "speed/images_per_second": (done - self._began_at) * self.run.batch / seconds,
            "speed/data_wait": max(0.0, self.loader.waited_seconds - self._began_waiting) / seconds,
            "memory/gigabytes": used_gigabytes(self.place.device),
        }
        self.reporter.numbers(done, self.last | self.reporter.system())
        self.reporter.progress(done, self.plan.steps, self.writer.step, self.last)
        self.last |= self._seen
        self._start_watch(done)

    @cached_property
    def _measure(self) -> str:
        return measure_of(self.run, self.onlooker.val_checksum)

    def _looks(self, done: int) -> bool:
        """Whether the run is looked at after this step."""
        between = steps_between_looks(self.run, self.plan.steps_per_epoch)
        return between is not None and (done == self.plan.steps or done % between == 0)

    def _look(self, stepper: Stepper, done: int) -> None:
        began = time.monotonic()
        with stepper.precision():
            self._seen, self._seen_at = self.onlooker.look(stepper.judged), done
        self.last |= self._seen
        if self.place.rank == 0:
            for words in alarms(self._seen):
                logger.warning("step %d: %s", done, words)
            self.reporter.numbers(done, self._seen)
            self.place.see(done, self.last | recent(self.window))
            if self.onlooker.verdict is not None:
                self.reporter.verdict(self.onlooker.verdict, self.run)
            if self.run.eval.pictures:
                self.reporter.picture(done, "views", lambda path: self.onlooker.draw(stepper.judged, path))
        if done:
            self.best = bettered(self.best, self.run, self.last, done, self._measure)
        self._began += time.monotonic() - began

    def _start_watch(self, done: int) -> None:
        self._began, self._began_at, self._began_waiting = time.monotonic(), done, self.loader.waited_seconds
