"""What to try next: the same memory and seed give the same advice, however often a search was stopped."""

import math
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mim_ray.search.advice import Adviser, frozen, values_of
from mim_ray.search.memory import Record
from mim_ray.search.plan import Search
from mim_ray.search.space import Space
from tests.search.played import KNN, Played, look, plan_at, record, search_of

TRIALS = 14
COSTS = f"{KNN},cost/gflops"


def space_at(folder: Path) -> Space:
    return plan_at(folder).questions()


def ended(one: Record, metric: tuple[str, ...], adviser: Adviser) -> None:
    """As a trial of this number ends: finished, stopped on its way, failed, lost, or without a number."""
    chance = random.Random(one.number)
    last = {4: 1, 7: 0, 8: 1}.get(one.number, 9 if one.number % 3 else 1)
    for epoch in range(1, last + 1):
        value = math.nan if one.number == 5 and epoch == 9 else chance.random()
        one.see(look(epoch, value, metric[0]) | {name: chance.random() for name in metric[1:]})
        adviser.see(one)
    one.state = "finished" if last == 9 else "stopped"
    if one.number in (4, 7, 8):
        one.state = "lost" if one.number == 8 else "failed"
    adviser.end(one)


def advice(search: Search, space: Space, stops: tuple[int, ...] = (), seed: int = 3) -> list[dict[str, Any]]:
    """Two trials at a time; before those of `stops` all is forgotten but the records."""
    adviser = Adviser(search, space, seed)
    records: list[Record] = []
    running: list[Record] = []
    for number in range(min(TRIALS, adviser.most)):
        if number in stops:
            adviser = Adviser(search, space, seed)
            for one in records:
                (adviser.again if one.is_open else adviser.end)(one)
        draw = adviser.next(number)
        records.append(Record(number, draw, space.words(draw), state="running"))
        running.append(records[-1])
        if len(running) == 2:
            ended(running.pop(0), search.metric, adviser)
    return [one.draw for one in records]


@pytest.mark.parametrize(("metric", "scheduler"), [(KNN, "asha"), ("eval/loss", "median"), (COSTS, "none")])
@pytest.mark.parametrize("searcher", ["optuna", "random", "grid"])
def test_advice_is_the_same_however_often_a_search_was_stopped(
    tmp_path: Path, searcher: str, metric: str, scheduler: str
) -> None:
    search = search_of(searcher=searcher, metric=metric, scheduler=scheduler, trials=TRIALS)
    space = space_at(tmp_path)
    whole = advice(search, space)
    assert whole == advice(search, space)
    assert whole == advice(search, space, stops=(1, 6, 7, 13))
    if searcher != "grid":
        assert whole != advice(search, space, seed=4)


def test_a_grid_is_tried_in_its_order_and_ends(tmp_path: Path) -> None:
    search, space = search_of(searcher="grid", points=2, trials=100), space_at(tmp_path)
    found = advice(search, space)
    assert Adviser(search, space, 0).most == 8
    assert len({tuple(draw.values()) for draw in found}) == 8
    assert Adviser(search_of(searcher="grid", points=2, trials=5), space, 0).most == 5


@pytest.mark.filterwarnings("error")
def test_a_grid_of_a_range_ends_where_the_range_does(tmp_path: Path) -> None:
    source = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'method.t1.mask.ratio': tune.uniform(0.3, 0.9)}"
    space, search = plan_at(tmp_path, source).questions(), search_of(searcher="grid", points=3)
    draws = [Adviser(search, space, 0).next(number) for number in range(3)]
    Adviser(search, space, 0).end(Record(2, draws[-1], {}, state="finished", looks=[look(9, 0.5)]))


