"""Who is best, by what, and how it is told."""

import math

import pytest

from mim_ray.scores import COST, LOOKED_AT, LOSS, is_higher_better
from mim_ray.search.memory import Record
from mim_ray.search.results import best_of, front, ranked, rows, seeds_of, spread
from tests.search.played import KNN, look, record, search_of, seed_of

COSTS = f"{KNN},cost/gflops"


def numbers(records: list[Record]) -> list[int]:
    return [one.number for one in records]


def test_those_that_came_furthest_are_first_and_of_them_the_best() -> None:
    records = [
        record(0, 0.9, state="stopped"),
        record(1, 0.1, 0.2, state="stopped"),
        record(2, 0.1, 0.3, state="stopped"),
        record(3),
        record(4, 1, 1, state="failed"),
    ]
    assert numbers(ranked(records, search_of())) == [2, 1, 0]
    best = best_of(records, search_of())
    assert best is not None
    assert best.number == 2
    assert best_of([record(0), record(1, 0.9, state="failed")], search_of()) is None


def test_of_a_loss_the_lowest_is_best() -> None:
    for metric in ("eval/loss", "train/loss", "cost/gflops"):
        records = [record(number) for number in range(3)]
        for one, value in zip(records, (0.3, 0.1, 0.2), strict=True):
            one.see(look(1, value, metric))
        search = search_of(metric=metric)
        assert numbers(ranked(records, search)) == [1, 2, 0]
        best = best_of(records, search)
        assert best is not None
        assert best.number == 1


@pytest.mark.parametrize(
    "metric",
    [
        *COST, LOSS, "train/loss", "train/l2", "train/infonce", "memory/gigabytes", "speed/data_wait",
        "collapse/patch_similarity", "collapse/alarms",
    ],
)  # fmt: skip
def test_of_what_costs_or_errs_less_is_better(metric: str) -> None:
    assert not is_higher_better(metric)


@pytest.mark.parametrize(
    "metric",
    [
        *sorted({*LOOKED_AT} - {LOSS}), "eval/knn_top1_k20_t0.07", "eval/top1_few", "train/top1", "train/top1_0.1",
        "train/cosine", "speed/images_per_second", "collapse/feature_spread",
    ],
)  # fmt: skip
def test_of_what_is_right_more_is_better(metric: str) -> None:
    assert is_higher_better(metric)


def test_the_best_is_so_by_the_mean_over_its_seeds() -> None:
    records = [record(0, 0.9), record(1, 0.8), record(2, 0.85)]
    records += [seed_of(3, 0, 0.1), seed_of(4, 1, 0.7), seed_of(5, 1, 0.9, state="lost")]
    best = best_of(records, search_of())
    assert best is not None
    assert best.number == 1
    assert numbers(seeds_of(records[1], records)) == [4]
    mean, deviation = spread(records[1], records, KNN)
    assert math.isclose(mean, 0.75)
    assert deviation is not None
    assert math.isclose(deviation, 0.1 / math.sqrt(2))
    assert spread(records[2], records, KNN) == (0.85, None)
    records[5].state = "failed"  # it diverged
    steady = best_of(records, search_of())
    assert steady is not None
    assert steady.number == 0
    assert rows(records, search_of())[1]["seeds failed"] == 1


def test_ends_are_alike_however_many_epochs_they_took() -> None:
    records = [record(0, 0.9), record(1, 0.1, 0.1, 0.1), record(2, 0.5, 0.6, state="stopped")]
    best = best_of(records, search_of())
    assert best is not None
    assert best.number == 0
    assert numbers(ranked(records, search_of())) == [0, 1, 2]


def test_the_front_is_of_the_means_over_the_seeds() -> None:
    records = [record(0, 0.9), record(1, 0.5), seed_of(2, 0, 0.1)]
    for one in records:
        one.looks[-1]["cost/gflops"] = 1.0
    assert numbers(front(records, search_of(metric=COSTS, scheduler="none"))) == [0, 1]


def test_what_is_no_number_is_not_the_best() -> None:
    for order in (1, -1):
        records = [record(0, math.nan), record(1, 0.2), record(2, 0.3), record(3, math.nan)][::order]
        best = best_of(records, search_of())
        assert best is not None
        assert best.number == 2
        assert numbers(ranked(records, search_of()))[:2] == [2, 1]


def test_none_of_the_front_is_beaten_in_everything() -> None:
    records = [record(number, value) for number, value in enumerate((0.5, 0.4, 0.3, 0.5, 0.9))]
    for one, cost in zip(records, (2.0, 1.0, 1.0, 2.0, 0.1), strict=True):
        one.looks[-1]["cost/gflops"] = cost
    records[4].state = "stopped"
    search = search_of(metric=COSTS, scheduler="none")
    assert numbers(front(records, search)) == [0, 1, 3]
    assert numbers(front([*records, record(5, 0.9)], search)) == [0, 1, 3]


def test_a_table_has_every_trial_the_best_first() -> None:
    records = [record(0, 0.1), record(1, 0.2), record(2, state="failed"), seed_of(3, 1, 0.4)]
    records[2].reason = "its disk is full"
    table = rows(records, search_of())
    assert [row["trial"] for row in table] == [1, 0, 2, 3]
    assert (table[3]["seed of"], table[0]["seeds"], table[0]["mean"]) == (
        1,
        2,
        spread(records[1], records, KNN)[0],
    )
    assert table[2] == {
        "trial": 2, **records[2].words, "epoch": 0.0, KNN: None, "state": "failed", "reason": "its disk is full",
    }  # fmt: skip
