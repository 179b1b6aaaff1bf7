"""Searches on a fake autoscaling cluster: refused, killed, gone on with, and answered."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mim_ray import processes
from mim_ray.fake_cluster import FakeCluster
from mim_ray.storage import Folder
from mim_ray.training.checkpoint import Checkpoints
from mim_ray.training.job import JOB, job_of
from tests.clusters import SECONDS, Start, cluster, start, until
from tests.databases import fresh
from tests.training.runs import worked

__all__ = ["cluster", "start"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own
    pytest.mark.timeout(900),
]
SPACE = """
from ray import tune

METHOD = "rmae"
SPACE = {"method.measure.penalty": tune.loguniform(0.01, 1.0), "method.t1.mask.ratio": tune.choice([0.5, 0.75])}
GOAL = "train/loss"
"""
WORDS = {
    "encoder": "micro",
    "method.encoder.depth": 1,
    "method.measure.head.depth": 1,
    "data.train": "sample:shapes:n=64",
    "data.backend": "torch",
    "precision": "fp32",
    "batch": 16,
    "epochs": 9,
    "schedule.warmup_epochs": 0.5,
    "tracking.every_steps": 1,
    "checkpoint.every_steps": 4,
    "eval.most": 32,
    "eval.pictures": 0,
    "cpus_per_worker": 1,
}
GROUPS = """
import ray, os
from ray.util import placement_group_table
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
print([name for name, group in placement_group_table().items() if group["state"] != "REMOVED"])
"""


class Searched:
    """A search on the cluster that loses its driver and is gone on with."""

    def __init__(self, cluster: FakeCluster, start: Start, folder: Path) -> None:
        self._cluster, self._start, self.folder = cluster, start, folder
        self._places = [f"storage={folder}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        (folder / "asked.py").write_text(SPACE)

    def begin(self, name: str, **changes: object) -> None:
        words = [f"{path}={value}" for path, value in {**WORDS, "name": name, **changes}.items()]
        self.process = self._start("-m", "mim_ray", "search", "asked.py", *words, *self._places, "--json")

    def go_on(self, name: str) -> None:
        self.process = self._start("-m", "mim_ray", "search", "--resume", name, *self._places, "--json")

    def steps(self, name: str) -> int:
        """That all trials have logged together."""
        journals = (self.folder / name / "runs").glob("*/journal/metrics.jsonl")
        return sum(journal.read_text().count('"train/loss"') for journal in journals)

    def wait_for(self, name: str, steps: int) -> None:
        until(lambda: self.steps(name) >= steps, self.process)

    def lose_driver(self) -> None:
        self.process.kill()
        self.process.communicate()
        until(lambda: not self._titled("TrainWorker"))

    def lose_node(self) -> None:
        before = self._titled("TrainWorker")
        processes.send(min(self._cluster.worker_nodes().values()), signal.SIGKILL)
        until(lambda: not before & self._titled("TrainWorker"))

    def ended(self, code: int = 0) -> dict[str, Any]:
        said, log = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == code, log
        return dict(json.loads(said)) if code == 0 else {"said": log.splitlines()[-1]}

    def left(self) -> set[int]:
        return self._titled("TrainWorker") | self._titled("Trial") | self._titled("Desk")

    def _titled(self, words: str) -> set[int]:
        return {one for one in self._cluster.processes() if words in processes.title(one)}


@pytest.fixture
def searched(cluster: FakeCluster, start: Start, tmp_path: Path) -> Searched:
    return Searched(cluster, start, tmp_path)


def test_a_search_that_loses_drivers_and_a_node_ends_as_one_that_lost_nothing(
    searched: Searched, start: Start
) -> None:
    """Eight trials of two workers where one trial fits at a time."""
    fresh(searched.folder)
    searched.begin("lossy", trials=8, workers_per_trial=2, epochs=3, rungs=1)
    searched.wait_for("lossy", 6)
    searched.lose_driver()
    searched.go_on("lossy")
    searched.wait_for("lossy", 20)
    searched.lose_node()
    searched.wait_for("lossy", 30)
    searched.lose_driver()
    searched.go_on("lossy")
    result = searched.ended()
    assert [row["state"] for row in result["trials"]].count("finished") >= 1
    assert {row["state"] for row in result["trials"]} <= {"finished", "stopped"}
    assert sorted(row["trial"] for row in result["trials"]) == list(range(8))
    client = MlflowClient(f"sqlite:///{searched.folder}/mlflow.db")
    (home,) = [one for one in client.search_experiments() if one.name == "mim_ray"]
    runs = client.search_runs([home.experiment_id])
    assert Counter(run.info.status for run in runs if "mim_ray.trial" not in run.data.tags) == {"FINISHED": 1}
    trials = [run for run in runs if "mim_ray.trial" in run.data.tags]
    assert sorted(int(run.data.tags["mim_ray.trial"]) for run in trials) == list(range(8))
    for run in trials:
        statuses = {"finished": {"FINISHED"}, "stopped": {"KILLED", "FINISHED"}}  # a short one may have just ended
        assert run.info.status in statuses[run.data.tags["mim_ray.state"]]
        assert run.data.tags["mlflow.parentRunId"] == result["run_id"]
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == list(range(1, len(steps) + 1))
    until(lambda: not searched.left())
    said, log = start("-c", GROUPS).communicate(timeout=SECONDS)
    assert said.split() == ["[]"], log


def test_what_cannot_be_is_refused_before_the_first_trial(searched: Searched) -> None:
    wrong: dict[str, dict[str, object]] = {
        "metric=eval/knn_tpo1: no trial logs it: did you mean 'eval/knn_top1'?": {"metric": "eval/knn_tpo1"},
        "workers_per_trial=9: 9 workers need": {"workers_per_trial": 9},
    }
    for words, changes in wrong.items():
        searched.begin("refused", trials=2, **changes)
        assert words in searched.ended(2)["said"]
        assert not (searched.folder / "refused").exists()
    assert not (searched.folder / "mlflow.db").exists()


def weights_of(run: Path) -> str:
    checkpoints = Checkpoints(Folder(str(run / "checkpoints")), keep=1)
    return checkpoints.checksum(checkpoints.names()[0])


def weights_alone(searched: Searched, trial: str) -> str:
    """Of the same run in a process of its own; the trial came second to its slot's."""
    job = job_of((searched.folder / "final" / "runs" / trial / JOB).read_bytes())
    alone = searched.folder / "alone.job"
    words = {**job.overrides, "storage": str(searched.folder / "alone"), "workers": "0"}
    alone.write_text(job._replace(overrides=words, tracking_uri=None, run_id=None).as_json())
    return str(worked(alone).result["weights_sha256"])


def test_finalists_get_other_seeds_and_the_winner_is_trained_registered_and_promoted(searched: Searched) -> None:
    changes = {"data.val": "sample:shapes:n=48,split=val", "epochs": 3, "rungs": 1, "metric": "eval/linear_top1"}
    final = {"finalists": 1, "seeds": 2, "retrain": 2, "protocol": "knn", "tracking.model": "found"}
    fresh(searched.folder)
    searched.begin("final", trials=2, concurrent=1, **changes, **final)
    result = searched.ended()
    assert weights_of(searched.folder / "final" / "runs" / "final-001") == weights_alone(searched, "final-001")
    assert result["best"]["seeds"] == 2
    assert result["best"]["std"] is not None
    (again,) = [row for row in result["trials"] if "seed of" in row]
    assert again["seed of"] == result["best"]["trial"]
    assert again["state"] == "finished"
    winner = result["retrained"]
    assert (winner["model"], winner["alias"]) == ("found/1", "champion")
    assert winner["steps"] == 8
    assert 0 <= winner["judged"]["eval/knn_top1"] <= 1
    drawn = {path.name for path in (searched.folder / "final" / "report").iterdir()}
    assert {"trials.json", "learning_curves.png", "responses.png", "parallel_coordinates.png"} <= drawn
