"""What to try next: Optuna, told of everything that is remembered. The door to Optuna's samplers."""

import math
import warnings
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from mim_ray.scores import is_higher_better
from mim_ray.search.memory import Look, Record
from mim_ray.search.plan import Search
from mim_ray.search.points import every, grid
from mim_ray.search.space import Space

FIRST = 10
"""Trials at random before TPE has enough to learn from; fewer in a short search."""


class Adviser:
    """The same memory and seed give the same advice."""

    def __init__(self, search: Search, space: Space, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._search, self._space, self._seed = search, space, seed
        self._is_grid = search.searcher == "grid"
        self._every = grid(space, search.points) if self._is_grid else every(space)
        self._tried: list[dict[str, str]] = []
        self.study = optuna.create_study(directions=directions(search))
        self._open: dict[int, Trial] = {}

    @property
    def most(self) -> int:
        """Trials that make sense: where there are few different ones none is made twice."""
        return min(self._search.trials, len(self._every) or self._search.trials)

    def next(self, number: int) -> dict[str, Any]:
        """A draw for the trial of this number."""
        untried = [draw for draw in self._every if self._space.words(draw) not in self._tried]
        if untried and self._is_grid:
            self.study.enqueue_trial(untried[0])
        trial = self._asked(number)
        if untried and self._space.words(trial.params) in self._tried:
            self.study.tell(trial, state=TrialState.FAIL)
            chance = np.random.default_rng([self._seed, number])
            self.study.enqueue_trial(untried[chance.integers(len(untried))])
            trial = self._asked(number)
        self._tried.append(self._space.words(trial.params))
        return dict(trial.params)

    def again(self, record: Record) -> None:
        """One that goes on, which Optuna had forgotten."""
        self._tried.append(record.words)
        self.study.enqueue_trial(record.draw)
        trial = self._asked(record.number)
        for look in record.looks:
            self._report(trial, look)

    def see(self, record: Record) -> None:
        """Its newest look."""
        if record.number in self._open and record.looks:
            self._report(self._open[record.number], record.looks[-1])

    def end(self, record: Record) -> None:
        trial = self._open.pop(record.number, None)
        if trial is None:
            self._tried.append(record.words)
            self.study.add_trial(frozen(record, self._search, self._space))
            return
        values = values_of(record, self._search)
        state = state_of(record, self._search)
        if record.state == "failed":  # what it was worth on the way says nothing good of it
            self.study.tell(trial, state=TrialState.FAIL)
            self.study.add_trial(frozen(record, self._search, self._space))
        else:
            self.study.tell(trial, values if state == TrialState.COMPLETE else None, state=state)

    def _asked(self, number: int) -> Trial:
        self.study.sampler = self._sampler(number)
        trial = self._open[number] = self.study.ask()
        for name in self._space.in_order():
            if self._space.exists(name, trial.params):
                _suggested(trial, name, self._space.domains[name])
        return trial

    def _sampler(self, number: int) -> BaseSampler:
        """Anew for each trial, so that a search that goes on draws as one that was never stopped."""
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        if self._search.searcher != "optuna":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(
                seed=seed, n_startup_trials=min(FIRST, max(2, self._search.trials // 4)), constant_liar=True
            )

    def _report(self, trial: Trial, look: dict[str, float]) -> None:
        metric = self._search.metric[0]
        if len(self._search.metric) == 1 and math.isfinite(look.get(metric, math.nan)):
            trial.report(look[metric], _how_far(look))


def _suggested(trial: Trial, name: str, domain: BaseDistribution) -> None:
    match domain:
        case CategoricalDistribution():
            trial.suggest_categorical(name, domain.choices)
        case FloatDistribution():
            trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
        case IntDistribution():
            trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)


def _how_far(look: Look) -> int:
    """TPE sorts what is pruned by it first; steps, whose number follows the batch, would put one over another."""
    return round(1000 * look["epoch"])


def directions(search: Search) -> list[StudyDirection]:
    high, low = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    return [high if is_higher_better(metric) else low for metric in search.metric]


def values_of(record: Record, search: Search) -> list[float] | None:
    """The newest of each metric; None if one is not known."""
    values = [value for metric in search.metric if (value := record.last(metric)) is not None]
    return values if len(values) == len(search.metric) and all(map(math.isfinite, values)) else None


def frozen(record: Record, search: Search, space: Space) -> FrozenTrial:
    """A trial that has ended, as Optuna would remember it."""
    metric, state = search.metric[0], state_of(record, search)
    finite = (look for look in record.looks if math.isfinite(look.get(metric, math.nan)))
    reports = {_how_far(look): look[metric] for look in finite}
    return optuna.trial.create_trial(
        state=state,
        params=(there := space.existing(record.draw)),
        distributions={name: space.domains[name] for name in there},
        values=values_of(record, search) if state == TrialState.COMPLETE else None,
        intermediate_values=reports if len(search.metric) == 1 and record.state != "failed" else {},
    )


def state_of(record: Record, search: Search) -> TrialState:
    """One that failed by itself, as where a rate is too high, is as bad as can be; a lost one says nothing."""
    if len(search.metric) == 1 and record.state in ("stopped", "failed"):
        return TrialState.PRUNED
    if record.state in ("failed", "lost") or values_of(record, search) is None:
        return TrialState.FAIL
    return TrialState.COMPLETE
