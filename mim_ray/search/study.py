"""Tune's searcher and schedulers, over what is remembered: they say what is tried, and when it is enough."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from mim_ray.scores import worth
from mim_ray.search.advice import Adviser
from mim_ray.search.losses import Losses
from mim_ray.search.memory import Look, Memory, Record
from mim_ray.search.plan import Plan, Search
from mim_ray.search.space import Space

TRIAL = "number"
"""What a trial of Tune's knows of itself."""

SCORE = "score"
"""The first metric, higher being better."""

FAR = 1e30
PROGRESS = ("step", "steps", "left")
"""What a trial tells of how far it is; `left`: seconds until its end, if nothing stops it."""

STOP_SECONDS = 180
"""How long a trial's process may take to end its run; Tune's own ten are less than a checkpoint may take."""


class Study(Searcher):  # type: ignore[misc]
    """Hands out the trials that are open, and then new ones; writes down whatever becomes of them."""

    def __init__(self, plan: Plan, space: Space, memory: Memory, adviser: Adviser | None, losses: Losses) -> None:
        """`adviser`: None where only those that are open are to be trained; `losses`: of the whole sitting."""
        super().__init__(metric=SCORE, mode="max")
        self._plan, self._space, self._memory, self._adviser = plan, space, memory, adviser
        self._losses = losses
        self._open = self._left()
        self._of: dict[str, Record] = {}
        self._before: dict[int, float] = {}
        """What earlier sittings trained of those."""
        self.progress: dict[int, dict[str, Any]] = {}
        """How far the running ones are."""
        self.news: list[Record] = []
        """Those of which something was learnt since somebody last looked here."""
        self.closing = False
        """Whether what ends now ends only for this time."""
        for record in memory:
            if adviser is not None and record.of is None:
                (adviser.again if record.is_open else adviser.end)(record)

    def record_of(self, trial_id: str) -> Record:
        return self._of[trial_id]

    @property
    def is_fruitless(self) -> bool:
        """Whether there is no use in going on now."""
        return self._losses.is_fruitless

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **_: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self.closing or self.is_fruitless:
            return Searcher.FINISHED
        if self._open:
            record = self._open.pop(0)
        elif self._adviser is not None and self._may_ask:
            draw = self._adviser.next(len(self._memory.records))
            record = self._memory.add(draw, self._space.words(draw))
        else:
            return Searcher.FINISHED
        record.state = "running"
        self._memory.keep(record)
        self._of[trial_id] = record
        self._before[record.number] = record.seconds
        return {TRIAL: record.number}

    @property
    def is_done(self) -> bool:
        return not self._left() and not self._may_ask

    def _left(self) -> list[Record]:
        """Those that have not ended, finalists' seeds only where nothing new is tried."""
        return [
            record for record in self._memory if record.is_open and (self._adviser is None or record.of is None)
        ]

    @property
    def _may_ask(self) -> bool:
        asked = sum(record.of is None for record in self._memory)
        return self._adviser is not None and asked < self._adviser.most

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        record = self._of[trial_id]
        self.progress[record.number] = {name: result[name] for name in PROGRESS if name in result}
        record.run_id = result.get("run_id") or record.run_id
        record.seconds = max(record.seconds, self._before[record.number] + result.get("seconds", 0.0))
        look = look_in(result)
        if look is not None and record.see(look):
            if record.has_learnt:
                record.losses = 0
                self._losses.learnt()
            self._memory.keep(record)
            self.news.append(record)
            if self._adviser is not None and record.of is None:
                self._adviser.see(record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        record = self._of[trial_id]
        if result is not None:
            self.on_trial_result(trial_id, result)
        over = (result or {}).get("over")
        if self.closing and over is None:
            return  # it goes on another time
        record.state = "lost" if error else over or "stopped"
        record.reason = (result or {}).get("reason") or ("its process was lost" if error else "")
        if record.state == "lost":
            self._losses.add(record, has_begun=bool((result or {}).get("begun")))
        else:
            self._losses.learnt()
        self._memory.keep(record)
        self.news.append(record)
        self.progress.pop(record.number, None)
        if self._adviser is not None and record.of is None:
            self._adviser.end(record)


def look_in(result: dict[str, Any]) -> Look | None:
    found = result.get("found")
    if found is None:  # Tune flattens what is nested
        found = {key.removeprefix("found/"): value for key, value in result.items() if key.startswith("found/")}
    return dict(found) or None


def score_of(search: Search, look: Look) -> float | None:
    """What is not a number is worse than all that is; what was found before the first step is nobody's merit."""
    metric = search.metric[0]
    if metric not in look or look["step"] == 0:
        return None
    value = worth(metric, look[metric])
    return value if math.isfinite(value) else -FAR


@dataclass(frozen=True)
class Remembered:
    """What stands for a trial of an earlier sitting."""

    trial_id: str


class Remembering(TrialScheduler):  # type: ignore[misc]
    """Mixed into a scheduler of Tune's: hears of looks alone, those of an earlier sitting among them."""

    study: Study
    search: Search

    def remember(self, study: Study, search: Search, records: Iterable[Record]) -> None:
        self.study, self.search = study, search
        for record in records:
            if not record.is_open and record.of is None:
                self._tell(Remembered(f"remembered-{record.number}"), record)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if hasattr(tune_controller, "_tune_controller"):
            tune_controller._tune_controller._actor_force_cleanup_timeout = STOP_SECONDS
        super().on_trial_add(tune_controller, trial)
        self._tell(trial, self.study.record_of(trial.trial_id), is_new=False)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if SCORE not in result:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if SCORE in result:
            super().on_trial_complete(tune_controller, trial, result)

    def _tell(self, trial: Any, record: Record, *, is_new: bool = True) -> None:
        if is_new:
            super().on_trial_add(None, trial)
        for look in record.looks:
            score = score_of(self.search, look)
            if score is not None:
                super().on_trial_result(None, trial, {SCORE: score, "look": look["look"]})


class Rungs(Remembering, AsyncHyperBandScheduler):  # type: ignore[misc]
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        return str(TrialScheduler.STOP) if result.get(SCORE, 0.0) <= -FAR else decision


class Median(Remembering, MedianStoppingRule):  # type: ignore[misc]
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Who has come to the last look is not stopped there."""
        decision, look = super().on_trial_result(tune_controller, trial, result), look_in(result)
        is_last = look is not None and look["step"] >= result.get("steps", math.inf)
        return str(TrialScheduler.CONTINUE) if is_last else decision

    def _tell(self, trial: Any, record: Record, *, is_new: bool = True) -> None:
        """Without a decision, of which there can be one only."""
        rows = [(score_of(self.search, look), look["look"]) for look in record.looks]
        known = [{SCORE: score, "look": look} for score, look in rows if score is not None]
        if known:
            self._results[trial] = known


class Patient(Remembering, FIFOScheduler):  # type: ignore[misc]
    pass


def scheduler_for(search: Search, study: Study, memory: Memory, *, judging: bool) -> Remembering:
    """`judging`: whether trials compete, as finalists do not."""
    scheduler: Remembering
    if search.scheduler == "asha" and judging and search.rungs:
        highest = search.reduction ** (search.rungs - 1) + 0.5  # it takes logarithms of it
        scheduler = Rungs(
            time_attr="look", metric=SCORE, mode="max", max_t=highest, grace_period=1,
            reduction_factor=search.reduction, stop_last_trials=False,
        )  # fmt: skip
    elif search.scheduler == "median" and judging:
        scheduler = Median(
            time_attr="look", metric=SCORE, mode="max", grace_period=1, min_samples_required=3,
            min_time_slice=math.inf,  # or trials would be paused for others
        )  # fmt: skip
    else:
        scheduler = Patient()
    scheduler.remember(study, search, memory)
    return scheduler
