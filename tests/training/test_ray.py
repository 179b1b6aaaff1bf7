"""A run on a local Ray whose worker and whose driver are killed ends as one that was left alone."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mim_ray import processes
from tests.training.runs import SMALL, job_at, worked

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own
    pytest.mark.timeout(1200),
]
WORDS = {**SMALL, "name": "run", "steps": 24, "checkpoint.every_steps": 4, "workers": 2, "cpus_per_worker": 1}
SECONDS = 400.0


class Driver:
    """`mim-ray` in a process, and everything that Ray starts for it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.mark = secrets.token_hex(8)
        self._journal = folder / "runs" / "run" / "journal" / "metrics.jsonl"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mim_ray", *words, "--json"],
            cwd=folder,
            env=os.environ | {"MIM_RAY_TEST": self.mark, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def step(self) -> int:
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        steps = [entry["step"] for entry in map(json.loads, lines) if "step" in entry]
        return int(steps[-1]) if steps else 0

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + SECONDS
        while self.step() < step:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, f"step {step} does not come"
            time.sleep(0.05)

    def workers(self) -> list[int]:
        mine = (one for one in processes.others() if processes.environment(one).get("MIM_RAY_TEST") == self.mark)
        return [one for one in mine if "TrainWorker" in processes.title(one)]

    def ended(self) -> tuple[int, dict[str, Any], str]:
        said, complained = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, json.loads(said) if said else {}, complained


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(*words: str) -> Driver:
        drivers.append(Driver(tmp_path, *words))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.process.kill()
        driver.process.communicate()


def test_a_worker_is_killed_and_then_the_driver(started: Callable[..., Driver], tmp_path: Path) -> None:
    words = [f"{path}={value}" for path, value in WORDS.items()]
    first = started("train", "rmae", *words)
    first.wait_for_step(6)
    victim = first.workers()[-1]
    processes.send(victim, signal.SIGKILL)
    first.wait_for_step(13)
    assert victim not in first.workers()
    first.process.kill()
    first.process.communicate()
    second = started("train", "--resume", "run")
    code, result, complained = second.ended()
    assert code == 0, complained
    plain = worked(job_at(tmp_path / "plain", "rmae", {**WORDS, "storage": str(tmp_path / "plain")}), world=2)
    assert result["weights_sha256"] == plain.result["weights_sha256"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "mim_ray"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status) == (result["run_id"], "FINISHED")
    history = client.get_metric_history(result["run_id"], "train/loss")
    assert [point.step for point in history] == list(range(1, 25))
    assert [point.value for point in history] == list(plain.losses.values())


def test_a_run_is_asked_to_stop(started: Callable[..., Driver], tmp_path: Path) -> None:
    changes = {"steps": 4000, "checkpoint.every_steps": 3000, "workers": 0}
    words = [f"{path}={value}" for path, value in {**WORDS, **changes}.items()]
    driver = started("train", "mae", *words, "--no-track")
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "runs" / "run" / "checkpoints" / "step-000000000").exists():
        assert driver.process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    driver.process.send_signal(signal.SIGTERM)
    code, _, complained = driver.ended()
    assert code == 143, complained
    assert "stopped after a checkpoint: go on with mim-ray train --resume run" in complained
    newest = max(path.name for path in (tmp_path / "runs" / "run" / "checkpoints").iterdir())
    assert 0 < int(newest.removeprefix("step-")) < 3000
