"""What is known of each trial, in files that outlive whoever wrote them."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from mim_ray.errors import Failure
from mim_ray.search.memory import TRIALS, Memory, known
from mim_ray.storage import Folder
from tests.search.played import KNN, look, record


def test_records_are_what_they_were_when_they_are_read_again(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    memory = Memory(folder)
    first = memory.add({"optim.blr": 0.1 + 0.2, "batch": "32"}, {"optim.blr": "0.3", "batch": "32"})
    second = memory.add(first.draw, first.words, seed=2, of=0)
    first.see(look(1, 0.25))
    first.state, first.run_id, first.seconds, first.reason = "failed", "abc", 2.5, "its disk is full"
    memory.keep(first)
    again = Memory(folder)
    assert [*again] == [first, second]
    assert [(one.number, one.seed, one.of, one.state) for one in again] == [
        (0, 0, None, "failed"),
        (1, 2, 0, "waiting"),
    ]
    assert known(folder, 1) == second


def test_trials_are_told_by_their_numbers(tmp_path: Path) -> None:
    memory = Memory(Folder(str(tmp_path)))
    for number in range(1002):
        memory.records[number] = record(number)
    memory.keep(record(1001))
    memory.keep(record(7))
    assert [one.number for one in Memory(Folder(str(tmp_path)))] == [7, 1001]
    assert record(7).name("mine") == "mine-007"


def test_a_trial_that_was_taken_away_gives_its_place_to_no_other(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    memory = Memory(folder)
    for _ in range(3):
        memory.add({}, {})
    (tmp_path / TRIALS / "001.json").unlink()
    again = Memory(folder)
    assert again.add({}, {}).number not in (0, 2)
    assert len([*Memory(folder)]) == 3


@pytest.mark.parametrize("content", ["", '{"number": 1', "[]", '{"number": 1}', '{"nummer": 1}', "\x00"])
def test_a_torn_file_is_named(tmp_path: Path, content: str) -> None:
    memory = Memory(Folder(str(tmp_path)))
    memory.add({}, {})
    memory.add({}, {})
    (tmp_path / TRIALS / "001.json").write_text(content)
    with pytest.raises(Failure, match=r"trials/001\.json cannot be read: "):
        Memory(Folder(str(tmp_path)))


def test_a_torn_file_is_named_to_whoever_trains_the_trial(tmp_path: Path) -> None:
    Memory(Folder(str(tmp_path))).add({}, {})
    (tmp_path / TRIALS / "000.json").write_text("{")
    with pytest.raises(Failure, match=r"trials/000\.json cannot be read: "):
        known(Folder(str(tmp_path)), 0)


def test_what_is_half_written_or_of_others_is_no_trial(tmp_path: Path) -> None:
    memory = Memory(Folder(str(tmp_path)))
    memory.keep(record(0))
    (tmp_path / TRIALS / ".001.json.part").write_text("{")
    (tmp_path / TRIALS / "notes.txt").write_text("mine")
    assert [one.number for one in Memory(Folder(str(tmp_path)))] == [0]


def test_a_look_is_kept_once() -> None:
    one = record(0, state="running")
    assert one.see(look(1, 0.1))
    assert not one.see(look(1, 0.9))
    assert one.see(look(3, 0.3))
    assert not one.see(look(2, 0.9))
    assert [seen[KNN] for seen in one.looks] == [0.1, 0.3]
    assert one.epoch == 3


def test_what_was_found_before_anything_was_learnt_is_no_value() -> None:
    one = record(0, state="running")
    assert (one.epoch, one.last(KNN), one.is_open) == (0.0, None, True)
    one.see(look(0, 0.1))
    assert one.last(KNN) is None
    one.see(look(1, 0.2))
    one.see({"look": 2, "step": 20, "epoch": 2, "eval/loss": 1.0})
    assert (one.last(KNN), one.last("eval/loss")) == (0.2, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_newest_value_is_the_newest_number(value: float) -> None:
    assert record(0, 0.1, 0.2, value).last(KNN) == 0.2
    assert record(0, value, 0.2).last(KNN) == 0.2
    assert record(0, value).last(KNN) is None
    assert record(0, 0.1, value).epoch == 2


def test_a_record_is_plain_text() -> None:
    one = record(3, 0.1, float("nan"))
    assert json.loads(json.dumps(asdict(one)))["draw"] == one.draw
