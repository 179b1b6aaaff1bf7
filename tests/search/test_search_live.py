"""What a search shows while it runs."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mim_ray.search import live
from mim_ray.search.live import Live
from mim_ray.search.memory import Memory
from mim_ray.storage import Folder
from tests.search.played import KNN, look, search_of


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    memory = Memory(Folder(str(tmp_path)))
    for number, values in enumerate([(0.2, 0.5), (0.3,), ()]):
        words = {"method.measure.penalty": f"0.{number + 1}"}
        memory.add({}, words)
        for epoch, value in enumerate(values, 1):
            memory.records[number].see(look(epoch, value))
    memory.records[0].state, memory.records[1].state, memory.records[2].state = "finished", "stopped", "running"
    return memory


def test_a_log_has_a_line_for_each_trial_of_which_something_was_learnt(
    memory: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    with Live(search_of(), "played", memory, 8) as shown:
        shown.tell([memory.records[1], memory.records[1]], {})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("played: trial 1 (method.measure.penalty=0.2): epoch 1, eval/knn_top1 0.3, stopped")
    assert "best 0.5 of trial 0" in line
    assert "2 of 8 ended" in line


def test_a_terminal_has_one_table_those_that_run_first_then_the_best(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        live, "Console", lambda **_: Console(file=screen, force_terminal=True, color_system=None, width=160)
    )
    with Live(search_of(), "played", memory, 8) as shown:
        shown.tell([], {2: {"step": 30.0, "steps": 120.0, "left": 90.0}})
    drawn = [line for line in screen.getvalue().splitlines() if "penalty" in line or "0." in line]
    rows = drawn[-4:]
    assert rows[0].split()[:6] == ["trial", "measure.penalty", "epoch", KNN, "rung", "state"]
    assert rows[1].split() == ["2", "0.3", "0", "0", "running,", "25%", "1.5", "min"]
    assert rows[2].split() == ["0", "0.1", "2", "0.5", "1", "finished"]
    assert rows[3].split() == ["1", "0.2", "1", "0.3", "1", "stopped"]


def test_what_is_left_is_told_from_what_ended_since_the_search_went_on(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 60.0, 120.0])
    monkeypatch.setattr("mim_ray.search.live.time.monotonic", lambda: next(now))
    shown = Live(search_of(), "played", memory, 8)
    assert "left" not in shown.line(memory.records[0])
    memory.records[2].state = "finished"
    assert shown.line(memory.records[0]).endswith("3 of 8 ended, about 5 min left")
