"""A trial as Tune sees it: a small process on the head that has a run trained by a slot and tells of its looks."""

import logging
import time
from contextlib import ExitStack, suppress
from typing import Any

from ray import tune
from ray.exceptions import RayError

from mim_ray.cost import cost
from mim_ray.errors import Diverged, Failure, Mistake, Overtaken
from mim_ray.launch import begun, closed, entered
from mim_ray.run import Run
from mim_ray.scores import COST
from mim_ray.search.memory import Look, Record, State, known
from mim_ray.search.patience import patiently
from mim_ray.search.plan import Plan
from mim_ray.search.slot import Slot
from mim_ray.search.study import SCORE, TRIAL, score_of
from mim_ray.tracking.run import PARENT, children, delete_runs, end_run, tag_run
from mim_ray.training.best import steps_between_looks
from mim_ray.training.job import JOB, Job, job_of

logger = logging.getLogger("mim_ray")
ANSWER_SECONDS = 2.0
"""How long Tune waits for a word at most, so that it can stop a trial at any time."""

POLL_SECONDS = 0.1
SPACE_TAG, SEARCH_TAG, TRIAL_TAG, STATE_TAG = "mim_ray.space", "mim_ray.search", "mim_ray.trial", "mim_ray.state"


class Trial(tune.Trainable):  # type: ignore[misc]
    """With `reuse_actors` one of these has many trials, one after another, and one slot for them all."""

    def setup(self, config: dict[str, Any], plan: Plan) -> None:
        self._slot: Slot | None = None
        self._plan, self._search = plan, plan.search
        self._said: list[str] = []
        self._held = ExitStack()
        logger.addHandler(_Voice(self._said))
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Workers of a slot that does not answer leave as soon as they hear of it; others are waited for."""
        if not self._left():
            self._close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next look, the end, or only how far it is."""
        if self._refusal is not None:
            return self._row() | {"over": self._over, "reason": self._refusal, "done": True}
        assert self._slot is not None
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self._looks and time.monotonic() < deadline:
            if self._result is not None:
                return self._ended(self._result)
            self._listen(self._slot)
            time.sleep(POLL_SECONDS)
        found = {} if not self._looks else self._found(*self._looks.pop(0))
        return self._row() | found

    def cleanup(self) -> None:
        self._left()
        self._close()
        self._held.close()

    def _begin(self, config: dict[str, Any]) -> None:
        folder = self._plan.folder
        self._looks: list[tuple[int, dict[str, float]]] = []
        self._numbers: dict[str, float] = {}
        self._since, self._from = 0.0, 0.0
        self._result: dict[str, Any] | None = None
        self._is_told = self._has_begun = False
        self._refusal: str | None = None
        self._over: State = "lost"
        self._job: Job | None = None
        try:
            record = known(folder, config[TRIAL])
            self._job = patiently(lambda: self._taken(record))
            run = self._job.run
            self._costs = costs_of(run)
            if self._slot is not None and self._slot.has_left:
                self._close()
            if self._slot is None:
                self._slot = Slot(run, folder)
            self._slot.begin(self._job, max((int(look["step"]) for look in record.looks), default=-1))
            self._tag("running")
        except (Mistake, Failure, OSError) as trouble:  # another sitting may have more luck
            self._refusal = str(trouble)

    def _taken(self, record: Record) -> Job:
        """The run of a trial, which nobody else may train meanwhile: a driver that was given up soon lets go."""
        self._held.close()
        name = record.name(self._plan.name)
        try:
            folder = self._plan.runs.below(name)
            self._held.enter_context(folder.held(f"{name} is being trained by another process"))
        except Mistake as busy:
            raise Failure(str(busy)) from None
        return job_of_trial(self._plan, record)

    def _listen(self, slot: Slot) -> None:
        try:
            news = slot.news()
        except Failure as gone:
            self._result, self._refusal = {}, str(gone)
            self._tag(self._over, "FAILED")
            return
        self._said.extend(news.said)
        if news.numbers and not self._numbers:
            self._since, self._from = time.monotonic(), news.numbers["step"]
        self._numbers = news.numbers or self._numbers
        self._has_begun = bool(self._numbers)
        self._result = news.result
        self._looks += news.looks
        if news.refusal is not None:
            kind, self._refusal = news.refusal
            self._result, self._over = {}, "failed" if kind == Diverged.__name__ else "lost"
            self._has_begun = self._has_begun or kind == Mistake.__name__  # of the trial, and not of the world
            if kind != Overtaken.__name__:  # or it is another's to tell of
                self._tag(self._over, "FAILED")

    def _ended(self, result: dict[str, Any]) -> dict[str, Any]:
        """The row of the end; what was found at the last step comes with it."""
        if self._refusal is not None:
            return self._row() | {"over": self._over, "reason": self._refusal, "done": True}
        assert self._job is not None
        self._is_told = True
        closed(self._job, result)
        if not result["finished"]:  # someone else stopped it
            return self._row() | {"done": True}
        self._tag("finished")
        return self._row() | self._found(result["steps"], result["metrics"]) | {"over": "finished", "done": True}

    def _found(self, step: int, found: dict[str, float]) -> dict[str, Any]:
        assert self._job is not None
        run = self._job.run
        steps_per_epoch = self._numbers.get("steps", run.epochs) / run.epochs
        between = steps_between_looks(run, max(1, round(steps_per_epoch))) or max(1, step)
        look: Look = {"look": step // between, "step": step, "epoch": step / steps_per_epoch, **found}
        look |= self._costs
        score = score_of(self._search, look)
        return {"found": look, "look": look["look"]} | ({} if score is None else {SCORE: score})

    def _row(self) -> dict[str, Any]:
        said = [self._said.pop(0) for _ in range(len(self._said))]
        row: dict[str, Any] = {name: self._numbers[name] for name in ("step", "steps") if name in self._numbers}
        row["seconds"] = time.monotonic() - self._since if self._numbers else 0.0
        if self._numbers and (made := row["step"] - self._from) > 0:
            row["left"] = row["seconds"] / made * (row["steps"] - row["step"])
        run_id = self._job and self._job.run_id
        return {**row, "look": -1, "said": said, "run_id": run_id, "begun": self._has_begun}

    def _left(self) -> bool:
        """Whether the slot is free: a run that goes on is stopped after a checkpoint."""
        if self._slot is None or self._refusal is not None:
            return self._refusal is not None
        if self._result is not None:
            if not self._is_told:  # it came to its end while somebody decided to stop it
                self._tag("stopped")
            return True
        with suppress(Failure, RayError):
            result = self._slot.stop()
            if result is not None:
                self._tag("stopped")
                return True
        self._tag("stopped", "KILLED")
        return False

    def _close(self) -> None:
        if self._slot is not None:
            with suppress(Failure, RayError):
                self._slot.close()
            self._slot = None

    def _tag(self, state: str, status: Any = None) -> None:
        """For MLflow, which need not be there; `status`: where the run itself could not say how it ended."""
        if self._job is None or self._job.tracking_uri is None or self._job.run_id is None:
            return
        with suppress(Failure):
            tag_run(self._job.tracking_uri, self._job.run_id, {STATE_TAG: state})
            if status is not None:
                end_run(self._job.tracking_uri, self._job.run_id, status)


class _Voice(logging.Handler):
    """Keeps the warnings of this process for whoever launched the search."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())


def costs_of(run: Run) -> dict[str, float]:
    """As a metric, what is known before anything is trained."""
    found = cost(run)
    return dict(zip(COST, (found.flops / 1e9, float(found.parameters)), strict=True))


def job_of_trial(plan: Plan, record: Record) -> Job:
    """As it was left, or a new one; a run that MLflow knows and that has no folder yet was only half made."""
    method, words = plan.of_trial(record)
    folder = plan.runs.below(words["name"])
    uri = plan.uri
    if folder.has(JOB):
        job = job_of(folder.read(JOB))
        here = {**job.overrides, **plan.share, "storage": words["storage"]}  # it may have been moved
        return entered(job._replace(overrides=here, tracking_uri=uri), {})
    job = begun(method, words, False, "auto")._replace(tracking_uri=uri)
    if uri is None or plan.run_id is None:
        return entered(job, {})
    tags = {
        PARENT: plan.run_id,
        SPACE_TAG: plan.space,
        SEARCH_TAG: plan.name,
        TRIAL_TAG: str(record.number),
    }
    delete_runs(uri, children(uri, plan.run_id, {TRIAL_TAG: str(record.number)}))
    return entered(job, tags)
