"""What is done with the best of a search, by what it asks of others."""

from pathlib import Path
from typing import Any

import pytest

from mim_ray.search import finale
from mim_ray.search.finale import retrained
from mim_ray.search.plan import LOOKS, Plan
from mim_ray.training.job import JOB
from tests.search.played import plan_at

BEST = {"method.measure.penalty": "0.1", "batch": "32"}
FIXED = {"data.train": "t", "data.val": "v", "cpus_per_worker": "1", LOOKS: "1.0", "encoder": "micro"}
Called = tuple[str, tuple[object, ...], dict[str, Any]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Called]:
    """Everything that was trained or judged, in order."""
    calls: list[Called] = []

    def made(name: str) -> Any:
        def call(*of: object, **words: Any) -> dict[str, Any]:
            calls.append((name, of, words))
            return {
                "name": "played-winner", "run_id": "r", "steps": 8, "checkpoint": "c", "protocol": "knn",
                "metrics": {"eval/knn_top1": 0.5, "train/loss": 1.0},
            }  # fmt: skip

        return call

    for name in ("train", "evaluate"):
        monkeypatch.setattr(finale, name, made(name))
    return calls


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_at(tmp_path, retrain=18, protocol="knn", workers_per_trial=2)._replace(fixed=FIXED)


def test_the_best_is_trained_at_length_and_judged_on_the_same_cluster(plan: Plan, called: list[Called]) -> None:
    found = retrained(plan, BEST, "ray://there")
    (_, (method, words), training), (_, (protocol, model, judging), evaluating) = called
    assert isinstance(words, dict)
    assert isinstance(judging, dict)
    assert (method, protocol, model) == ("rmae", "knn", "c")
    assert (words["epochs"], words["name"], words["batch"]) == ("18", "played-winner", "32")
    assert LOOKS not in words
    assert judging["name"] == "played-winner-knn"
    assert words["storage"] == judging["storage"] == plan.runs.url
    assert training["address"] == evaluating["address"] == "ray://there"
    assert found["judged"]["eval/knn_top1"] == 0.5


def test_a_winner_that_was_begun_goes_on(plan: Plan, called: list[Called]) -> None:
    plan.runs.below("played-winner").write(JOB, b"{}")
    retrained(plan, BEST, None)
    assert called[0][2]["resume"] == "played-winner"
    assert called[1][0] == "evaluate"


def test_a_judging_that_was_begun_goes_on(plan: Plan, called: list[Called]) -> None:
    for name in ("played-winner", "played-winner-knn"):
        plan.runs.below(name).write(JOB, b"{}")
    found = retrained(plan, BEST, None)
    assert [(name, words["resume"]) for name, _, words in called] == [
        ("train", "played-winner"),
        ("train", "played-winner-knn"),
    ]
    assert found["judged"] == {"eval/knn_top1": 0.5}
