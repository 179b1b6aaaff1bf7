"""When a run that is lost again and again is given up."""

import errno
from pathlib import Path

import pytest

from mim_ray.board import LOSSES, PAUSES, Board
from mim_ray.ray_train import is_there, wait
from mim_ray.storage import Folder
from mim_ray.training.job import JOB


def test_a_run_that_never_comes_to_a_next_checkpoint_is_given_up() -> None:
    """However far each of its groups had come, and also where processes die without a word, out of memory."""
    board = Board()
    for lost_at in range(LOSSES):
        assert board.begins(2) is None
        for step in (20, 21 + lost_at):
            board.tell({"step": step, "saved": 20})
    assert board.begins(2) is not None
    words = f"lost {LOSSES} times in a row after step 20: its processes ended without a word"
    assert board.refusal() == ("Failure", words)


def test_one_loss_is_one_however_many_workers_saw_it() -> None:
    board = Board()
    assert board.begins(8) is None
    for rank in range(7):
        board.failed(f"worker {rank} lost sight of another")
    assert board.refusal() is None
    assert board.begins(8) is None


def test_a_run_that_gets_on_is_not_given_up() -> None:
    board = Board()
    for checkpoint in range(3 * LOSSES):
        assert board.begins(2) is None
        board.tell({"step": 10 * checkpoint, "saved": 10 * checkpoint})
        board.tell({"step": 10 * checkpoint + 9, "saved": 10 * checkpoint})


def test_one_checkpoint_makes_up_for_many_losses() -> None:
    board = Board()
    for _ in range(LOSSES - 1):
        assert board.begins(2) is None
        board.tell({"step": 20, "saved": 20})
    assert board.begins(2) is None
    board.tell({"step": 20, "saved": 20})
    board.tell({"step": 500, "saved": 400})
    assert board.begins(2) is None


def test_a_change_of_workers_is_no_loss() -> None:
    board = Board()
    for workers in range(1, 3 * LOSSES):
        assert board.begins(workers) is None


def refused_until_the_end(board: Board, workers: list[int]) -> list[float]:
    """How long each group waits before it tries."""
    waited: list[float] = []
    while board.refusal() is None:
        assert board.begins(workers[len(waited) % len(workers)]) is None
        waited.append(board.pause())
        board.refused("the disk is away", " (worker 0)")
        board.refused("the disk is away, too", " (worker 1)")  # that is no second time
    return waited


@pytest.mark.parametrize("workers", [[2], [2, 3]])
def test_what_the_world_refuses_is_tried_again_for_minutes(workers: list[int]) -> None:
    """However many workers try it, and whether or not they read the same; each pause is told."""
    board = Board()
    assert refused_until_the_end(board, workers) == [0.0, *PAUSES]
    assert board.refusal() == ("Failure", "the disk is away (worker 0)")
    assert sum(PAUSES) > 300
    said = [words for words in board.news()[0] if "tried again in" in words]
    assert said[0] == "the disk is away (worker 0): tried again in 5 s"
    assert len(said) == len(PAUSES)


def test_a_newer_checkpoint_makes_up_for_what_was_refused() -> None:
    board = Board()
    for checkpoint in range(3 * len(PAUSES)):
        assert board.begins(2) is None
        assert board.pause() == (PAUSES[0] if checkpoint else 0.0)
        board.tell({"step": checkpoint, "saved": checkpoint})
        board.refused("the loader hangs", "")
    assert board.refusal() is None


def test_after_a_loss_that_nobody_refused_no_group_waits() -> None:
    board = Board()
    board.begins(2)
    board.refused("the disk is away", "")
    board.begins(2)
    board.failed("a node is lost")
    board.begins(2)
    assert board.pause() == 0.0


def test_whoever_asks_for_the_end_does_not_wait_for_it() -> None:
    slept: list[float] = []
    wait(2.5, lambda: False, slept.append)
    assert slept == [1.0, 1.0, 0.5]
    wait(300.0, lambda: len(slept) == 5, slept.append)
    assert len(slept) == 5


def test_a_disk_that_does_not_answer_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(str(tmp_path))
    assert not is_there(folder)
    folder.write(JOB, b"{}")
    assert is_there(folder)

    def stale(*_: object, **__: object) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(folder.fs, "exists", lambda _: False)  # as fsspec says of it
    assert is_there(folder)
    monkeypatch.setattr(folder.fs, "cat_file", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        is_there(folder)


def test_a_mistake_is_the_users_until_a_group_has_got_on() -> None:
    """Then the number of workers is another, or the memory that is free."""
    board = Board()
    board.begins(8)
    board.mistaken("batch norms would see pieces", " (worker 0)")
    assert board.refusal() == ("Mistake", "batch norms would see pieces (worker 0)")
    board = Board()
    board.begins(8)
    board.tell({"step": 0, "saved": 0})
    board.begins(7)
    board.mistaken("batch norms would see pieces", " (worker 0)")
    assert board.refusal() is None
    board.begins(8)
    assert board.pause() == PAUSES[0]
    board.tell({"step": 0, "saved": 0})
    board.mistaken("nothing of that name is found", "")  # in a group that has begun
    assert board.refusal() == ("Mistake", "nothing of that name is found")


def test_workers_are_told_to_stop_or_to_have_a_checkpoint() -> None:
    board = Board()
    assert board.asks() == (False, False)
    board.make_ready(True)
    assert board.asks() == (False, True)
    board.make_ready(False)
    board.ask_to_stop()
    assert board.asks() == (True, False)


def test_a_warning_of_several_workers_is_told_once() -> None:
    board = Board()
    for _ in range(2):
        board.say("the disk is full")
    assert board.news() == (["the disk is full"], {}, 0, False)
    board.say("the disk is full")
    board.say("there is room again")
    board.tell({"step": 3})
    assert board.news() == (["there is room again"], {"step": 3}, 1, False)
    board.refuse("Mistake", "no such file")
    assert board.news() == ([], {"step": 3}, 1, True)


def test_a_run_that_another_board_has_is_over_and_one_of_a_newer_group_is_not() -> None:
    board = Board()
    board.begins(2)
    old = board.number()
    board.begins(2)
    board.overtaken("run is trained on by another process", old)
    assert board.refusal() is None
    board.overtaken("run is trained on by another process", board.number())
    assert board.refusal() == ("Overtaken", "run is trained on by another process")
