"""A process of a run that comes back after another has begun writes nothing any more, and removes nothing."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from mim_ray.errors import Failure, Overtaken
from mim_ray.fence import FENCE, Fence
from mim_ray.launch import train
from mim_ray.storage import Folder, nothing
from mim_ray.tracking.run import create_run
from mim_ray.training.checkpoint import WHOLE, Checkpoints, Snapshot, Writer, fault_in, name_of
from mim_ray.training.job import job_of
from mim_ray.training.live import Live
from mim_ray.training.place import Numbers
from tests.databases import fresh
from tests.forked import SERVER
from tests.training.one_worker import Act, Part, take
from tests.training.runs import FILES_AT_THE_END, job_at, worked

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
WORDS = r"is trained on by another process since .* UTC \(on .*\): this one stops"


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """Of a run."""
    folder = Folder(str(tmp_path / "run") if request.param == "disk" else "memory://fenced/run")
    yield folder
    if folder.names():
        folder.remove("")


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"w": torch.full((3,), float(step))}, {"m": torch.zeros(2)}, {"best": None})


def begun(folder: Folder, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder.below("checkpoints"), keep, Fence(folder))
    checkpoints.begin()
    return checkpoints


def names_of(*steps: int) -> list[str]:
    return [name_of(step) for step in steps]


# The word


def test_whoever_began_last_may_write(folder: Folder) -> None:
    first, second = Fence(folder), Fence(folder)
    first.ask()
    first.claim()
    first.ask()
    second.claim()
    second.claim()
    second.ask()
    for question in (first.ask, first.look, first.claim):
        with pytest.raises(Overtaken, match=WORDS):
            question()
    folder.write(FENCE, b"of another version")
    with pytest.raises(Overtaken, match="is trained on by another process: this one stops"):
        second.ask()


def test_where_storage_is_a_url_a_look_asks_nothing() -> None:
    folder = Folder("memory://looked/run")
    first, second = Fence(folder), Fence(folder)
    first.claim()
    second.claim()
    first.look()
    with pytest.raises(Overtaken):
        first.ask()
    with pytest.raises(Overtaken):
        first.look()


def test_a_word_that_cannot_be_read_is_trouble_and_no_other_process(tmp_path: Path) -> None:
    fence = Fence(Folder(str(tmp_path / "run")))
    fence.claim()
    (tmp_path / "run").rename(tmp_path / "gone for now")
    fence.look()
    with pytest.raises(OSError, match="No such file"):
        fence.ask()
    (tmp_path / "gone for now").rename(tmp_path / "run")
    fence.ask()


def test_a_word_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(Failure, match=r"run: cannot be written \("):
        Fence(Folder(str(tmp_path / "run"))).claim()


# Checkpoints


def test_a_checkpoint_that_comes_late_is_not_written_and_removes_none(folder: Folder) -> None:
    old = begun(folder)
    old.write(snapshot(0))
    new = begun(folder)
    for step in (400, 500):
        new.write(snapshot(step))
    writer = Writer(old, lambda *_: None)
    writer.write(snapshot(100))
    with pytest.raises(Overtaken, match=WORDS):
        writer.insist("last")
    assert old.names() == names_of(500, 400)
    assert not [name for name in folder.below("checkpoints").names() if name.startswith(".part-")]
    with pytest.raises(Overtaken, match=WORDS):
        old.begin()


def test_newer_checkpoints_stay_even_where_nobody_asks(folder: Folder) -> None:
    """In the moment between the question and the removal."""
    old, new = Checkpoints(folder.below("checkpoints"), 2), begun(folder)
    for step in (300, 400):
        new.write(snapshot(step))
    old.write(snapshot(200))
    assert old.names() == names_of(400, 300, 200)


def test_another_takes_over_while_a_checkpoint_arrives(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    old = begun(folder)
    take_in = Folder.take_in

    def late(self: Folder, source: Path, name: str, last: str, ask: Callable[[], None] = nothing) -> None:
        Fence(folder).claim()
        take_in(self, source, name, last, ask)

    monkeypatch.setattr(Folder, "take_in", late)
    with pytest.raises(Overtaken):
        old.write(snapshot(1))
    assert old.names() == []


def tear(folder: Folder, *steps: int) -> None:
    for step in steps:
        folder.below(f"checkpoints/{name_of(step)}").remove(WHOLE)


def test_torn_checkpoints_go_when_there_is_a_newer_one(folder: Folder) -> None:
    first = begun(folder, keep=4)
    for step in (1, 2, 3):
        first.write(snapshot(step))
    tear(folder, 2, 3)
    again = Checkpoints(folder.below("checkpoints"), 1, Fence(folder))
    newest = again.begin()
    assert newest is not None
    assert newest.step == 1
    assert again.names() == names_of(3, 2, 1)
    again.write(snapshot(2))
    assert again.names() == names_of(2)


def test_where_all_are_torn_nothing_begins_and_nothing_is_removed(folder: Folder) -> None:
    first = begun(folder)
    for step in (0, 3, 6):
        first.write(snapshot(step))
    tear(folder, 3, 6)
    words = (
        rf"no checkpoint is whole \(of {name_of(6)}, {WHOLE} is missing\): bring one back, or remove them all and"
    )
    with pytest.raises(Failure, match=words):
        begun(folder)
    assert first.names() == names_of(6, 3)
    folder.remove("checkpoints")
    assert begun(folder).names() == []


def test_a_first_checkpoint_that_is_torn_is_no_loss(folder: Folder) -> None:
    begun(folder).write(snapshot(0))
    tear(folder, 0)
    assert begun(folder).names() == names_of(0)


# Runs


@pytest.mark.parametrize("storage", ["runs", "memory://taken"])
def test_a_run_that_another_process_took_over_is_not_ended(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh(tmp_path))
    tell, folder = Live.tell, Folder(storage).below("run")

    def told(self: Live, numbers: Numbers) -> None:
        tell(self, numbers)
        if numbers.get("train/loss") and numbers["step"] == 4:
            Fence(folder).claim()

    monkeypatch.setattr(Live, "tell", told)
    words: dict[str, Any] = {"encoder": "micro", "data.train": "sample:shapes:n=64", "data.backend": "torch"}
    words |= {"batch": 8, "steps": 16, "workers": 0, "tracking.every_steps": 2, "checkpoint.every_steps": 2}
    with pytest.raises(Overtaken, match=f"run {WORDS}"):
        train("mae", {**words, "eval.every_epochs": "none", "name": "run", "storage": storage})
    assert Checkpoints(folder.below("checkpoints"), 2).names()[0] == name_of(2)
    client = MlflowClient()
    (home,) = [one for one in client.search_experiments() if one.name == "mim_ray"]
    (run,) = client.search_runs([home.experiment_id])
    assert run.info.status == "RUNNING"


def test_a_run_whose_checkpoints_are_all_torn_does_not_begin_again(tmp_path: Path) -> None:
    job = job_at(tmp_path, "mae", {})
    assert worked(job, die_at=7).code == -9
    checkpoints = Checkpoints(Folder(str(tmp_path / "run" / "checkpoints")), 2)
    names = checkpoints.names()
    for name in names:
        checkpoints.folder.below(name).remove(WHOLE)
    refused = worked(job)
    assert refused.code == 1
    assert f"no checkpoint is whole (of {names[0]}, whole.json is missing): bring one back" in refused.said
    assert checkpoints.names() == names


def pause(run: Path) -> None:
    """All of this process; when MLflow's database is not just being written to, or none could write there."""
    log, mark = run / "journal" / "metrics.jsonl", run / "journal" / "sent.json"
    while json.loads(mark.read_text())["bytes"] < log.stat().st_size:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGSTOP)


