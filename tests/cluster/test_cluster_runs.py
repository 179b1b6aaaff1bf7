"""Training on a fake autoscaling cluster: its nodes come for a run, one of them is lost, and all go after it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mim_ray import processes
from mim_ray.fake_cluster import OBJECT_STORE_BYTES, FakeCluster
from tests.clusters import SECONDS, Start, cluster, start, until
from tests.databases import fresh
from tests.tracking.servers import Server
from tests.training.runs import KILLS, SMALL, job_at, worked

__all__ = ["cluster", "start"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own
    pytest.mark.timeout(300 * (KILLS + 1)),
]
WORDS = {**SMALL, "checkpoint.every_steps": 4, "workers": 2, "cpus_per_worker": 1}

EAGER = """
import os, time
from dataclasses import replace
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"
from mim_ray import cli, ray_train
work = ray_train._work

def work_slowly(config):
    task = config["task"]

    def slow(job, place):
        return task(job, replace(place, tell=lambda numbers: (time.sleep(0.25), place.tell(numbers))))

    return work({**config, "task": slow})

ray_train.RESIZE_SECONDS, ray_train._work = 1.0, work_slowly
cli.main()
"""
"""`mim-ray`, but for how long it waits before it grows, for a node that is lost, and between two steps."""

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


DYING = """
import os
from pathlib import Path
from mim_ray import cli, ray_train
work, mark = ray_train._work, Path("died").absolute()

def work_or_die(config):
    import ray.train
    from mim_ray import ray_group
    if ray.train.get_context().get_world_rank() == 1 and not mark.exists():
        mark.touch()
        ray_group.dist.init_process_group = lambda *_, **__: os.kill(os.getpid(), 9)
    return work(config)

ray_train._work = work_or_die
cli.main()
"""
"""`mim-ray`, but for a second worker that is killed at its first attempt, when the first one waits for it."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.wait()
    yield server
    server.kill()


def words_of(folder: Path, name: str, **changes: object) -> list[str]:
    values = {**WORDS, "name": name, "storage": str(folder), **changes}
    return [f"{path}={value}" for path, value in values.items()]


def newest(run: Path) -> tuple[int, int]:
    """The step of the newest checkpoint and the workers it was written by; -1 and 0 where there is none."""
    with suppress(OSError, IndexError):
        last = sorted((run / "checkpoints").glob("step-*"))[-1]
        state = json.loads((last / "state.json").read_text())
        return state["step"], state["workers"]
    return -1, 0


