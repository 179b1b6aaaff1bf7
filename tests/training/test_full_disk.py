"""A disk that is full for a while: the run goes on, nothing torn stays, and what could not be written is later."""

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mim_ray.tracking.spool import Spool
from mim_ray.training import logbook
from mim_ray.training.checkpoint import fault_in
from mim_ray.training.job import job_of
from tests.training.runs import job_at, worked

MEGABYTES = 64
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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_run_goes_on_and_the_next_checkpoint_is_whole(disk: Path) -> None:
    """Also what it logs is kept, in order, for an MLflow that is away."""
    job = job_at(disk, "mae", {"steps": 12, "checkpoint.every_steps": 2, "checkpoint.keep": 9})
    job.write_text(job_of(job.read_bytes())._replace(tracking_uri=NOBODY, run_id="r").as_json())
    acts = {3: partial(fill, disk), 7: partial(make_room, disk)}
    ended = worked(job, prepare=be_impatient, at=acts)
    assert ended.code == 0, ended.said
    assert names(disk / "run" / "checkpoints") == [f"step-{step:09}" for step in (0, 2, 8, 10, 12)]
    assert {fault_in(one) for one in (disk / "run" / "checkpoints").iterdir()} == {None}
    for words in ("checkpoint of step 4 could not be", "checkpoint of step 6 could not be", "No space left"):
        assert words in ended.said
    assert ended.said.count("metrics.jsonl cannot be written: ") == 1
    assert ended.said.count("can be written again: nothing was lost") == 1
    assert ended.result["unsent"] == 12
    logged = Spool(disk / "run" / "journal", "r").unsent()
    assert [entry["step"] for entry in logged if isinstance(entry, dict)] == list(range(1, 13))


def test_a_run_that_is_killed_while_the_disk_is_full_loses_nothing(disk: Path) -> None:
    job = job_at(disk, "mae", {"checkpoint.every_steps": 2})
    job.write_text(job_of(job.read_bytes())._replace(tracking_uri=NOBODY, run_id="r").as_json())
    assert worked(job, prepare=be_impatient, at={3: partial(fill, disk)}, die_at=7).code == -9
    make_room(disk)
    ended = worked(job, prepare=be_impatient)
    assert ended.code == 0, ended.said
    assert min(ended.losses) == 3
    assert not [name for name in names(disk / "run" / "checkpoints") if not name.startswith("step-")]
    logged = Spool(disk / "run" / "journal", "r").unsent()
    assert [entry["step"] for entry in logged if isinstance(entry, dict)] == list(range(1, 9))


def test_a_last_checkpoint_without_room_fails_the_run(disk: Path) -> None:
    ended = worked(job_at(disk, "mae", {}), at={5: partial(fill, disk)})
    assert ended.code == 1
    assert "Failure: the last checkpoint could not be written: " in ended.said.splitlines()[-1]
    assert "No space left on device" in ended.said.splitlines()[-1]
    assert names(disk / "run" / "checkpoints") == ["step-000000000", "step-000000003"]
    make_room(disk)
    assert worked(disk / "run.job").code == 0


def test_a_full_disk_is_told_before_a_run_begins(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mim_ray.errors import Failure
    from mim_ray.launch import train

    fill(disk)
    monkeypatch.chdir(disk)
    words = {"data.train": "sample:shapes:n=32", "encoder": "micro", "batch": 8, "workers": 0, "name": "none"}
    with pytest.raises(Failure, match=r"storage=.*cannot be written \(No space left on device\)"):
        train("mae", words, track=False)
    assert names(disk / "runs" / "none") == []
    assert os.statvfs(disk).f_bavail == 0
