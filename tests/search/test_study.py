"""The search as Tune drives it: who is tried, who is stopped, and what is written down of it."""

import math
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from mim_ray.search.losses import FRUITLESS
from mim_ray.search.memory import Memory, Record, State
from mim_ray.search.plan import Plan
from mim_ray.search.study import FAR, SCORE, TRIAL, Median, Patient, Rungs, look_in, score_of
from tests.search.played import KNN, Played, look, plan_at, record, search_of

LOOKS = 9


def by_number(one: Record) -> list[float]:
    """Later trials are worse from the first look on."""
    return [epoch / LOOKS - 0.01 * one.number for epoch in range(1, LOOKS + 1)]


def better_and_better(one: Record) -> list[float]:
    return [epoch / LOOKS + 0.01 * one.number for epoch in range(1, LOOKS + 1)]


def remembered(plan: Plan, *records: Record) -> None:
    memory = Memory(plan.folder)
    for one in records:
        memory.keep(one)


def lengths(played: Played) -> list[int]:
    return [len(one.looks) for one in played.memory]


def test_the_worse_are_stopped_at_the_rungs_and_the_better_go_on(tmp_path: Path) -> None:
    played = Played(plan_at(tmp_path, trials=6))
    assert isinstance(played.scheduler, Rungs)
    played.play(by_number)
    assert lengths(played) == [9, 1, 1, 1, 1, 1]
    assert [one.state for one in played.memory] == ["finished"] + ["stopped"] * 5
    better = Played(plan_at(tmp_path / "better", trials=6))
    better.play(better_and_better)
    assert lengths(better) == [9] * 6


@pytest.mark.parametrize("metric", ["eval/loss", "train/loss", "cost/gflops"])
def test_of_a_loss_the_lowest_go_on(tmp_path: Path, metric: str) -> None:
    played = Played(plan_at(tmp_path, trials=4, metric=metric))
    played.play(better_and_better)
    assert lengths(played) == [9, 1, 1, 1]


def test_trials_at_the_same_time_meet_at_the_rungs(tmp_path: Path) -> None:
    played = Played(plan_at(tmp_path, trials=9))
    played.play(by_number, at_once=9)
    assert lengths(played)[0] == 9
    assert set(lengths(played)) <= {1, 3, 9}
    assert lengths(played)[3:] == [1] * 6


def test_without_a_scheduler_all_come_to_the_end(tmp_path: Path) -> None:
    played = Played(plan_at(tmp_path, trials=4, scheduler="none"))
    assert isinstance(played.scheduler, Patient)
    played.play(by_number)
    assert lengths(played) == [9] * 4


def test_finalists_do_not_compete(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=1, finalists=1)
    Played(plan).play(by_number)
    memory = Memory(plan.folder)
    for seed in (1, 2):
        memory.add(memory.records[0].draw, memory.records[0].words, seed=seed, of=0)
    final = Played(plan, judging=False)
    final.play(by_number)
    assert lengths(final) == [9, 9, 9]


def test_finalists_that_are_open_wait_for_the_final(tmp_path: Path) -> None:
    """A search that goes on in its final begins with its trials, which have all ended."""
    plan = plan_at(tmp_path, trials=1, finalists=1)
    Played(plan).play(by_number)
    memory = Memory(plan.folder)
    memory.add(memory.records[0].draw, memory.records[0].words, seed=1, of=0)
    assert Played(plan).study.is_done
    assert not Played(plan, judging=False).study.is_done


def test_the_median_of_the_others_stops_a_trial(tmp_path: Path) -> None:
    played = Played(plan_at(tmp_path, trials=6, scheduler="median"))
    assert isinstance(played.scheduler, Median)
    played.play(by_number)
    assert lengths(played)[:3] == [9, 9, 9]
    assert all(length < 9 for length in lengths(played)[3:])


