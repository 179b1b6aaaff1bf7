"""The journal against a real server that goes away, and in processes that are killed: every step once, always."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

from mim_ray.tracking import sender
from mim_ray.tracking.journal import Journal
from mim_ray.tracking.spool import Record
from tests.tracking.servers import Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own

RunMaker = Callable[[str], str]
NOBODY = "http://user:hunter2@127.0.0.1:9/?token=hunter2"
LOG_STEPS = Path(__file__).with_name("log_steps.py")
PATIENCE = 60.0


def steps_there(uri: str, run_id: str, key: str = "loss") -> list[int]:
    return [metric.step for metric in MlflowClient(uri).get_metric_history(run_id, key)]


def until(true: Callable[[], object]) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it never came true")


def spoken(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.levelname for record in caplog.records if record.name == sender.log.name} <= {"WARNING"}
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def metrics_of(step: int) -> dict[str, float]:
    return {"loss": 1 / (step + 1), "lr": step * 0.5}


# Without a server in between


def test_what_is_logged_is_there_when_the_run_is_closed(database: str, tmp_path: Path, new_run: RunMaker) -> None:
    run_id = new_run(database)
    journal = Journal(tmp_path / "run", database, run_id)
    for step in range(1500):
        journal.log(step, metrics_of(step))
    assert journal.close("FINISHED", PATIENCE) == 0
    assert journal.pending() == []
    run = MlflowClient(database).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == metrics_of(1499)
    assert steps_there(database, run_id) == steps_there(database, run_id, "lr") == list(range(1500))


def test_numbers_that_are_none_are_kept(database: str, tmp_path: Path, new_run: RunMaker) -> None:
    run_id = new_run(database)
    journal = Journal(tmp_path / "run", database, run_id)
    journal.log(0, {"nan": math.nan, "up": math.inf, "down": -math.inf})
    assert journal.close("FAILED", PATIENCE) == 0
    run = MlflowClient(database).get_run(run_id)
    assert run.info.status == "FAILED"
    assert math.isnan(run.data.metrics["nan"])
    assert run.data.metrics["up"] > 1e308 > -1e308 > run.data.metrics["down"]


def test_files_are_sent_as_they_were_and_in_their_place(
    database: str, tmp_path: Path, new_run: RunMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, order = new_run(database), list[str]()
    really = MlflowClient.log_batch, MlflowClient.log_artifact

    def log_batch(client: Any, run: str, metrics: Any, **options: Any) -> None:
        order.extend(str(metric.step) for metric in metrics)
        really[0](client, run, metrics, **options)

    def log_artifact(client: Any, run: str, copy: str, to: str | None) -> None:
        order.append(f"{to}/{Path(copy).name}")
        really[1](client, run, copy, to)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    monkeypatch.setattr(MlflowClient, "log_artifact", log_artifact)
    picture, notes = tmp_path / "now.png", tmp_path / "notes.txt"
    journal = Journal(tmp_path / "run", database, run_id)
    for step in (0, 1):
        journal.log(step, {"loss": 1.0})
        picture.write_text(f"picture {step}")
        journal.picture(step, picture, "reconstruction")
    journal.picture(1, picture, "reconstruction")
    for text in ("first", "last"):
        notes.write_text(text)
        journal.file(notes, "texts")
        journal.file(notes)
    journal.log(2, {"loss": 1.0})
    picture.unlink()
    notes.unlink()
    assert journal.close("FINISHED", PATIENCE) == 0
    pictures = [f"pictures/reconstruction/{step:09}.png" for step in (0, 1)]
    assert order == ["0", pictures[0], "1", pictures[1], *2 * ["texts/notes.txt", "None/notes.txt"], "2"]
    client = MlflowClient(database)
    for name, text in ((pictures[0], "picture 0"), ("texts/notes.txt", "last"), ("notes.txt", "last")):
        assert Path(client.download_artifacts(run_id, name)).read_text() == text
    assert not list((tmp_path / "run" / "artifacts").iterdir())


def test_nothing_is_dropped_but_what_was_logged(database: str, tmp_path: Path, new_run: RunMaker) -> None:
    run_id = new_run(database)
    journal = Journal(tmp_path / "run", database, run_id)
    journal.log(5, {"loss": 1.0})
    journal.log(5, {"accuracy": 0.5})
    journal.log(5, {"loss": 2.0})
    journal.log(6, {"loss": 3.0, "accuracy": 0.5})
    assert journal.close("FINISHED", PATIENCE) == 0
    history = MlflowClient(database).get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(5, 1.0), (6, 3.0)]
    assert steps_there(database, run_id, "accuracy") == [5, 6]


def test_a_torn_line_is_logged_again_when_it_is_trained_again(
    database: str, tmp_path: Path, new_run: RunMaker
) -> None:
    run_id = new_run(database)
    before = Journal(tmp_path / "run", NOBODY, run_id)
    for step in range(3):
        before.log(step, metrics_of(step))
    before.close("KILLED", 0)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "time": 17, "metrics": {"lo')
    journal = Journal(tmp_path / "run", database, run_id)
    for step in range(1, 5):
        journal.log(step, metrics_of(step))
    assert journal.close("FINISHED", PATIENCE) == 0
    assert steps_there(database, run_id) == list(range(5))


# Carried by a checkpoint to another machine, and back


def test_what_was_pending_is_sent_from_elsewhere(database: str, tmp_path: Path, new_run: RunMaker) -> None:
    run_id = new_run(database)
    lost = Journal(tmp_path / "lost", NOBODY, run_id)
    for step in range(10):
        lost.log(step, metrics_of(step))
    carried = lost.pending()
    assert [record["step"] for record in carried] == list(range(10))
    assert lost.close("KILLED", 0) == 10
    journal = Journal(tmp_path / "found", database, run_id, carried)
    journal.log(9, metrics_of(9))
    journal.log(10, metrics_of(10))
    assert journal.close("FINISHED", PATIENCE) == 0
    assert steps_there(database, run_id) == list(range(11))


def test_what_the_server_has_is_not_sent_from_elsewhere(database: str, tmp_path: Path, new_run: RunMaker) -> None:
    """The folder is lost, and the checkpoint is from before the last steps that were sent."""
    run_id = new_run(database)
    lost = Journal(tmp_path / "lost", database, run_id)
    for step in range(100):
        lost.log(step, metrics_of(step))
    assert lost.close("KILLED", PATIENCE) == 0
    carried = [Record(step=step, time=17, metrics=metrics_of(step)) for step in range(30, 41)]
    journal = Journal(tmp_path / "found", database, run_id, carried)
    for step in range(41, 120):
        journal.log(step, {**metrics_of(step), "since": 1.0})
    assert journal.close("FINISHED", PATIENCE) == 0
    for key in ("loss", "lr"):
        assert steps_there(database, run_id, key) == list(range(120))
    assert steps_there(database, run_id, "since") == list(range(41, 120))


def test_what_is_carried_to_its_own_folder_is_sent_once(database: str, tmp_path: Path, new_run: RunMaker) -> None:
    run_id = new_run(database)
    before = Journal(tmp_path / "run", NOBODY, run_id)
    for step in range(10):
        before.log(step, metrics_of(step))
    before.close("KILLED", 0)
    journal = Journal(tmp_path / "run", database, run_id, before.pending()[4:])
    assert journal.close("FINISHED", PATIENCE) == 0
    assert steps_there(database, run_id) == list(range(10))


def test_a_machine_that_comes_back_does_not_send_what_another_sent(
    database: str, tmp_path: Path, new_run: RunMaker
) -> None:
    run_id = new_run(database)
    first = Journal(tmp_path / "first", NOBODY, run_id)
    for step in range(10):
        first.log(step, metrics_of(step))
    first.close("KILLED", 0)
    second = Journal(tmp_path / "second", database, run_id, first.pending()[:6])
    for step in range(6, 20):
        second.log(step, metrics_of(step))
    assert second.close("KILLED", PATIENCE) == 0
    third = Journal(tmp_path / "first", database, run_id)
    for step in range(15, 25):
        third.log(step, metrics_of(step))
    assert third.close("FINISHED", PATIENCE) == 0
    assert steps_there(database, run_id) == list(range(25))


# Refused


def test_a_deleted_run_is_said_once_and_kept(
    database: str, tmp_path: Path, new_run: RunMaker, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = new_run(database)
    journal = Journal(tmp_path / "run", database, run_id)
    journal.log(0, metrics_of(0))
    until(lambda: not journal.pending())
    MlflowClient(database).delete_run(run_id)
    for step in range(1, 4):
        journal.log(step, metrics_of(step))
        time.sleep(0.1)
    assert journal.close("FINISHED", PATIENCE) == 3
    assert [record["step"] for record in journal.pending()] == [1, 2, 3]
    refusal, report = spoken(caplog)
    assert "refuses (" in refusal
    assert "deleted" in refusal
    assert report == f"MLflow lacks 3 records of the run: they stay in {tmp_path / 'run'} until it goes on"
    MlflowClient(database).restore_run(run_id)
    assert Journal(tmp_path / "run", database, run_id).close("FINISHED", PATIENCE) == 0
    assert steps_there(database, run_id) == [0, 1, 2, 3]


def test_a_run_deleted_before_names_the_way_out(
    database: str, tmp_path: Path, new_run: RunMaker, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = new_run(database)
    MlflowClient(database).delete_run(run_id)
    journal = Journal(tmp_path / "run", database, run_id)
    journal.log(0, {"loss": 1.0})
    assert journal.close("FINISHED", PATIENCE) == 1
    assert f"refuses (the run was deleted there: `mlflow runs restore --run-id {run_id}`)" in spoken(caplog)[0]


def too_large() -> Exception:
    answer = requests.Response()
    answer.status_code = 413
    return requests.HTTPError("Request Entity Too Large", response=answer)


def not_allowed() -> Exception:
    """As a store of artifacts says it that is not behind the server."""
    error = RuntimeError("AccessDenied")
    error.response = {"Error": {"Code": "AccessDenied"}}  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(("error", "lines"), [(too_large(), 2), (not_allowed(), 4), (PermissionError("no"), 4)])
def test_a_file_that_is_never_taken_does_not_stop_the_rest(
    database: str,
    tmp_path: Path,
    new_run: RunMaker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    lines: int,
) -> None:
    def never(*_: object) -> None:
        raise error

    run_id = new_run(database)
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.01)
    with monkeypatch.context() as full:
        full.setattr(MlflowClient, "log_artifact", never)
        journal = Journal(tmp_path / "run", database, run_id)
        journal.file(Path(__file__), "code")
        journal.log(0, {"loss": 1.0})
        assert journal.close("FINISHED", PATIENCE) == 1
    assert steps_there(database, run_id) == [0]
    said = spoken(caplog)
    assert len(said) == lines
    assert "does not take" in said[0 if lines == 2 else 1]
    copies = tmp_path / "run" / "artifacts"
    assert len(list(copies.glob(f"*/{Path(__file__).name}"))) == 1
    assert Journal(tmp_path / "run", database, run_id).close("FINISHED", PATIENCE) == 0
    there = [file.path for file in MlflowClient(database).list_artifacts(run_id, "code")]
    assert there == [f"code/{Path(__file__).name}"]
    assert not list(copies.iterdir())


@contextmanager
def answering(status: int, asked: list[str]) -> Iterator[str]:
    """The address of a server that says one thing to everything."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"not for you?token=hunter2")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://user:hunter2@127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(("status", "words"), [(403, "refuses"), (401, "refuses"), (500, "does not answer")])
