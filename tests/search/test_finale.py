"""What is done with the best of a search, by what it asks of others."""

from pathlib import Path
from typing import Any

import pytest

from mim_ray.errors import Failure, Mistake
from mim_ray.search import finale
from mim_ray.search.finale import retrained
from mim_ray.search.home import Home, with_home
from mim_ray.search.memory import Memory
from mim_ray.search.plan import LOOKS, Plan
from mim_ray.search.trial import STATE_TAG
from mim_ray.tracking.run import create_run, tags_of
from mim_ray.training.job import JOB
from tests.databases import fresh
from tests.search.played import KNN, plan_at

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


def words_of(call: Called) -> dict[str, str]:
    """Of a run that is begun: train(method, words), evaluate(protocol, model, words)."""
    words = call[1][-1]
    assert isinstance(words, dict)
    return words


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_at(tmp_path, retrain=18, protocol="knn", workers_per_trial=2)._replace(fixed=FIXED)


def homed(plan: Plan, folder: Path) -> Plan:
    """With an MLflow of its own."""
    return with_home(plan._replace(tracking_uri=fresh(folder)), "mim_ray")


def let_training_leave(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]) -> None:
    train = vars(finale)["train"]
    monkeypatch.setattr(finale, "train", lambda *of, **words: train(*of, **words) | found)


def test_the_best_is_trained_at_length_and_judged_on_the_same_cluster(plan: Plan, called: list[Called]) -> None:
    found = retrained(plan, BEST, "ray://there")
    (_, (method, words), training), (_, (protocol, model, judging), evaluating) = called
    assert isinstance(words, dict)
    assert isinstance(judging, dict)
    assert (method, protocol, model) == ("rmae", "knn", "c")
    assert (words["epochs"], words["name"], words["batch"]) == ("18", "played-winner", "32")
    assert LOOKS not in words
    assert judging["name"] == "played-winner-knn"
    assert (words["workers"], judging["workers"]) == ("2", "2")
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


@pytest.mark.parametrize(
    ("protocol", "own", "best", "trained", "judged"),
    [
        ("linear", {}, {}, "2:8", "2:8"),
        ("finetune", {}, {}, "2:8", "2"),  # it mixes pictures in pairs
        ("linear", {}, {"method.shared.mixup.alpha": "0.8"}, "2", "2:8"),
        ("linear", {}, {"batch": "6"}, "2:6", "2:8"),
        ("finetune", {"retrain_workers": "8"}, {}, "8", "8"),
    ],
)
def test_the_best_has_the_workers_of_all_trials(
    plan: Plan,
    called: list[Called],
    protocol: str,
    own: dict[str, str],
    best: dict[str, str],
    trained: str,
    judged: str,
) -> None:
    words = {**plan.words, "protocol": protocol, **own}
    retrained(plan._replace(words=words, concurrent=4), best, None)
    assert [words_of(call)["workers"] for call in called] == [trained, judged]


@pytest.mark.parametrize(
    ("best", "fixed", "warmup"),
    [
        ({}, {"epochs": "9"}, None),  # a recipe's own is meant for a whole run
        ({}, {"epochs": "9", "schedule.warmup_epochs": "1"}, "2"),
        ({"schedule.warmup_epochs": "0.5"}, {"epochs": "9"}, "1"),
        ({"schedule.warmup_epochs": "1", "epochs": "3"}, {}, "6"),
    ],
)
def test_a_warm_up_that_was_said_keeps_its_share(
    plan: Plan, called: list[Called], best: dict[str, str], fixed: dict[str, str], warmup: str | None
) -> None:
    retrained(plan._replace(fixed=FIXED | fixed), best, None)
    assert words_of(called[0]).get("schedule.warmup_epochs") == warmup
    assert words_of(called[0])["epochs"] == "18"


def test_it_is_judged_where_and_from_what_the_trials_were(plan: Plan, called: list[Called]) -> None:
    said = {
        "gpus_per_worker": "0.5", "resources": "a100:1", "data.backend": "torch", "data.stage": "never",
        "tracking.experiment": "mine", "data.train": "t", "data.val": "v", "cpus_per_worker": "1",
    }  # fmt: skip
    retrained(plan._replace(fixed=FIXED | said | {"precision": "fp32"}), BEST, None)
    judging = words_of(called[1])
    assert {path: judging.get(path) for path in said} == said
    assert not judging.keys() & {"precision", "encoder", "batch", LOOKS}


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize("trouble", [Mistake("v has no labels"), Failure("the disk is full")])
def test_what_cannot_be_judged_is_trained_all_the_same(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr(finale, "evaluate", refused)
    found = retrained(plan, BEST, None)
    assert (found["checkpoint"], found["judged"]) == ("c", None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
@pytest.mark.usefixtures("called")
def test_a_winner_whose_driver_was_lost_is_finished_once_it_is(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = homed(plan, tmp_path)
    assert plan.tracking_uri is not None
    winner = create_run(
        plan.tracking_uri, "mim_ray", "played-winner", {}, {"mlflow.parentRunId": str(plan.run_id)}
    )
    Home(plan).open(Memory(plan.folder))  # a sitting later
    assert tags_of(plan.tracking_uri, winner)[STATE_TAG] == "interrupted"
    let_training_leave(monkeypatch, {"run_id": winner})
    retrained(plan, BEST, None)
    assert tags_of(plan.tracking_uri, winner)[STATE_TAG] == "finished"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
@pytest.mark.usefixtures("called")
def test_a_winner_is_promoted_by_the_judging_that_was_asked_for(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = homed(plan, tmp_path)
    asked: list[object] = []

    def promoted(*of: object, **words: object) -> dict[str, str]:
        asked.extend([*of[1:], words])
        return {"alias": "champion"}

    let_training_leave(monkeypatch, {"model": "found/1", "run_id": None})
    monkeypatch.setattr(finale, "promoted", promoted)
    assert retrained(plan, BEST, None)["alias"] == "champion"
    assert asked == ["found/1", KNN, {"protocol": "knn"}]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
@pytest.mark.usefixtures("called")
def test_why_a_winner_is_not_promoted_is_in_the_answer(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise Mistake("found/2 is not better")

    let_training_leave(monkeypatch, {"model": "found/2", "run_id": None})
    monkeypatch.setattr(finale, "promoted", refused)
    found = retrained(homed(plan, tmp_path), BEST, None)
    assert ("alias" in found, found["refusal"]) == (False, "found/2 is not better")
