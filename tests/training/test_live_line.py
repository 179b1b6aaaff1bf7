"""What a person sees of a run."""

import re
import sys

import pytest

from mim_ray.training.live import Live

NUMBERS = {
    "step": 30, "steps": 120, "workers": 2,
    "train/epoch": 1.5, "train/loss": 0.51234, "train/lr": 1e-3, "speed/images_per_second": 1234.5,
}  # fmt: skip


def test_a_log_says_how_far_a_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Live("first") as live:
        live.tell({"step": 0, "steps": 120})
        live.tell(NUMBERS)
    said = capsys.readouterr().err
    words = r"first: 30/120 steps, [\d,.]+/s, \d+ s left, epoch 1\.5, loss 0\.5123, 1,23[45] img/s, 2 workers\n"
    assert re.fullmatch(words, said), said


def test_a_run_that_goes_back_to_a_checkpoint_counts_from_there(capsys: pytest.CaptureFixture[str]) -> None:
    with Live("first") as live:
        for step in (40, 60, 50, 55):
            live.tell({"step": step, "steps": 120})
    assert capsys.readouterr().err.startswith("first: 55/120 steps, ")


def test_a_terminal_has_one_line_with_what_a_person_looks_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with Live("first") as live:
        live.tell({"step": 10, "steps": 120})
        live.tell(NUMBERS)
    words = (
        r"first .*30/120.* steps/s .*[-\d]:[-\d]{2}:[-\d]{2} epoch 1\.5, loss 0\.5123, 1,23[45] img/s, 2 workers"
    )
    assert re.search(words, re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err))