def test_a_server_that_says_no_is_said_once_and_not_asked_often(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, words: str
) -> None:
    asked: list[str] = []
    with answering(status, asked) as uri:
        journal = Journal(tmp_path / "run", uri, "0" * 32)
        journal.file(Path(__file__))
        for step in range(50):
            journal.log(step, {"loss": 1.0})
            time.sleep(0.01)
        assert journal.close("FINISHED", 0.5) == 51
        assert len(asked) <= 12  # twice a try, of which each waits twice as long as the one before
        [trouble, report] = spoken(caplog)
        assert words in trouble
        assert report.startswith("MLflow lacks 51 records of the run")
        assert "hunter2" not in caplog.text
        assert "hunter2" not in "".join(path.read_text() for path in (tmp_path / "run").glob("*.json*"))


def test_nobody_there_costs_the_loop_nothing_and_names_no_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    journal = Journal(folder, NOBODY, "0" * 32)
    for step in range(100):
        journal.log(step, {"loss": 1.0})
    until(lambda: spoken(caplog))
    time.sleep(1.5)
    assert journal.close("KILLED", 0.1) == 100
    assert spoken(caplog) == [
        f"MLflow at http://127.0.0.1:9/ does not answer (Connection refused): run {'0' * 32} is kept in {folder}",
        f"MLflow lacks 100 records of the run: they stay in {folder} until it goes on",
    ]


