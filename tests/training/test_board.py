"""When a run that is lost again and again is given up."""

from mim_ray.board import LOSSES, Board


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


def test_what_the_world_refuses_twice_in_a_row_is_the_end() -> None:
    """A worker beside the first that reads the same is no second time, and a later step is another matter."""
    board = Board()
    board.begins(2)
    board.tell({"step": 3})
    board.refused("the loader hangs", " (worker 0)")
    board.refused("the loader hangs", " (worker 1)")
    assert board.begins(2) is None
    board.tell({"step": 9})
    board.refused("the loader hangs", " (worker 0)")
    assert board.begins(2) is None
    assert board.refusal() is None
    board.refused("the loader hangs", " (worker 1)")
    assert board.refusal() == ("Failure", "the loader hangs (worker 1)")


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
