"""A run that was killed, stopped, torn or resumed ends with the very weights of one that was left alone."""

import json
import random
from pathlib import Path

import pytest

from mim_ray.training.checkpoint import WHOLE
from tests.training.runs import job_at, worked


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checksum of the weights that R-MAE ends with."""
    ended = worked(job_at(tmp_path_factory.mktemp("alone"), "rmae", {}))
    assert ended.code == 0, ended.said
    assert list(ended.losses) == list(range(1, 9))
    return str(ended.result["weights_sha256"])


def test_a_run_is_killed_three_times(tmp_path: Path, alone: str) -> None:
    job = job_at(tmp_path, "rmae", {})
    for step in (2, 5, 7):
        assert worked(job, die_at=step).code == -9
    ended = worked(job)
    assert ended.code == 0, ended.said
    assert ended.result["weights_sha256"] == alone
    assert min(ended.losses) == 7


def test_a_run_is_stopped_and_goes_on(tmp_path: Path, alone: str) -> None:
    job = job_at(tmp_path, "rmae", {})
    stopped = worked(job, stop_at=4)
    assert (stopped.code, stopped.result["steps"]) == (0, 4)
    ended = worked(job)
    assert ended.result["weights_sha256"] == alone
    assert min(ended.losses) == 5


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, alone: str) -> None:
    job = job_at(tmp_path, "rmae", {})
    worked(job, die_at=7)
    folder = tmp_path / "run" / "checkpoints"
    newest = sorted(folder.glob("step-*"))[-1]
    victim = newest / random.Random(0).choice(
        ["weights.safetensors", "optimiser.safetensors", "state.json", WHOLE]
    )
    content = victim.read_bytes()
    victim.write_bytes(content[: random.Random(1).randrange(len(content))])
    ended = worked(job)
    assert "is torn and passed over" in ended.said
    assert newest.name in ended.said
    assert ended.result["weights_sha256"] == alone


def test_two_workers_resume_to_the_bit(tmp_path: Path) -> None:
    whole = worked(job_at(tmp_path / "whole", "cmae", {}), world=2)
    assert whole.code == 0, whole.said
    job = job_at(tmp_path / "killed", "cmae", {})
    assert worked(job, world=2, die_at=5).code == -9
    ended = worked(job, world=2)
    assert ended.code == 0, ended.said
    assert ended.result["weights_sha256"] == whole.result["weights_sha256"]


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    worked(job_at(tmp_path, "mae", {"checkpoint.keep": 2, "checkpoint.every_steps": 2}))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000006", "step-000000008"]
    state = json.loads((tmp_path / "run" / "checkpoints" / names[-1] / "state.json").read_text())
    assert state["step"] == 8