# A real server, and processes that are killed


def killed_while_sending(folder: Path, uri: str, run_id: str) -> int:
    """How many steps a process had logged that was killed while it was sending them."""
    mark = folder / "sent.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, LOG_STEPS, folder, uri, run_id], env=environment) as process:
        try:
            until(lambda: mark.exists() and json.loads(mark.read_text())["bytes"] > 0)
        finally:
            process.kill()
    return (folder / "metrics.jsonl").read_text().count("\n")


def test_a_killed_process_that_goes_on_from_an_earlier_step_logs_every_step_once(
    server: Server, tmp_path: Path, new_run: RunMaker
) -> None:
    run_id = new_run(server.uri)
    logged = killed_while_sending(tmp_path / "run", server.uri, run_id)
    journal = Journal(tmp_path / "run", server.uri, run_id)
    for step in range(logged // 2, logged + 50):
        journal.log(step, metrics_of(step))
    assert journal.close("FINISHED", PATIENCE) == 0
    for key in ("loss", "lr"):
        assert steps_there(server.uri, run_id, key) == list(range(logged + 50))
    assert MlflowClient(server.uri).get_run(run_id).info.status == "FINISHED"


def test_a_server_that_stops_for_a_while(
    server: Server,
    tmp_path: Path,
    new_run: RunMaker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = new_run(server.uri)
    journal = Journal(tmp_path / "run", server.uri, run_id)
    journal.log(0, metrics_of(0))
    until(lambda: not journal.pending())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.tell(signal.SIGSTOP)
    try:
        for step in range(1, 100):
            journal.log(step, metrics_of(step))
            time.sleep(0.01)
        until(lambda: spoken(caplog))
    finally:
        server.tell(signal.SIGCONT)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for step in range(100, 120):
        journal.log(step, metrics_of(step))
    assert journal.close("FINISHED", PATIENCE) == 0
    assert steps_there(server.uri, run_id) == steps_there(server.uri, run_id, "lr") == list(range(120))
    lost, back = spoken(caplog)
    assert "does not answer (timed out)" in lost
    assert back.endswith("answers again: what was kept is sent")


def test_a_server_that_is_killed_and_started_again(
    server: Server, tmp_path: Path, new_run: RunMaker, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = new_run(server.uri)
    journal = Journal(tmp_path / "run", server.uri, run_id)
    for step in range(300):
        if step == 100:
            server.kill()
        journal.log(step, metrics_of(step))
        time.sleep(0.003)
    picture = tmp_path / "made meanwhile.png"
    picture.write_bytes(b"picture")
    journal.picture(299, picture, "shown")
    until(lambda: spoken(caplog))
    server.start()
    server.wait()
    journal.log(300, metrics_of(300))
    assert journal.close("FINISHED", PATIENCE) == 0
    assert steps_there(server.uri, run_id) == steps_there(server.uri, run_id, "lr") == list(range(301))
    client = MlflowClient(server.uri)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run_id, "pictures/shown")] == [
        "pictures/shown/000000299.png"
    ]
    lost, back = spoken(caplog)
    assert "does not answer (" in lost
    assert back.endswith("answers again: what was kept is sent")


def test_a_journal_that_is_left_sends_nothing_more(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    journal = Journal(tmp_path / "run", NOBODY, "0" * 32)
    journal.log(1, {"loss": 1.0})
    journal.leave()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
    assert [entry["step"] for entry in journal.pending()] == [1]
