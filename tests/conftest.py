"""Tests run in as many processes as there are cores, each on one thread."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

LONG = ("test_docs.py", "test_methods.py")
"""Files that begin first and are shared between the processes; of every other, one process takes all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)
    for item in items:
        if item.path.name not in LONG:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
