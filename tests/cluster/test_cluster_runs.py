"""Training on a fake autoscaling cluster: its nodes come for a run, one of them is lost, and all go after it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mim_ray import processes
from mim_ray.fake_cluster import FakeCluster, fake_cluster
from tests.training.runs import SMALL, job_at, worked

pytestmark = pytest.mark.timeout(1200)
SECONDS = 400.0
WORDS = {**SMALL, "steps": 60, "checkpoint.every_steps": 4, "workers": 2, "cpus_per_worker": 1}

EAGER = """
import os
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"
from mim_ray import cli, ray_train
ray_train.RESIZE_SECONDS = 1.0
cli.main()
"""
"""`mim-ray`, but for how long it waits before it grows, and for a node that is lost."""

LACKING = """
from mim_ray import cli, ray_train
work = ray_train._work

def work_without_data(config):
    import ray.train
    task, missing = config["task"], {"data.train": "/nowhere/at/all.beton"}

    def lacking(job, place):
        return task(job._replace(overrides={**job.overrides, **missing}), place)

    return work({**config, "task": lacking} if ray.train.get_context().get_world_rank() == 1 else config)

ray_train._work = work_without_data
cli.main()
"""
"""`mim-ray`, but for a second worker whose machine lacks the dataset."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster(workers=2, idle_seconds=3) as cluster:
        yield cluster


@pytest.fixture
def start(cluster: FakeCluster, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    begun: list[subprocess.Popen[str]] = []

    def run(*command: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, **cluster.environment, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(subprocess.Popen([sys.executable, *command], env=environment, cwd=tmp_path, **pipes))
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def words_of(folder: Path, name: str, **changes: object) -> list[str]:
    values = {**WORDS, "name": name, "storage": str(folder), **changes}
    return [f"{path}={value}" for path, value in values.items()]


def until(true: Callable[[], object], driver: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert driver is None or driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)


def newest(run: Path) -> tuple[int, int]:
    """The step of the newest checkpoint and the workers it was written by; -1 and 0 where there is none."""
    with suppress(OSError, IndexError):
        last = sorted((run / "checkpoints").glob("step-*"))[-1]
        state = json.loads((last / "state.json").read_text())
        return state["step"], state["workers"]
    return -1, 0


def test_nodes_come_for_a_run_and_one_of_them_is_lost(
    cluster: FakeCluster, start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    assert cluster.worker_nodes() == {}
    words = words_of(tmp_path, "lossy")
    driver = start("-m", "mim_ray", "submit", "--json", "--", "train", "rmae", *words, "--no-track", "--json")
    until(lambda: newest(tmp_path / "lossy")[0] >= 4, driver)
    nodes = cluster.worker_nodes()
    assert len(nodes) == 2
    processes.send(min(nodes.values()), signal.SIGKILL)
    until(lambda: len(nodes.keys() | cluster.worker_nodes().keys()) == 3, driver)
    said, log = driver.communicate(timeout=SECONDS)
    assert json.loads(said)["status"] == "SUCCEEDED", log
    result = next(json.loads(line) for line in log.splitlines() if line.startswith('{"run_id"'))
    plain = worked(job_at(tmp_path / "plain", "rmae", {**WORDS, "storage": str(tmp_path / "plain")}), world=2)
    assert result["weights_sha256"] == plain.result["weights_sha256"]
    assert (result["steps"], result["metrics"]["train/loss"]) == (60, plain.losses[60])


def test_a_run_shrinks_and_grows_with_the_cluster(
    cluster: FakeCluster, start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    """Its drops and gains of workers leave no trace in the curve: the batch is that of all workers together."""
    words = words_of(tmp_path, "elastic", workers="1:2", steps=5000)
    uri = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    driver, run = start("-c", EAGER, "train", "rmae", *words, uri, "--json"), tmp_path / "elastic"
    until(lambda: newest(run)[1] == 2, driver)
    (monitor,) = (one for one in cluster.processes() if "v2/monitor.py" in processes.title(one))
    processes.send(monitor, signal.SIGSTOP)  # or another node would be there at once
    try:
        processes.send(min(cluster.worker_nodes().values()), signal.SIGKILL)
        until(lambda: newest(run)[1] == 1, driver)
    finally:
        processes.send(monitor, signal.SIGCONT)
    until(lambda: newest(run)[1] == 2, driver)
    driver.send_signal(signal.SIGTERM)
    _, log = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 143, log
    lines = (run / "journal" / "metrics.jsonl").read_text().splitlines()
    records = [
        record["metrics"] | {"step": record["step"]} for record in map(json.loads, lines) if "step" in record
    ]
    losses = {record["step"]: record["train/loss"] for record in records if "train/loss" in record}
    last, _ = newest(run)
    assert [json.loads(line)["step"] for line in lines] == list(range(1, last + 1))
    changes = {**WORDS, "steps": 5000, "storage": str(tmp_path / "plain"), "checkpoint.every_steps": 1000}
    plain = worked(job_at(tmp_path / "plain", "rmae", changes), stop_at=last)
    assert list(losses.values()) == pytest.approx(list(plain.losses.values()), rel=2e-3)


def test_a_dataset_that_one_node_lacks_ends_the_run_in_words(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    driver = start("-c", LACKING, "train", "mae", *words_of(tmp_path, "lacking"), "--no-track")
    _, log = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 2, log
    assert "/nowhere/at/all.beton is not a file" in log.splitlines()[-1]
    assert "(worker 1 of 2, on " in log.splitlines()[-1]


def test_more_than_the_cluster_can_grow_to_is_said_and_not_waited_for(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    driver = start("-m", "mim_ray", "train", "mae", *words_of(tmp_path, "large", workers=3), "--no-track")
    _, log = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 2, log
    assert "workers=3: 3 workers need 3 CPU and the cluster has " in log.splitlines()[-1]
    assert "and cannot grow to that: lower" in log.splitlines()[-1]


def test_all_nodes_go_when_nothing_runs(cluster: FakeCluster) -> None:
    until(lambda: not cluster.worker_nodes())