def test_who_has_come_to_the_last_look_is_not_stopped_there(tmp_path: Path) -> None:
    def late(one: Record) -> list[float]:
        return [0.2] * LOOKS if one.number >= 3 else [0.1] * (LOOKS - 1) + [9.0]

    played = Played(plan_at(tmp_path, trials=6, scheduler="median"))
    played.play(late)
    assert {one.state for one in played.memory} == {"finished"}


def test_those_that_diverge_are_findings_and_end_no_sitting(tmp_path: Path) -> None:
    played = Played(plan_at(tmp_path, trials=9))
    for number in range(2 * FRUITLESS):
        assert played.study.suggest(str(number)) is not None
        end = {"look": -1, "over": "failed", "reason": "it diverged", "done": True}
        played.study.on_trial_complete(str(number), end)
    assert not played.study.is_fruitless


@pytest.mark.parametrize("scheduler", ["asha", "median", "none"])
def test_rows_without_a_look_reach_no_scheduler(tmp_path: Path, scheduler: str) -> None:
    played = Played(plan_at(tmp_path, trials=5, scheduler=scheduler))
    for _ in range(FRUITLESS):
        trial = played.begin(by_number)
        assert trial is not None
        row = {"look": -1, "step": 3, "steps": 90, "seconds": 1.0}
        assert played.scheduler.on_trial_result(None, trial, row) == "CONTINUE"
        played.study.on_trial_result(trial.trial_id, row)
        assert played.study.progress[trial.record.number] == {"step": 3, "steps": 90}
        played.scheduler.on_trial_complete(None, trial, row)
        played.study.on_trial_complete(trial.trial_id, row | {"over": "failed", "reason": "its disk is full"})
    assert [one.reason for one in played.memory] == ["its disk is full"] * len(played.memory.records)
    assert not any(one.looks for one in played.memory)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_after_a_resume_it_is_known_what_was_worth_what(tmp_path: Path, scheduler: str) -> None:
    whole = Played(plan_at(tmp_path / "whole", trials=8, scheduler=scheduler))
    whole.play(by_number)
    plan = plan_at(tmp_path / "parts", trials=8, scheduler=scheduler)
    remembered(plan, *[one for one in whole.memory if one.number < 4])
    played = Played(plan)
    played.play(by_number)
    assert lengths(played) == lengths(whole)
    assert [one.draw for one in played.memory] == [one.draw for one in whole.memory]


def test_trials_that_ran_together_are_remembered_one_after_another(tmp_path: Path) -> None:
    """The median of the others was not known when the fourth one was looked at."""
    plan = plan_at(tmp_path, trials=5, scheduler="median")
    remembered(plan, *[record(number, *by_number(record(number))) for number in range(4)])
    played = Played(plan)
    played.play(by_number)
    assert lengths(played)[:4] == [9] * 4


def test_one_that_goes_on_and_is_behind_is_stopped_in_order(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=4, scheduler="median")
    good = [record(number, *by_number(record(number))) for number in range(3)]
    remembered(plan, *good, record(3, 0.01, 0.02, state="running"))
    played = Played(plan)
    played.play(lambda one: [0.1 * value for value in by_number(one)])
    assert [one.state for one in played.memory] == ["finished"] * 3 + ["stopped"]
    assert lengths(played) == [9, 9, 9, 3]


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_one_that_goes_on_is_counted_once(tmp_path: Path, scheduler: str) -> None:
    plan = plan_at(tmp_path, trials=2, scheduler=scheduler)
    remembered(plan, record(0, *by_number(record(0))[:2], state="running"))
    played = Played(plan)
    trial = played.begin(by_number)
    assert trial is not None
    while played.go_on(trial):
        pass
    assert lengths(played) == [9]
    scheduler_of: Any = played.scheduler
    if scheduler == "asha":
        rungs = [list(recorded) for _, recorded in scheduler_of._brackets[0]._rungs]
        assert rungs == [[trial.trial_id], [trial.trial_id]]
    else:
        assert [row["look"] for row in scheduler_of._results[trial]] == list(range(1, 10))
        assert list(scheduler_of._results) == [trial]


