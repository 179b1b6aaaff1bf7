"""A run that was killed, stopped, torn or resumed ends with the very weights of one that was left alone."""

import json
import os
import random
import time
from functools import partial
from pathlib import Path
from threading import Timer

import pytest

from mim_ray.data.importer import Import, import_set
from mim_ray.data.loader import Batch
from mim_ray.data.sources import open_source
from mim_ray.training.checkpoint import WHOLE, Snapshot, Writer
from mim_ray.training.step import Stepper
from mim_ray.views import Measured
from tests.training.runs import KILLS, job_at, worked


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


@pytest.mark.parametrize(
    ("method", "changes"),
    [("simmim_r50", {"encoder": "resnet-micro", "steps": 5}), ("mocov3", {"steps": 5})],
)
def test_a_cnn_and_an_average_go_on_as_they_were(method: str, changes: dict[str, object], tmp_path: Path) -> None:
    whole = worked(job_at(tmp_path / "whole", method, changes))
    assert whole.code == 0, whole.said
    job = job_at(tmp_path / "killed", method, changes)
    assert worked(job, die_at=4).code == -9
    assert worked(job).result["weights_sha256"] == whole.result["weights_sha256"]


LONG: dict[str, object] = {"steps": 48, "checkpoint.every_steps": 5}


def die_in(seconds: float) -> None:
    Timer(seconds, os.kill, (os.getpid(), 9)).start()


def keep_samples(into: Path) -> None:
    """What every step is given, one line each, also of steps that a kill undoes."""
    step = Stepper.__call__

    def noted(self: Stepper, batch: Batch, *, norm: bool = False) -> Measured:
        with into.open("ab", buffering=0) as file:
            file.write(json.dumps([batch.step, batch.samples.tolist()]).encode() + b"\n")
        return step(self, batch, norm=norm)

    Stepper.__call__ = noted  # type: ignore[method-assign]


def samples_in(file: Path) -> dict[int, list[int]]:
    """By step; the same however often a step was taken."""
    found: dict[int, list[int]] = {}
    for step, samples in map(json.loads, file.read_text().splitlines()):
        assert found.setdefault(step, samples) == samples
    return found


def test_kills_at_any_moment_lose_and_repeat_nothing(tmp_path: Path) -> None:
    whole = worked(
        job_at(tmp_path / "whole", "rmae", LONG), prepare=partial(keep_samples, tmp_path / "whole.seen")
    )
    assert whole.code == 0, whole.said
    draws = random.Random(4)
    job, keep = job_at(tmp_path / "killed", "rmae", LONG), partial(keep_samples, tmp_path / "killed.seen")
    for step in sorted(draws.sample(range(1, 40), KILLS)):
        killed = worked(job, prepare=keep, at={step: partial(die_in, draws.uniform(0, 0.1))})
        assert killed.code == -9, killed.said
    ended = worked(job, prepare=keep)
    assert ended.code == 0, ended.said
    assert ended.result["weights_sha256"] == whole.result["weights_sha256"]
    seen = samples_in(tmp_path / "killed.seen")
    assert seen == samples_in(tmp_path / "whole.seen")
    assert sorted(seen) == list(range(48))
    for first in range(0, 45, 5):  # an epoch of 64 samples is 5 steps of 12
        assert len({sample for step in range(first, first + 5) for sample in seen[step]}) == 60


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


def test_a_torn_checkpoint_does_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    job = job_at(tmp_path, "rmae", {"checkpoint.keep": 1})
    worked(job, die_at=7)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-000000099").mkdir()
    ended = worked(job)
    assert "checkpoint step-000000099 is torn and passed over: whole.json is missing" in ended.said
    assert [path.name for path in folder.iterdir()] == ["step-000000008"]


def test_other_pictures_under_the_same_name_are_refused(tmp_path: Path) -> None:
    beton = tmp_path / "set.beton"
    import_set(open_source("sample:shapes:n=64"), beton, Import(max_resolution=None))
    job = job_at(tmp_path, "rmae", {"data.train": str(beton)})
    assert worked(job, die_at=5).code == -9
    beton.unlink()
    import_set(open_source("sample:shapes:n=80"), beton, Import(max_resolution=None))
    ended = worked(job)
    assert ended.code == 1
    assert f"is of other pictures than {beton} holds now" in ended.said


def test_two_workers_resume_to_the_bit(tmp_path: Path) -> None:
    whole = worked(job_at(tmp_path / "whole", "cmae", {}), world=2)
    assert whole.code == 0, whole.said
    job = job_at(tmp_path / "killed", "cmae", {})
    assert worked(job, world=2, die_at=5).code == -9
    ended = worked(job, world=2)
    assert ended.code == 0, ended.said
    assert ended.result["weights_sha256"] == whole.result["weights_sha256"]


def write_late_and_die() -> None:
    """As a disk that is busy with something else, and then a machine that goes away."""
    write = Writer._write

    def late(self: Writer, snapshot: Snapshot) -> None:
        time.sleep(0.5 if snapshot.step == 3 else 0)
        write(self, snapshot)
        if snapshot.step == 3:
            os.kill(os.getpid(), 9)

    Writer._write = late  # type: ignore[method-assign]


def test_a_checkpoint_that_is_written_late_holds_no_later_step(tmp_path: Path) -> None:
    """Or the mean of the losses since the last report would hold some of them twice."""
    changes: dict[str, object] = {"tracking.every_steps": 8}
    whole = worked(job_at(tmp_path / "whole", "rmae", changes))
    job = job_at(tmp_path / "killed", "rmae", changes)
    assert worked(job, prepare=write_late_and_die).code == -9
    assert worked(job).losses == whole.losses


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    worked(job_at(tmp_path, "mae", {"checkpoint.keep": 2, "checkpoint.every_steps": 2}))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000006", "step-000000008"]
    state = json.loads((tmp_path / "run" / "checkpoints" / names[-1] / "state.json").read_text())
    assert state["step"] == 8
