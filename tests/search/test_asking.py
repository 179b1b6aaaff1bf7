"""A search before its first trial, with a cluster that is made up."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from mim_ray.errors import Mistake
from mim_ray.methods import resolved
from mim_ray.run import Run
from mim_ray.search import asking as room
from mim_ray.search.asking import Asking, asked_of, described
from mim_ray.search.memory import Record
from mim_ray.search.plan import Search
from mim_ray.search.rehearsal import Rehearsal, rehearsed
from mim_ray.search.space import of_source, run_of
from mim_ray.training.job import Job
from mim_ray.training.place import Place
from tests.search.played import KNN, search_of
from tests.training.runs import SMALL

RATES = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'optim.blr': tune.uniform(1e-4, 1e-3)}"
FIXED = {"encoder": "micro", "epochs": "9", "data.train": "t", "eval.every_epochs": "1"}

PICTURES = 4 * resolved("mae", {}).batch


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of the cluster, which may change."""
    there = [4.0]

    def needed(run: Run) -> dict[str, float]:
        gpus = run.gpus_per_worker if run.gpus_per_worker is not None else float(there[0] > 0)
        return {"CPU": float(run.cpus_per_worker or 1)} | ({"GPU": gpus} if gpus else {})

    monkeypatch.setattr(room, "resources_of_a_worker", needed)
    monkeypatch.setattr(room, "cores", lambda *_: 2)
    monkeypatch.setattr(room, "idle_cores", lambda *_: None)
    monkeypatch.setattr(room, "check_room", lambda *_, **__: None)
    monkeypatch.setattr(room, "concurrency", lambda own, *_, **__: own.concurrent or 1)
    monkeypatch.setattr(room, "_rehearsed", lambda *_: Rehearsal(PICTURES, PICTURES, 2.0, 3.0, [KNN]))
    return there


def asked(own: Search, folder: Path, source: str = RATES, **fixed: str) -> Asking:
    words = {**FIXED, "storage": str(folder)} | {path.replace("__", "."): text for path, text in fixed.items()}
    space = of_source("made_up", source, words)
    run = run_of(space, {}, words)
    return asked_of(own, space, words, run, track=False, address=None, only_plan=True)


def test_what_a_worker_has_is_settled_for_all_sittings(gpus: list[float], tmp_path: Path) -> None:
    """Or one that goes on while the cluster is scaled to zero would go on without GPUs. What nobody said of cores
    is a sitting's own."""
    plan = asked(search_of(), tmp_path).plan
    assert (plan.cores, plan.fixed["gpus_per_worker"]) == (2, "1")
    assert "cpus_per_worker" not in plan.fixed
    assert plan.of_trial(Record(0, {}, {}))[1]["cpus_per_worker"] == "2"
    said = asked(search_of(), tmp_path, gpus_per_worker="0.5", cpus_per_worker="3").plan
    assert (said.fixed["cpus_per_worker"], said.fixed["gpus_per_worker"]) == ("3", "0.5")
    assert (said.cores, said.share) == (None, {"cpus_per_worker": "3"})
    gpus[0] = 0.0
    assert asked(search_of(), tmp_path).plan.fixed["gpus_per_worker"] == "0"


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(("gpus_per_worker", "hours"), [("0", "0.22 worker hours"), ("2", "0.44 GPU hours")])
def test_a_plan_tells_hours_of_what_the_workers_have(tmp_path: Path, gpus_per_worker: str, hours: str) -> None:
    """Eight trials of 9 · 4 · 2 + 9 · 3 = 99 s."""
    own = search_of(trials=8, scheduler="none", retrain=None)
    words = described(asked(own, tmp_path, gpus_per_worker=gpus_per_worker))
    assert f"about 8 whole trials in all: {hours}, 0.22 on the clock" in words
    assert "without the judging" not in words
    assert "on the clock, without the judging" in described(asked(search_of(retrain=9), tmp_path))


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"trials": 20, "concurrent": 20}, "expected concurrent=6 or fewer, or trials=60"),
        ({"trials": 2, "concurrent": 2}, "expected concurrent=1 or fewer, or trials=6"),
        ({"trials": 20, "concurrent": 6}, ""),
        ({"trials": 2, "concurrent": 1}, ""),
        ({"trials": 20, "concurrent": 20, "searcher": "random"}, ""),
    ],
)
def test_a_searcher_that_learns_from_nothing_is_told(tmp_path: Path, words: dict[str, object], said: str) -> None:
    plan = described(asked(search_of(**words), tmp_path))
    assert said in plan
    assert ("optuna chooses most of them before it knows of any" in plan) == bool(said)


@pytest.mark.usefixtures("gpus")
def test_a_plan_tells_of_cores_that_stay_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "idle" not in described(asked(search_of(), tmp_path))
    monkeypatch.setattr(room, "idle_cores", lambda *_: "24 of 40")
    said = "24 of 40 cores of the cluster stay idle: expected another cpus_per_worker= or concurrent="
    assert said in described(asked(search_of(), tmp_path))


@pytest.mark.usefixtures("gpus")
def test_where_all_draws_are_tried_a_searcher_has_nothing_to_learn(tmp_path: Path) -> None:
    few = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'batch': tune.choice([8, 16, 32])}"
    assert "optuna chooses" not in described(asked(search_of(trials=3, concurrent=3), tmp_path, few))


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("pictures", "said"),
    [(40, None), (31, "^space made_up: may draw batch=32, which is larger than an epoch of 31 samples: expected")],
)
def test_the_largest_batch_that_may_be_drawn_is_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: int, said: str | None
) -> None:
    """And not that of the recipe, which the space may never draw."""
    drawn: list[object] = []

    def rehearsed(_plan: object, _space: object, words: object, _address: object) -> Rehearsal:
        drawn.append(words)
        return Rehearsal(pictures, pictures, 2.0, 3.0, [KNN])

    monkeypatch.setattr(room, "_rehearsed", rehearsed)
    source = "from ray import tune\nMETHOD = 'mae'\nSPACE = {'batch': tune.choice([8, 32, 16])}"
    with nullcontext() if said is None else pytest.raises(Mistake, match=said):
        asked(search_of(rungs=1), tmp_path, source)
    assert drawn == [{"batch": "32"}]


def test_a_rehearsal_tells_the_sizes_of_an_epoch_that_a_batch_does_not_fit() -> None:
    words = {**SMALL, "data.few.n": 12, "batch": 65, "epochs": 1}
    job = Job("mae", {path: str(value) for path, value in words.items()})
    assert rehearsed(job, Place()) == Rehearsal(64, 12)._asdict()