def pause_before_a_checkpoint_arrives(run: Path) -> None:
    take_in = Folder.take_in

    def late(self: Folder, source: Path, name: str, last: str, ask: Callable[[], None] = nothing) -> None:
        if name == name_of(3):
            pause(run)
        take_in(self, source, name, last, ask)

    Folder.take_in = late  # type: ignore[method-assign]


def tracked(folder: Path) -> Path:
    """A job whose MLflow lies beside it."""
    job = job_at(folder, "rmae", {})
    uri = fresh(folder)
    run_id = create_run(uri, "tests", "run", {}, {})
    job.write_text(job_of(job.read_bytes())._replace(tracking_uri=uri, run_id=run_id).as_json())
    return job


def left_by(job: Path) -> dict[str, Any]:
    """All that is known of a run in the end, but for times."""
    run, begun = job.parent / "run", job_of(job.read_bytes())
    lines = [json.loads(line) for line in (run / "journal" / "metrics.jsonl").read_text().splitlines()]
    client = MlflowClient(begun.tracking_uri)
    history = client.get_metric_history(str(begun.run_id), "train/loss")
    checkpoints = Checkpoints(Folder(str(run / "checkpoints")), 2)
    assert {fault_in(folder) for folder in (run / "checkpoints").iterdir()} == {None}
    sent = json.loads((run / "journal" / "sent.json").read_text())["bytes"]
    return {
        "checkpoints": [(name, checkpoints.checksum(name)) for name in checkpoints.names()],
        "logged": [
            (line["step"], line["metrics"]["train/loss"])
            for line in lines
            if "train/loss" in line.get("metrics", ())
        ],
        "files": sum("copy" in line for line in lines),
        "unsent": (run / "journal" / "metrics.jsonl").stat().st_size - sent,
        "in MLflow": [(point.step, point.value) for point in history],
        "status": client.get_run(str(begun.run_id)).info.status,
        "beside": sorted(path.name for path in run.iterdir()),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    job = tracked(tmp_path_factory.mktemp("undisturbed"))
    ended = worked(job)
    assert ended.code == 0, ended.said
    left = left_by(job)
    assert [step for step, _ in left["logged"]] == [step for step, _ in left["in MLflow"]] == list(range(1, 9))
    assert (left["files"], left["unsent"], left["status"]) == (FILES_AT_THE_END, 0, "FINISHED")
    return left


@pytest.mark.parametrize("place", ["after a step", "before a checkpoint arrives"])
def test_a_process_that_was_paused_comes_back_when_another_has_finished(
    place: str, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    job = tracked(tmp_path)
    of_the_old = Path(shutil.copy(job, tmp_path / "old.job"))
    run = tmp_path / "run"
    at: dict[int, Act] = {4: partial(pause, run)} if place == "after a step" else {}
    prepare: dict[str, Any] = {} if at else {"prepare": partial(pause_before_a_checkpoint_arrives, run)}
    part = Part(of_the_old, 0, 1, tmp_path / "store", at=at, **prepare)
    old = SERVER.Process(target=take, args=(part,))
    old.start()
    try:
        stat = Path("/proc", str(old.pid), "stat")
        deadline = time.monotonic() + 200
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            assert old.is_alive(), part.said.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        new = worked(job)
        assert new.code == 0, new.said
        assert left_by(job) == undisturbed
        os.kill(int(old.pid or 0), signal.SIGCONT)
        old.join(100)
    finally:
        old.kill()
    said = part.said.read_text()
    assert old.exitcode == 1
    assert "Overtaken: " in said.splitlines()[-1]
    assert "is trained on by another process since" in said.splitlines()[-1]
    assert left_by(job) == undisturbed
