"""A disk that is full for a while: the run goes on, nothing torn stays, and what could not be written is later."""

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mim_ray.errors import Failure
from mim_ray.launch import train
from mim_ray.tracking.spool import Spool
from mim_ray.training import logbook
from mim_ray.training.checkpoint import fault_in
from mim_ray.training.job import job_of
from tests.training.runs import ENTRIES_AT_THE_END, job_at, worked

MEGABYTES = 128
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """To the last byte."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            return


def make_room(disk: Path) -> None:
    (disk / "filler").unlink()


def be_impatient() -> None:
    logbook.PATIENCE_SECONDS = 0.1


def job_on(disk: Path, **changes: object) -> Path:
    """The run's own folder is there, and what the tests keep of it beside."""
    job = job_at(disk.parent, "mae", {"storage": str(disk), "checkpoint.every_steps": 8, **changes})
    job.write_text(job_of(job.read_bytes())._replace(tracking_uri=NOBODY, run_id="r").as_json())
    return job


def logged(disk: Path) -> list[int]:
    entries = Spool(disk / "run" / "journal", "r").unsent()
    return [entry["step"] for entry in entries if isinstance(entry, dict) and "train/loss" in entry["metrics"]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_run_goes_on_and_the_next_checkpoint_is_whole(disk: Path) -> None:
    """Also what it logs is kept, in order, for an MLflow that is away."""
    acts = {3: partial(fill, disk), 21: partial(make_room, disk)}
    ended = worked(job_on(disk, steps=24), prepare=be_impatient, at=acts)
    assert ended.code == 0, ended.said
    assert names(disk / "run" / "checkpoints") == [f"step-{step:09}" for step in (0, 24)]
    assert {fault_in(one) for one in (disk / "run" / "checkpoints").iterdir()} == {None}
    for words in ("checkpoint of step 8 could not be", "checkpoint of step 16 could not be", "No space left"):
        assert words in ended.said
    assert ended.said.count("metrics.jsonl cannot be written: ") == 1
    assert ended.said.count("can be written again: nothing was lost") == 1
    assert ended.result["unsent"] == 24 + ENTRIES_AT_THE_END
    assert logged(disk) == list(range(1, 25))


def test_a_run_that_is_killed_while_the_disk_is_full_loses_nothing(disk: Path) -> None:
    job = job_on(disk, steps=24)
    assert worked(job, prepare=be_impatient, at={3: partial(fill, disk)}, die_at=20).code == -9
    assert 3 < logged(disk)[-1] < 20  # the last lines were in memory
    make_room(disk)
    ended = worked(job, prepare=be_impatient)
    assert ended.code == 0, ended.said
    assert min(ended.losses) == 1
    assert not [name for name in names(disk / "run" / "checkpoints") if not name.startswith("step-")]
    assert logged(disk) == list(range(1, 25))


def test_a_last_checkpoint_without_room_fails_the_run(disk: Path) -> None:
    job = job_on(disk)
    ended = worked(job, prepare=be_impatient, at={3: partial(fill, disk)})
    assert ended.code == 1
    assert "Failure: the last checkpoint could not be written: " in ended.said.splitlines()[-1]
    assert "No space left on device" in ended.said.splitlines()[-1]
    assert names(disk / "run" / "checkpoints") == ["step-000000000"]
    make_room(disk)
    assert worked(job, prepare=be_impatient).code == 0


def test_a_full_disk_is_told_before_a_run_begins(disk: Path) -> None:
    fill(disk)
    words = {"data.train": "sample:shapes:n=32", "batch": 8, "workers": 0, "name": "none", "storage": str(disk)}
    with pytest.raises(Failure, match=r"storage=.*cannot be written \(No space left on device\)"):
        train("mae", words, track=False)
    assert names(disk / "none") == []
