"""What a search will take, as far as it can be known before it begins."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.search import prospect as room
from mim_ray.search.prospect import check_rehearsal, concurrency, prospect
from mim_ray.search.rehearsal import Rehearsal
from tests.search.played import KNN, plan_at, search_of

STEPS = Rehearsal(steps_per_epoch=4, step_seconds=2.0, look_seconds=3.0, metrics=[KNN, "train/loss"])
NEEDED = {"CPU": 2.0}


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
    run = resolved("mae", {"epochs": 9, "batch": 16})
    with pytest.raises(Mistake, match=r"^rungs=5: a trial has 36 steps, and would be looked at 243 times"):
        check_rehearsal(search_of(rungs=5), run, [16], STEPS)
    with pytest.raises(Mistake, match=r"^rungs=3: a trial has 18 steps"):
        check_rehearsal(search_of(rungs=3), run, [16, 32], STEPS)
    with pytest.raises(Mistake, match=r"^metric=eval/knn_tpo1: no trial logs it: did you mean 'eval/knn_top1'\?"):
        check_rehearsal(search_of(metric="eval/knn_tpo1"), run, [16], STEPS)
    check_rehearsal(search_of(metric="cost/gflops"), run, [16], STEPS)


def test_what_it_takes_lies_between_rungs_that_pass_their_share_and_none_that_stop(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, trials=9, finalists=1, seeds=3, retrain=18)
    space, run = plan.questions(), resolved("rmae", {"encoder": "micro", "epochs": 9})
    found = prospect(plan.search, space, {"encoder": "micro", "epochs": "9"}, run, STEPS, concurrent=2)
    share = 1 / 9 + (1 / 3) * (2 / 9) + (1 / 9) * (6 / 9)
    assert found["whole_trials"] == [pytest.approx(9 * share + 2, abs=0.01), 11]
    whole = found["steps_of_a_trial"] * found["seconds_of_a_step"] + 9 * 3.0
    assert found["worker_hours"][1] == pytest.approx((11 + 2) * whole / 3600, rel=1e-3)
    alone = (11 / 2 + 2) * whole + room.START_SECONDS  # one winner is not trained twice as fast by room for two
    assert found["hours"][1] == pytest.approx(alone / 3600, rel=1e-3)
