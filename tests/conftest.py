"""Tests run in a few processes, a file to a process, each on one thread."""

import os
import signal

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning takes cores of others

for stop, heeded in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if (
        signal.getsignal(stop) == signal.SIG_IGN
    ):  # of `nohup make test &`, whose programs would not hear what they are sent
        signal.signal(stop, heeded)

LONG = (
    "test_cluster_runs.py",
    "test_searches.py",
    "test_docs.py",
    "test_methods.py",
    "test_world.py",
    "test_live.py",
)
"""Files that begin first, in this order, so that none of them is waited for at the end."""


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, for clusters and servers are mostly waited for."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