def test_closing_leaves_trials_open_and_the_next_sitting_ends_them(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=3, scheduler="none")
    first = Played(plan)
    trials = [first.begin(by_number), first.begin(by_number)]
    for trial in trials:
        assert trial is not None
        for _ in range(4):
            first.go_on(trial)
    first.study.closing = True
    for trial in trials:
        assert trial is not None
        assert not first.go_on(trial)
    assert first.study.suggest("another") == Searcher.FINISHED
    assert [one.state for one in Memory(plan.folder)] == ["running", "running"]
    second = Played(plan)
    assert not second.study.is_done
    second.play(by_number)
    assert second.study.is_done
    assert lengths(second) == [9, 9, 9]
    assert second.epochs == 2 * 7 + 9
    assert [one.seconds for one in second.memory][2] == 18
    assert all(one.seconds > 18 for one in [*second.memory][:2])


def test_one_that_ends_while_the_search_closes_has_ended(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=1, scheduler="none")
    played = Played(plan)
    trial = played.begin(by_number)
    assert trial is not None
    played.study.closing = True
    played.study.on_trial_complete(trial.trial_id, {"found": look(9, 0.5), "over": "finished", "done": True})
    assert [(one.state, one.last(KNN)) for one in Memory(plan.folder)] == [("finished", 0.5)]


def test_a_search_in_which_nothing_is_found_ends(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=9)
    played = Played(plan)
    for number in range(FRUITLESS):
        assert not played.study.is_fruitless
        assert played.study.suggest(str(number)) == {TRIAL: number}
        played.study.on_trial_complete(str(number), error=True)
    assert played.study.is_fruitless
    assert played.study.suggest("3") == Searcher.FINISHED
    assert {(one.state, one.reason) for one in Memory(plan.folder)} == {("lost", "its process was lost")}


def test_what_is_found_before_the_first_step_is_no_finding(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=9)
    played = Played(plan)
    for number in range(FRUITLESS):
        assert played.study.suggest(str(number)) is not None
        drawn = {"found": {"look": 0, "step": 0, "epoch": 0.0, KNN: 0.6}, "look": 0}
        played.study.on_trial_result(str(number), drawn)
        played.study.on_trial_complete(str(number), drawn | {"over": "lost", "reason": "its disk is full"})
    assert played.study.is_fruitless
    assert score_of(search_of(), {"look": 0, "step": 0, "epoch": 0.0, KNN: 0.6}) is None


def test_an_outage_does_not_burn_the_trials_that_are_left(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=9)
    remembered(plan, record(0, 0.1))
    played = Played(plan)
    for number in range(FRUITLESS):
        assert not played.study.is_fruitless
        assert played.study.suggest(str(number)) is not None
        away = {"look": -1, "over": "lost", "reason": "MLflow cannot be reached", "done": True}
        played.study.on_trial_complete(str(number), away)
    assert played.study.is_fruitless
    assert played.study.suggest("another") == Searcher.FINISHED
    assert [one.losses for one in Memory(plan.folder)] == [0, 1, 1, 1]
    assert not Played(plan).study.is_fruitless


def test_what_gets_on_is_not_lost_by_its_own_fault(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=1, scheduler="none")
    one = record(0, *by_number(record(0))[:2], state="waiting")
    one.losses = 1
    remembered(plan, one)
    played = Played(plan)
    trial = played.begin(by_number)
    assert trial is not None
    for _ in range(2):
        played.go_on(trial)
    played.study.on_trial_complete(trial.trial_id, error=True)
    assert [(one.state, one.losses) for one in Memory(plan.folder)] == [("lost", 1)]


def test_losses_between_which_something_is_learnt_end_nothing(tmp_path: Path) -> None:
    played = Played(plan_at(tmp_path, trials=9, scheduler="none"))
    for number in range(2 * FRUITLESS):
        if number % 2:
            assert played.study.suggest(str(number)) is not None
            played.study.on_trial_complete(str(number), error=True)
        else:
            trial = played.begin(by_number)
            assert trial is not None
            while played.go_on(trial):
                pass
    assert not played.study.is_fruitless


