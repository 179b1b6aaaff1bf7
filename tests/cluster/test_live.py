"""A fake autoscaling cluster on this machine: nodes come and go, jobs are sent to it, nothing of it stays."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mim_ray import processes
from mim_ray.fake_cluster import MARK, FakeCluster, fake_cluster

Submit = Callable[..., subprocess.CompletedProcess[str]]

WHERE = """
import ray
ray.init(logging_level="ERROR", log_to_driver=False)
where = ray.remote(num_cpus=1)(lambda: ray.get_runtime_context().get_node_id())
print("ran on", ray.get(where.remote()))
"""

CONNECTED = """
import sys
import ray
from mim_ray.ray_train import connected, placed_here
class Ear:
    def hear(self):
        return "heard"
with connected(sys.argv[1]):
    print(ray.get(placed_here(Ear).hear.remote()))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster(workers=1, idle_seconds=3) as cluster:
        yield cluster
        assert len(cluster.processes()) > 5
    assert cluster.processes() == set()
    assert not [one for one in processes.others() if processes.environment(one).get(MARK) == cluster.mark]
    assert not cluster.folder.exists()


@pytest.fixture
def submit(cluster: FakeCluster, tmp_path: Path) -> Submit:
    def run(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment |= {"HOME": str(tmp_path), **cluster.environment, **changes}
        command = [sys.executable, "-m", "mim_ray", "submit", *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_a_node_comes_for_work_and_leaves_after_it(cluster: FakeCluster) -> None:
    assert cluster.worker_nodes() == {}
    done = subprocess.run(
        [sys.executable, "-c", WHERE],
        env=os.environ | cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    (node,) = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("ran on")]
    assert list(cluster.worker_nodes()) == [node]
    deadline = time.monotonic() + 60
    while cluster.worker_nodes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert cluster.worker_nodes() == {}


def test_a_job_s_output_and_result_are_the_command_s(submit: Submit, cluster: FakeCluster, tmp_path: Path) -> None:
    tracking = "http://tracking.invalid"
    done = submit("--json", "--working-dir", str(tmp_path), "--", "list", "--json", MLFLOW_TRACKING_URI=tracking)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["address"]) == ("SUCCEEDED", cluster.dashboard)
    assert '"methods": ["mae"' in done.stderr
    assert cluster.token not in done.stdout + done.stderr


def test_a_job_that_fails_is_exit_code_1(submit: Submit, cluster: FakeCluster) -> None:
    """With an explicit address, which counts more than Ray's variables."""
    elsewhere = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9", "RAY_AUTH_MODE": ""}
    done = submit("--address", cluster.dashboard, "--", "data", "info", "nowhere.beton", **elsewhere)
    assert done.returncode == 1
    assert "nowhere.beton" in done.stdout
    assert done.stderr.splitlines()[-1].endswith("failed: exit code 2"), done.stderr


def test_a_token_that_is_not_its_own_is_refused_in_words(submit: Submit) -> None:
    done = submit("--", "list", RAY_AUTH_TOKEN="another")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "refused the token" in line
    assert "another" not in line


def test_a_driver_takes_up_the_token_in_the_home(cluster: FakeCluster, tmp_path: Path) -> None:
    """Which Ray does by itself only for a cluster of this machine that it has found."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(cluster.token)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", CONNECTED, cluster.address],
        env={**kept, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "heard" in done.stderr, done.stderr
