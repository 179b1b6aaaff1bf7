"""A fake autoscaling cluster, and processes that know of it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mim_ray.fake_cluster import FakeCluster, fake_cluster

Start = Callable[..., "subprocess.Popen[str]"]
SECONDS = 400.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster(workers=2, idle_seconds=20) as cluster:
        yield cluster


@pytest.fixture
def start(cluster: FakeCluster, tmp_path: Path) -> Iterator[Start]:
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


def until(true: Callable[[], object], driver: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert driver is None or driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)
