"""Notices are heard within seconds, though losses are read rarely: a checkpoint at once, and on or no further."""

import time
from collections.abc import Iterator
from itertools import chain, pairwise, repeat
from pathlib import Path

import pytest
import torch

from mim_ray.training import listener
from mim_ray.training.job import job_of
from mim_ray.training.listener import Listener
from mim_ray.training.place import Notice, Place
from mim_ray.training.worker import work
from tests.training.runs import job_at

RARELY: dict[str, object] = {"tracking.every_steps": 1000, "checkpoint.every_steps": 1000, "checkpoint.keep": 9}


@pytest.mark.parametrize(("seconds", "steps"), [(0.125, [1, 41, 81]), (2.0, [1, 3, 5]), (60.0, [1, 2, 3])])
def test_it_listens_every_few_seconds(seconds: float, steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    ears, heard = Listener(Place(device=torch.device("cpu"))), []
    for done in range(1, 100):
        clock[0] = done * seconds
        if ears.is_due(done):
            assert ears.hear(done) == Notice.NONE
            heard.append(done)
    assert heard[: len(steps)] == steps


def test_it_listens_after_a_slow_down_where_losses_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the pace of before the next time would be in 5000 steps."""
    clock, asked = [0.0], []

    def notice() -> Notice:
        asked.append(clock[0])
        return Notice.NONE

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    ears = Listener(Place(device=torch.device("cpu"), notice=notice))
    for done in range(1, 201):
        clock[0] += 0.001 if done == 1 else 1.0
        if done % 10 == 0 or ears.is_due(done):
            ears.hear(done)
    assert max(later - sooner for sooner, later in pairwise(asked)) <= 10
    assert len(asked) < 50


def checkpoints(folder: Path, notices: Iterator[Notice]) -> tuple[list[str], int]:
    job = job_of(job_at(folder, "mae", RARELY).read_bytes())
    result = work(job, Place(device=torch.device("cpu"), notice=lambda: next(notices)))
    return sorted(path.name for path in (folder / "run" / "checkpoints").iterdir()), result["steps"]


def test_a_machine_that_may_go_has_its_checkpoint_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, not at every step until it goes."""
    monkeypatch.setattr(listener, "EVERY_SECONDS", 0.0)
    notices = chain([Notice.NONE] * 2, repeat(Notice.SOON))
    assert checkpoints(tmp_path, notices) == (["step-000000000", "step-000000003", "step-000000008"], 8)


def test_a_machine_that_may_go_is_heeded_where_more_were_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "EVERY_SECONDS", 0.0)
    notices = chain([Notice.CHANGE] * 4, repeat(Notice.SOON))
    found, _ = checkpoints(tmp_path, notices)
    assert found == [f"step-{step:09}" for step in (0, 1, 5, 8)]


def test_a_run_that_is_asked_to_stop_ends_between_two_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "EVERY_SECONDS", 0.0)
    notices = chain([Notice.NONE] * 4, repeat(Notice.STOP))
    assert checkpoints(tmp_path, notices) == (["step-000000000", "step-000000005"], 5)