def test_the_time_that_a_trial_was_trained_is_not_forgotten_with_its_driver(tmp_path: Path) -> None:
    played = Played(plan_at(tmp_path, trials=1))
    trial = played.begin(by_number)
    assert trial is not None
    for seconds in (90.0, 5.0):
        played.study.on_trial_result(trial.trial_id, {"look": -1, "seconds": seconds})
    assert trial.record.seconds == 90


def test_the_median_does_not_count_what_an_encoder_was_worth_as_it_was_drawn(tmp_path: Path) -> None:
    """Where it falls from the first step on, the worse are stopped all the same."""
    plan = plan_at(tmp_path, trials=6, scheduler="median")
    played = Played(plan)
    drawn = {"found": {"look": 0, "step": 0, "epoch": 0.0, KNN: 0.9}, "look": 0}

    def falling(one: Record) -> list[float]:
        played.study.on_trial_result(next(key for key, it in played.study._of.items() if it is one), drawn)
        return [0.5 - 0.01 * one.number - 0.01 * epoch for epoch in range(LOOKS)]

    played.play(falling)
    assert all(one.looks[0]["step"] == 0 for one in played.memory)
    assert any(len(one.looks) < LOOKS for one in played.memory)


def test_each_sitting_may_fail_anew(tmp_path: Path) -> None:
    """The disk that was full is so no longer."""
    plan = plan_at(tmp_path, trials=9)
    states: tuple[State, ...] = ("failed", "lost", "failed", "lost")
    remembered(plan, *[record(number, state=state) for number, state in enumerate(states)])
    played = Played(plan)
    assert not played.study.is_fruitless
    played.play(by_number)
    assert [one.state for one in played.memory][:4] == list(states)
    assert len(played.memory.records) == 9


def test_a_search_that_has_found_something_outlives_failures(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=9)
    remembered(plan, record(0, 0.1), *[record(number, state="failed") for number in range(1, 6)])
    played = Played(plan)
    assert not played.study.is_fruitless
    played.play(by_number)
    assert len(played.memory.records) == 9


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", [KNN, "eval/loss"])
def test_a_value_that_is_no_number_passes_no_rung(tmp_path: Path, metric: str, value: float) -> None:
    def learnt(one: Record) -> list[float]:
        """From its third look on the last one has none."""
        if one.number == 2:
            return [value] * LOOKS
        found = better_and_better(one) if metric == KNN else [-number for number in better_and_better(one)]
        return [*found[:2], *[value] * 7] if one.number == 4 else found

    played = Played(plan_at(tmp_path, trials=5, metric=metric))
    played.play(learnt)
    assert lengths(played) == [9, 9, 1, 9, 3]


def test_a_value_that_is_no_number_holds_no_other_up(tmp_path: Path) -> None:
    played = Played(plan_at(tmp_path, trials=4))
    played.play(lambda one: [math.nan] * LOOKS if one.number == 0 else better_and_better(one))
    assert lengths(played)[1:] == [9, 9, 9]
    assert score_of(search_of(), look(1, math.nan)) == -FAR


def test_what_was_learnt_is_news_once(tmp_path: Path) -> None:
    played = Played(plan_at(tmp_path, trials=1))
    trial = played.begin(by_number)
    assert trial is not None
    played.go_on(trial)
    assert played.study.news == []
    played.go_on(trial)
    assert played.study.news == [trial.record]
    assert trial.record.run_id == "run-0"
    played.play(by_number)
    assert set(played.study.progress) <= {0}


def test_a_look_is_found_however_tune_writes_it() -> None:
    one = look(3, 0.5)
    assert look_in({"found": one}) == one
    assert look_in({f"found/{name}": value for name, value in one.items()} | {"look": 3, SCORE: 0.5}) == one
    assert look_in({"look": -1}) is None
    assert score_of(search_of(), one) == 0.5
    assert score_of(search_of(metric="eval/loss"), look(3, 0.5, "eval/loss")) == -0.5
    assert score_of(search_of(metric="eval/loss"), one) is None
