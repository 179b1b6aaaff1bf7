"""The folder of a run: nothing that was handed to the system is lost, and nothing torn is read."""

import json
from pathlib import Path

import pytest

from mim_ray.errors import Failure
from mim_ray.tracking.spool import BLOCK, Artifact, Record, Spool

RUN = "a" * 32


def record(step: int, **metrics: float) -> Record:
    return Record(step=step, time=1000 + step, metrics=metrics or {"loss": float(step)})


def test_what_is_appended_is_read_in_order_by_the_next_process(tmp_path: Path) -> None:
    (tmp_path / "curve.png").write_bytes(b"picture")
    spool = Spool(tmp_path / "run", RUN)
    spool.append(record(1))
    spool.add_file(tmp_path / "curve.png", "7.png", "pictures")
    spool.append(record(2, loss=0.5, accuracy=0.25))
    first, artifact, last = Spool(tmp_path / "run", RUN).unsent()
    assert (first, last) == (record(1), record(2, loss=0.5, accuracy=0.25))
    assert isinstance(artifact, Artifact)
    assert artifact.target == "pictures/7.png"
    assert (spool.folder / artifact.copy).read_bytes() == b"picture"


def test_what_is_confirmed_is_not_unsent(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN)
    for step in range(3):
        spool.append(record(step))
    ends = [end for _, end in spool.entries()]
    spool.confirm(ends[1])
    assert spool.unsent() == Spool(tmp_path, RUN).unsent() == [record(2)]


@pytest.mark.parametrize("torn", ['{"step": 2, "ti', "x" * (2 * BLOCK), "{"])
def test_a_torn_line_is_cut_off(tmp_path: Path, torn: str) -> None:
    Spool(tmp_path, RUN).append(record(1))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    spool = Spool(tmp_path, RUN)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    spool.append(record(2))
    assert Spool(tmp_path, RUN).unsent() == [record(1), record(2)]


def test_a_first_line_that_is_torn_is_cut_off(tmp_path: Path) -> None:
    Spool(tmp_path, RUN)
    (tmp_path / "metrics.jsonl").write_text("x" * (BLOCK + 1))
    assert Spool(tmp_path, RUN).unsent() == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_damaged_line_is_passed_over(tmp_path: Path) -> None:
    Spool(tmp_path, RUN).append(record(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('\0\0\0\n[1]\n"copy"\n{"step": 2}\n')
    spool = Spool(tmp_path, RUN)
    spool.append(record(3))
    assert spool.unsent() == [record(1), record(3)]


@pytest.mark.parametrize("mark", ["", "{", "[]", '{"run_id": 1}'])
def test_a_damaged_mark_offers_everything_again(tmp_path: Path, mark: str) -> None:
    Spool(tmp_path, RUN).append(record(1))
    (tmp_path / "sent.json").write_text(mark)
    assert Spool(tmp_path, RUN).unsent() == [record(1)]


def test_a_mark_behind_the_end_of_the_log_is_its_end(tmp_path: Path) -> None:
    Spool(tmp_path, RUN).confirm(1000)
    spool = Spool(tmp_path, RUN)
    spool.append(record(1))
    assert spool.unsent() == [record(1)]
    assert json.loads((tmp_path / "sent.json").read_text()) == {"run_id": RUN, "bytes": 1000}


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    Spool(tmp_path, RUN)
    with pytest.raises(Failure, match=f"holds the log of run {RUN}: choose another folder for other"):
        Spool(tmp_path, "other")


def test_a_folder_that_cannot_be_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"file/run cannot be written \(Not a directory\)"):
        Spool(tmp_path / "file" / "run", RUN)


def test_a_file_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"nothing.png cannot be copied .*No such file"):
        Spool(tmp_path / "run", RUN).add_file(tmp_path / "nothing.png", "1.png", "pictures")
