"""A journal whose run another process goes on with: nothing more comes from it, here or in MLflow."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mim_ray.errors import Overtaken
from mim_ray.fence import Fence
from mim_ray.storage import Folder
from mim_ray.tracking.journal import Journal
from mim_ray.tracking.sender import Sender
from mim_ray.tracking.spool import Record, Spool

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
RUN = "a" * 32


def record(step: int) -> Record:
    return Record(step=step, time=1000 + step, metrics={"loss": float(step)})


def claimed(place: Path | str) -> Fence:
    fence = Fence(Folder(str(place)))
    fence.claim()
    return fence


def until_sent(journal: Journal) -> None:
    while journal.pending():
        time.sleep(0.02)


def log_on(journal: Journal) -> None:
    """As a loop does that learns of nothing by itself; where storage is a URL its sender does."""
    for step in range(2, 200):
        journal.log(step, {"loss": 1.0})
        time.sleep(0.05)


def test_a_line_that_comes_late_cuts_none_and_confirms_none(tmp_path: Path) -> None:
    old = Spool(tmp_path, RUN, claimed(tmp_path))
    old.append(record(1))
    new = Spool(tmp_path, RUN, claimed(tmp_path))
    for step in (2, 3):
        new.append(record(step))
    ends = [end for _, end in new.entries()]
    new.confirm(ends[1])
    (tmp_path / "curve.png").write_bytes(b"picture")
    for write in (
        lambda: old.append(record(2)),
        lambda: old.confirm(ends[0]),
        lambda: old.add_file(tmp_path / "curve.png", "7.png", "pictures"),
        lambda: Spool(tmp_path, RUN, old._fence),
    ):
        with pytest.raises(Overtaken, match="is trained on by another process since"):
            write()
    new.append(record(4))
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "sent.json").read_text())["bytes"] == ends[1]
    assert not (tmp_path / "artifacts").exists()
    assert new.unsent() == [record(3), record(4)]


def test_a_line_in_the_moment_of_taking_over_is_neither_sent_nor_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN, claimed(tmp_path))
    spool.append(record(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record(9)) + "\n")
    assert spool.unsent() == [record(1)]
    spool.append(record(2))
    assert spool.unsent() == Spool(tmp_path, RUN).unsent() == [record(1), record(2)]


def test_a_log_that_was_cut_gets_no_empty_bytes(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN)
    for step in (1, 2):
        spool.append(record(step))
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    spool.append(record(3))
    assert b"\0" not in (tmp_path / "metrics.jsonl").read_bytes()
    assert spool.unsent() == [record(3)]


@pytest.mark.parametrize("place", ["disk", "memory://overtaken/run"])
def test_two_senders_send_every_step_once(
    place: str, database: str, tmp_path: Path, new_run: Callable[[str], str]
) -> None:
    """Where storage is a URL each of them has a folder of its own."""
    run_id = new_run(database)
    where = tmp_path / "run" if place == "disk" else place
    folders = [tmp_path / "run"] * 2 if place == "disk" else [tmp_path / "old", tmp_path / "new"]
    old = Journal(folders[0], database, run_id, fence=claimed(where))
    old.log(1, {"loss": 1.0})
    until_sent(old)
    new = Journal(folders[1], database, run_id, fence=claimed(where))
    for step in (1, 2, 3):
        new.log(step, {"loss": 1.0})
    until_sent(new)
    with pytest.raises(Overtaken):
        log_on(old)
    old.leave()
    new.log(4, {"loss": 1.0})
    assert new.close("FINISHED", 60.0) == 0
    client = MlflowClient(database)
    assert [point.step for point in client.get_metric_history(run_id, "loss")] == [1, 2, 3, 4]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_that_another_goes_on_with_is_not_ended(
    database: str, tmp_path: Path, new_run: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is overtaken when all is sent already."""
    run_id = new_run(database)
    really = Sender._send_all

    def late(self: Sender) -> None:
        really(self)
        claimed("memory://ended/run")

    monkeypatch.setattr(Sender, "_send_all", late)
    journal = Journal(tmp_path, database, run_id, fence=claimed("memory://ended/run"))
    journal.log(1, {"loss": 1.0})
    assert journal.close("FINISHED", 60.0) == 0
    assert MlflowClient(database).get_run(run_id).info.status == "RUNNING"