class Submitted:
    """A run on the cluster, begun and gone on with by `mim-ray submit`, and what it can lose."""

    def __init__(self, cluster: FakeCluster, start: Start, folder: Path, name: str) -> None:
        self._cluster, self._start, self._folder, self._name = cluster, start, folder, name
        self._places = [f"storage={folder}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]

    def begin(self, method: str, **changes: object) -> None:
        self._submit(method, *words_of(self._folder, self._name, **changes), self._places[1])

    def go_on(self) -> None:
        self._submit("--resume", self._name, *self._places)

    def _submit(self, *words: str) -> None:
        self.process = self._start("-m", "mim_ray", "submit", "--json", "--", "train", *words, "--json")

    def step(self) -> int:
        """The last that was logged."""
        journal = self._folder / self._name / "journal" / "metrics.jsonl"
        lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
        steps = [record["step"] for record in map(json.loads, lines) if "step" in record]
        return int(steps[-1]) if steps else 0

    def wait_for(self, step: int) -> None:
        until(lambda: self.step() >= step, self.process)

    def lose(self, what: str, draws: random.Random) -> None:
        """By SIGKILL; a run that has lost its driver is gone on with."""
        until(lambda: self._victims(what), self.process)  # those of before may just have been lost
        before = self._workers()
        processes.send(draws.choice(self._victims(what)), signal.SIGKILL)
        until(lambda: not before & self._workers())
        if what == "driver":
            self.process.communicate(timeout=SECONDS)
            assert self.process.returncode == 1
            self.go_on()

    def _victims(self, what: str) -> list[int]:
        if what == "node":
            return sorted(self._cluster.worker_nodes().values())
        return sorted(self._workers() if what == "worker" else self._titled("python -m mim_ray train"))

    def _workers(self) -> set[int]:
        return self._titled("TrainWorker")

    def _titled(self, words: str) -> set[int]:
        able = (one for one in self._cluster.processes() if processes.program(one) != "sh")
        return {one for one in able if words in processes.title(one)}

    def ended(self) -> dict[str, Any]:
        _, log = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, log
        result: dict[str, Any] = next(
            json.loads(line) for line in log.splitlines() if line.startswith('{"run_id"')
        )
        return result


@contextmanager
def node_by_hand(cluster: FakeCluster) -> Iterator[None]:
    """One that no autoscaler knows of."""
    size = ["--num-cpus", "1", "--object-store-memory", str(OBJECT_STORE_BYTES)]
    joined = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", cluster.address, *size, "--block"],
        env={**os.environ, **cluster.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        for process in processes.others():
            if processes.session(process) == joined.pid:
                processes.send(process, signal.SIGKILL)
        joined.wait()


def test_a_run_grows_and_shrinks_with_the_cluster(
    cluster: FakeCluster, server: Server, start: Start, tmp_path: Path
) -> None:
    """Workers that come and go leave no trace in the curve: the batch is that of all workers together. Meanwhile
    its MLflow server is silent for a minute, and killed once."""
    assert cluster.worker_nodes() == {}
    (monitor,) = (one for one in cluster.processes() if "v2/monitor.py" in processes.title(one))
    words = words_of(tmp_path, "elastic", workers="1:2", steps=5000)
    run = tmp_path / "elastic"
    processes.send(monitor, signal.SIGSTOP)
    try:
        with node_by_hand(cluster):
            driver = start("-c", EAGER, "train", "rmae", *words, f"tracking.uri={server.uri}", "--json")
            until(lambda: newest(run)[1] == 1, driver)
            server.tell(signal.SIGSTOP)
            silent_since = time.monotonic()
            processes.send(monitor, signal.SIGCONT)
            until(lambda: newest(run)[1] == 2, driver)
            processes.send(monitor, signal.SIGSTOP)  # or another node would be there at once
            until(lambda: time.monotonic() - silent_since > 60, driver)
            server.tell(signal.SIGCONT)
            server.kill()
            for node in cluster.worker_nodes().values():
                processes.send(node, signal.SIGKILL)
            until(lambda: newest(run)[1] == 1, driver)
            server.start()
            server.wait()
            driver.send_signal(signal.SIGTERM)
            _, log = driver.communicate(timeout=SECONDS)
    finally:
        processes.send(monitor, signal.SIGCONT)
    assert driver.returncode == 143, log
    lines = (run / "journal" / "metrics.jsonl").read_text().splitlines()
    records = [
        record["metrics"] | {"step": record["step"]} for record in map(json.loads, lines) if "step" in record
    ]
    losses = {record["step"]: record["train/loss"] for record in records if "train/loss" in record}
    last, _ = newest(run)
    assert list(losses) == list(range(1, last + 1))
    changes = {**WORDS, "steps": 5000, "storage": str(tmp_path / "plain"), "checkpoint.every_steps": 1000}
    plain = worked(job_at(tmp_path / "plain", "rmae", changes), stop_at=last)
    assert list(losses.values()) == pytest.approx(list(plain.losses.values()), rel=2e-3)
    client = MlflowClient(server.uri)
    (known,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    history = client.get_metric_history(known.info.run_id, "train/loss")
    assert {point.step: point.value for point in history} == losses
    assert len(history) == last


def test_workers_drivers_and_nodes_are_lost_at_any_moment(
    cluster: FakeCluster, start: Start, tmp_path: Path
) -> None:
    """The run ends as one that lost nothing, and MLflow has each of its steps once."""
    until(lambda: not cluster.worker_nodes())
    draws, what_there_is = random.Random(KILLS), ("worker", "driver", "node")
    losses = [what for _ in range(0, KILLS, 3) for what in draws.sample(what_there_is, 3)][:KILLS]
    steps = 40 * (KILLS + 1)
    fresh(tmp_path)
    run = Submitted(cluster, start, tmp_path, "lossy")
    run.begin("rmae", steps=steps)
    for number, what in enumerate(losses):
        run.wait_for(40 * number + draws.randrange(2, 40))
        until(lambda: len(cluster.worker_nodes()) == 2, run.process)
        time.sleep(draws.uniform(0, 0.2))
        run.lose(what, draws)
    result = run.ended()
    plain = worked(
        job_at(tmp_path / "plain", "rmae", {**WORDS, "steps": steps, "storage": str(tmp_path / "plain")}), world=2
    )
    assert result["weights_sha256"] == plain.result["weights_sha256"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "mim_ray"]
    (known,) = client.search_runs([experiment.experiment_id])
    assert (known.info.run_id, known.info.status) == (result["run_id"], "FINISHED")
    history = client.get_metric_history(result["run_id"], "train/loss")
    assert [(point.step, point.value) for point in history] == list(plain.losses.items())


def test_a_warning_that_a_node_will_go_leaves_a_checkpoint(
    cluster: FakeCluster, start: Start, tmp_path: Path
) -> None:
    run, rare = tmp_path / "warned", {"steps": 100_000, "checkpoint.every_steps": 90_000}
    driver = start("-m", "mim_ray", "train", "mae", *words_of(tmp_path, "warned", **rare), "--no-track")
    until(lambda: newest(run)[0] == 0, driver)
    reason = [
        "--reason",
        "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message",
        "spot",
        "--deadline-remaining-seconds",
    ]
    node = min(cluster.worker_nodes())
    warned = start("-m", "ray.scripts.scripts", "drain-node", "--node-id", node, *reason, "60")
    assert warned.wait(60) == 0, warned.communicate()
    until(lambda: newest(run)[0] > 0, driver)
    assert node in cluster.worker_nodes()
    driver.send_signal(signal.SIGTERM)
    _, log = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 143, log


def test_a_worker_that_dies_before_it_has_begun_is_replaced(start: Start, tmp_path: Path) -> None:
    driver = start("-c", DYING, "train", "mae", *words_of(tmp_path, "dying", steps=4), "--no-track")
    _, log = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 0, log
    assert (tmp_path / "died").exists()
    assert newest(tmp_path / "dying") == (4, 2)


def test_a_dataset_that_one_node_lacks_ends_the_run_in_words(start: Start, tmp_path: Path) -> None:
    driver = start("-c", LACKING, "train", "mae", *words_of(tmp_path, "lacking"), "--no-track")
    _, log = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 2, log
    assert "/nowhere/at/all.beton is not a file" in log.splitlines()[-1]
    assert "(worker 1 of 2, on " in log.splitlines()[-1]


def test_more_than_the_cluster_can_grow_to_is_said_and_not_waited_for(start: Start, tmp_path: Path) -> None:
    driver = start("-m", "mim_ray", "train", "mae", *words_of(tmp_path, "large", workers=3), "--no-track")
    _, log = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 2, log
    assert "workers=3: 3 workers need 3 CPU and the cluster has " in log.splitlines()[-1]
    assert "and cannot grow to that: lower" in log.splitlines()[-1]


def test_all_nodes_go_when_nothing_runs(cluster: FakeCluster) -> None:
    until(lambda: not cluster.worker_nodes())