def test_tpe_learns_where_values_are_high(tmp_path: Path) -> None:
    search, space = search_of(trials=40), space_at(tmp_path)
    adviser = Adviser(search, space, 0)
    for number in range(40):
        draw = adviser.next(number)
        one = Record(number, draw, {}, state="running")
        one.see(look(9, 1 - abs(draw["method.t1.mask.ratio"] - 0.4)))
        one.state = "finished"
        adviser.end(one)
    late = [abs(trial.params["method.t1.mask.ratio"] - 0.4) for trial in adviser.study.trials[20:]]
    assert sorted(late)[10] < 0.08


@pytest.mark.parametrize(
    ("state", "values", "told"),
    [
        ("finished", (0.1, 0.2), TrialState.COMPLETE),
        ("stopped", (0.1,), TrialState.PRUNED),
        ("stopped", (), TrialState.PRUNED),
        ("failed", (0.1, math.nan), TrialState.PRUNED),
        ("failed", (), TrialState.PRUNED),
        ("lost", (0.1,), TrialState.FAIL),
        ("lost", (), TrialState.FAIL),
        ("finished", (0.1, math.nan), TrialState.COMPLETE),
        ("finished", (math.inf,), TrialState.FAIL),
    ],
)
def test_what_became_of_a_trial_is_told_at_once_or_later(
    tmp_path: Path, state: str, values: tuple[float, ...], told: TrialState
) -> None:
    search, space = search_of(), space_at(tmp_path)
    live, later = Adviser(search, space, 0), Adviser(search, space, 0)
    one = record(0, state="running", **live.next(0))
    for epoch, value in enumerate(values, 1):
        one.see(look(epoch, value))
        live.see(one)
    one.state = state  # type: ignore[assignment]
    live.end(one)
    later.end(one)
    for study in (live.study, later.study):
        trial = study.trials[-1]
        assert trial.state == told == frozen(one, search, space).state
        assert trial.params == one.draw
        reports = {1000 * epoch: value for epoch, value in enumerate(values, 1) if math.isfinite(value)}
        assert trial.intermediate_values == ({} if state == "failed" else reports)
        if told == TrialState.COMPLETE:
            assert trial.value == one.last(KNN)


def test_where_trials_fail_there_are_few_more(tmp_path: Path) -> None:
    """Of a rate that is too high all diverge before they are looked at."""
    search, space = search_of(trials=40), space_at(tmp_path)
    adviser, chance = Adviser(search, space, 0), random.Random(0)
    for number in range(40):
        one = Record(number, adviser.next(number), {}, state="running")
        has_failed = one.draw["method.t1.mask.ratio"] > 0.5
        if not has_failed:
            one.see(look(9, chance.random()))
        one.state = "failed" if has_failed else "finished"
        adviser.end(one)
    late = [trial.params["method.t1.mask.ratio"] > 0.5 for trial in adviser.study.trials[20:]]
    assert sum(late) <= 4


def test_several_metrics_are_told_together_or_not_at_all(tmp_path: Path) -> None:
    search, space = search_of(metric=COSTS, scheduler="none"), space_at(tmp_path)
    one = record(0, 0.3)
    assert values_of(one, search) is None
    assert frozen(one, search, space).state == TrialState.FAIL
    one.looks[-1]["cost/gflops"] = 2.0
    assert values_of(one, search) == [0.3, 2.0]
    one.state = "stopped"
    assert frozen(one, search, space).state == TrialState.COMPLETE
    adviser = Adviser(search, space, 0)
    adviser.end(one)
    assert adviser.study.trials[0].values == [0.3, 2.0]
    for state in ("failed", "lost"):
        one.state = state
        assert frozen(one, search, space).state == TrialState.FAIL


def test_two_looks_at_the_end_are_no_matter_to_warn_of(tmp_path: Path) -> None:
    """Of 44 steps the last is the 8th look's, as is the 40th: each is of 5 steps."""
    search, space = search_of(), space_at(tmp_path)
    live, later = Adviser(search, space, 0), Adviser(search, space, 0)
    one = Record(0, live.next(0), {}, state="running")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step, value in ((40, 0.5), (44, 0.6)):
            one.see({"look": 8, "step": step, "epoch": step / 4.9, KNN: value})
            live.see(one)
    one.state = "stopped"
    live.end(one)
    later.end(one)
    assert live.study.trials[0].intermediate_values == {8163: 0.5, 8980: 0.6}
    assert later.study.trials[0].intermediate_values == {8163: 0.5, 8980: 0.6}


