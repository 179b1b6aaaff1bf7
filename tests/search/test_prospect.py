"""What a search will take, as far as it can be known before it begins."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import ray

from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.search import prospect as room
from mim_ray.search.points import corners
from mim_ray.search.prospect import (
    check_batches,
    check_rehearsal,
    concurrency,
    cores,
    idle_cores,
    prospect,
    still_fitting,
)
from mim_ray.search.rehearsal import Rehearsal
from mim_ray.search.space import of_source, run_of
from tests.search.played import KNN, search_of

STEPS = Rehearsal(pictures=64, samples=64, step_seconds=2.0, look_seconds=3.0, metrics=[KNN, "train/loss"])
NEEDED = {"CPU": 2.0}
RATES = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'optim.blr': tune.uniform(1e-4, 1e-3)}"
NINE: dict[str, object] = {"epochs": 9, "eval.every_epochs": 1}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int | None], list[int]]:
    """With room for so many workers now, and for so many once it has grown; the list is of what it was asked."""

    def of(now: int, most: int | None) -> list[int]:
        asked: list[int] = []

        def can_grow_to(workers: int, _: object) -> bool:
            asked.append(workers)
            return most is not None and workers <= most

        monkeypatch.setattr(room, "workers_that_fit", lambda _: now)
        monkeypatch.setattr(room, "grows", lambda: most is not None)
        monkeypatch.setattr(room, "can_grow_to", can_grow_to)
        return asked

    return of


@pytest.mark.parametrize(
    ("now", "most", "trials", "together"),
    [(6, None, 20, 3), (6, None, 2, 2), (1, None, 20, 1), (2, 18, 20, 9), (0, 40, 20, 20), (0, 3, 20, 1)],
)
def test_as_many_trials_as_the_cluster_can_have_at_a_time(
    cluster: Callable[[int, int | None], list[int]], now: int, most: int | None, trials: int, together: int
) -> None:
    cluster(now, most)
    assert concurrency(search_of(trials=trials, workers_per_trial=2), NEEDED) == together


def test_a_plan_asks_no_autoscaler_for_nodes(cluster: Callable[[int, int | None], list[int]]) -> None:
    asked = cluster(2, 40)
    assert concurrency(search_of(trials=20), NEEDED, may_grow=False) == 2
    assert asked == []


def test_more_at_a_time_than_there_can_be_are_refused(cluster: Callable[[int, int | None], list[int]]) -> None:
    cluster(4, 8)
    assert concurrency(search_of(concurrent=4, workers_per_trial=2), NEEDED) == 4
    with pytest.raises(
        Mistake, match=r"^concurrent=5: 10 workers with 2 CPU each are more than the cluster can have"
    ):
        concurrency(search_of(concurrent=5, workers_per_trial=2), NEEDED)


def test_what_no_trial_logs_and_rungs_closer_than_steps_are_refused() -> None:
    runs = [resolved("mae", {"epochs": 9, "batch": batch}) for batch in (16, 32)]
    with pytest.raises(Mistake, match=r"^rungs=5: a trial has 36 steps, and would be looked at 243 times"):
        check_rehearsal(search_of(rungs=5), runs[:1], STEPS)
    with pytest.raises(Mistake, match=r"^rungs=3: a trial has 18 steps"):
        check_rehearsal(search_of(rungs=3), runs, STEPS)
    with pytest.raises(Mistake, match=r"^metric=eval/knn_tpo1: no trial logs it: did you mean 'eval/knn_top1'\?"):
        check_rehearsal(search_of(metric="eval/knn_tpo1"), runs, STEPS)
    check_rehearsal(search_of(metric="cost/gflops"), runs, STEPS)


SHOOTOUT = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'method': tune.choice(['mae', 'mae_few', 'simmim'])}"
BATCHES = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'batch': tune.choice([8, 32, 96])}"


@pytest.mark.parametrize(
    ("source", "words", "said"),
    [
        (BATCHES, {}, "batch=96, which is larger than an epoch of 64 samples: expected a space of your own with "
         r"at most 64, or longer virtual epochs with data\.samples_per_epoch=96 or more$"),
        (BATCHES, {"data.samples_per_epoch": "96"}, None),
        (SHOOTOUT, {}, "batch=2048, which is larger than an epoch of 64 samples: expected batch=64 or less, or"),
        (SHOOTOUT, {"batch": "64"}, None),
    ],
)  # fmt: skip
def test_every_batch_that_may_be_drawn_must_fit_an_epoch(
    source: str, words: dict[str, str], said: str | None
) -> None:
    """Whatever was rehearsed; where the batch is searched nobody can lower it by a word."""
    space = of_source("own", source, words)
    runs = [run_of(space, space.words(draw), words) for draw in corners(space)]
    with nullcontext() if said is None else pytest.raises(Mistake, match=f"^space own: may draw {said}"):
        check_batches(space, runs, STEPS)


def test_of_few_pictures_an_epoch_is_long_where_no_labels_are_learnt() -> None:
    few = STEPS._replace(samples=10)
    runs = [resolved(method, {"data.few.n": 10, "batch": 16, "epochs": 1}) for method in ("mae", "supervised")]
    assert [few.epoch(run) for run in runs] == [64, 10]
    assert STEPS.steps(resolved("mae", {"data.samples_per_epoch": 90, "batch": 16, "epochs": 2})) == 10


def took(run_words: dict[str, object], words: dict[str, object], source: str = RATES) -> dict[str, Any]:
    """Of a search over rates, which make no draw dearer: an epoch is of 4 steps, of 2 s each; a look takes 3 s."""
    own, run_words = search_of(**words), {"encoder": "micro", **run_words}
    run = resolved("mae", {"batch": 16, **run_words})
    fixed = {} if "batch" in source else {"batch": "16"}
    fixed |= {path: str(value) for path, value in run_words.items()}
    return prospect(own, of_source("own", source, fixed), fixed, run, STEPS, own.concurrent or 1, gpus=2.0)


@pytest.mark.parametrize(
    ("words", "least", "most"),
    [  # a whole trial: 9 · 4 · 2 + 9 · 3 = 99 s; rungs that pass a third: 7/27 of it; a start: 15 s
        ({"trials": 20, "concurrent": 20}, 99 + 15, 99 + 15),  # none is shorter than one whole trial
        ({"trials": 20, "concurrent": 4}, 20 * 7 / 27 / 4 * 99 + 15, 5 * 99 + 15),
        ({"trials": 9, "concurrent": 2, "scheduler": "none"}, 5 * 99 + 15, 5 * 99 + 15),
        ({"trials": 4, "concurrent": 4, "finalists": 3, "seeds": 3}, (1 + 2) * 99 + 15, (1 + 2) * 99 + 15),
        ({"trials": 1, "concurrent": 1, "retrain": 18}, (1 + 2) * 99 + 15, (1 + 2) * 99 + 15),
        ({"trials": 2, "concurrent": 2, "retrain": 18}, (1 + 2 / 2) * 99 + 15, (1 + 2 / 2) * 99 + 15),
        ({"trials": 1, "retrain": 18, "retrain_workers": "2:4"}, (1 + 2 / 4) * 99 + 15, (1 + 2 / 4) * 99 + 15),
    ],
)
def test_the_clock_has_whole_trials_one_after_another(words: dict[str, object], least: float, most: float) -> None:
    found = took(NINE, words)
    assert found["hours"] == pytest.approx([least / 3600, most / 3600])


def test_what_it_takes_lies_between_rungs_that_pass_their_share_and_none_that_stop() -> None:
    found = took(NINE, {"trials": 27, "finalists": 1, "seeds": 3, "retrain": 18, "workers_per_trial": 2})
    assert found["whole_trials"] == [7 + 2, 27 + 2]
    assert found["worker_hours"] == pytest.approx(
        [11 * 99 * 2 / 3600, 31 * 99 * 2 / 3600]
    )  # the best at length: 2


def test_hours_of_gpus_are_those_that_workers_have() -> None:
    found = took(NINE, {"trials": 2, "scheduler": "none", "workers_per_trial": 4})
    assert found["worker_hours"][1] == pytest.approx(2 * 99 * 4 / 3600)
    assert found["gpu_hours"][1] == pytest.approx(2 * 99 * 4 * 2 / 3600)


def test_steps_and_seconds_are_those_of_each_batch() -> None:
    """A step of the rehearsed 16 takes 2 s; of 64 samples 48 take one of 48 alone, for the rest is left."""
    source = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'batch': tune.choice([BATCH])}"
    once = {"trials": 1, "scheduler": "none"}
    for batch, steps, seconds in ((8, 8, 1.0), (48, 1, 6.0)):
        found = took({"epochs": 1, "eval.every_epochs": "none"}, once, source.replace("BATCH", str(batch)))
        assert (found["steps_of_a_trial"], found["seconds_of_a_step"]) == (steps, pytest.approx(seconds, rel=0.01))
        assert found["hours"][0] == pytest.approx((steps * seconds + 15) / 3600, rel=0.01)


def test_where_epochs_are_searched_each_trial_takes_its_own() -> None:
    source = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'epochs': tune.choice([30])}"
    found = took({"eval.every_epochs": 10}, {"trials": 1, "scheduler": "none"}, source)
    assert found["steps_of_a_trial"] == 120
    assert found["hours"][0] == pytest.approx((30 * 4 * 2 + 3 * 3 + 15) / 3600)


@pytest.mark.parametrize(("now", "most", "fitting"), [(8, None, 4), (4, None, 2), (1, None, 1), (2, 6, 3)])
def test_another_sitting_has_no_more_slots_than_the_cluster_has_room_for(
    cluster: Callable[[int, int | None], list[int]], now: int, most: int | None, fitting: int
) -> None:
    cluster(now, most)
    assert still_fitting(search_of(concurrent=4, workers_per_trial=2), NEEDED) == fitting


@pytest.mark.parametrize(
    ("nodes", "words", "each", "idle"),
    [
        ((16, 8, 8, 8), {}, 8, None),
        ((16, 16), {}, 16, None),
        ((16, 2), {}, 16, None),  # and not nine trials of two cores
        ((16, 16, 16), {"workers_per_trial": 2}, 8, None),
        ((16, 8, 8, 8), {"trials": 1}, 16, "24 of 40"),
        ((16, 8, 8, 8), {"concurrent": 2}, 8, "24 of 40"),
        ((2,), {"workers_per_trial": 2}, 1, None),
    ],
)
def test_a_worker_has_the_most_cores_of_which_few_stay_idle(
    monkeypatch: pytest.MonkeyPatch, nodes: tuple[int, ...], words: dict[str, object], each: int, idle: str | None
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": have}} for have in nodes])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": sum(nodes)})
    monkeypatch.setattr(room, "grows", lambda: False)
    own = search_of(**words)
    assert cores(own, 0.0) == each
    needed = {"CPU": float(each)}
    assert idle_cores(own, needed, concurrency(own, needed)) == idle