def test_one_that_goes_on_is_open_with_what_it_was_worth(tmp_path: Path) -> None:
    search, space = search_of(), space_at(tmp_path)
    draw = Adviser(search, space, 0).next(0)
    adviser = Adviser(search, space, 0)
    one = record(0, 0.1, 0.2, state="running", **draw)
    adviser.again(one)
    (trial,) = adviser.study.trials
    assert (trial.state, trial.params) == (TrialState.RUNNING, draw)
    assert trial.intermediate_values == {1000: 0.1, 2000: 0.2}
    one.state = "finished"
    adviser.end(one)
    assert [trial.state for trial in adviser.study.trials] == [TrialState.COMPLETE]


def test_where_there_are_few_none_is_tried_twice(tmp_path: Path) -> None:
    source = """
from ray import tune

METHOD = "rmae"
SPACE = {"batch": tune.choice([8, 16]), "method.measure.head.depth": tune.randint(1, 4)}
"""
    space = plan_at(tmp_path, source).questions()
    adviser = Adviser(search_of(trials=20), space, 0)
    assert adviser.most == 6
    tried = []
    for number in range(adviser.most):
        draw = adviser.next(number)
        tried.append(str(space.words(draw)))
        one = Record(number, draw, space.words(draw), state="finished", looks=[look(1, 0.1 * (number % 2))])
        adviser.end(one)
    assert len(set(tried)) == 6


def test_what_was_tried_before_a_resume_is_not_tried_again(tmp_path: Path) -> None:
    source = "from ray import tune\nMETHOD = 'rmae'\nSPACE = {'batch': tune.choice([8, 16, 32])}"
    space = plan_at(tmp_path, source).questions()
    for searcher in ("optuna", "random", "grid"):
        adviser = Adviser(search_of(trials=3, searcher=searcher), space, 0)
        adviser.end(Record(0, {"batch": "16"}, {"batch": "16"}, state="finished", looks=[look(1, 0.1)]))
        adviser.again(Record(2, {"batch": "8"}, {"batch": "8"}, state="running"))
        assert adviser.next(3) == {"batch": "32"}


def test_of_stopped_trials_those_count_more_that_were_trained_for_longer_not_in_more_steps(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    search, space = plan.search, plan.questions()
    draw = Adviser(search, space, 0).next(0)
    small, large = (
        Record(0, draw, {}, state="stopped", looks=[{"look": 1, "step": steps, "epoch": 1.0, KNN: 0.1}])
        for steps in (800, 100)
    )
    furthest = [frozen(one, search, space).last_step for one in (small, large)]
    assert furthest[0] == furthest[1]


def test_what_does_not_exist_in_a_draw_is_not_drawn_nor_learnt_from(tmp_path: Path) -> None:
    source = """
from ray import tune
METHOD = "mae"
ONLY = {"method.measure.head.heads": ("method.measure.head.depth", (4,))}
SPACE = {"method.measure.head.heads": tune.choice([2, 4]), "method.measure.head.depth": tune.choice([1, 4])}
"""
    played = Played(plan_at(tmp_path, source, trials=12, scheduler="none"))
    played.play(lambda one: [float(one.draw["method.measure.head.depth"])])
    adviser = Adviser(played.search, played.space, 0)
    for one in played.memory:
        adviser.end(one)
    for one, trial in zip(played.memory, adviser.study.trials, strict=True):
        assert ("method.measure.head.heads" in one.draw) == (one.draw["method.measure.head.depth"] == "4")
        assert trial.params == one.draw
