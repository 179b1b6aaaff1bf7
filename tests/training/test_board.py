"""When a run that is lost again and again is given up."""

from mim_ray.board import FRUITLESS, Board


def test_a_run_that_is_lost_at_the_same_step_again_and_again_is_given_up() -> None:
    """Also where its processes die without a word, as where memory runs out."""
    board = Board()
    for _ in range(FRUITLESS):
        assert board.begins(2) is None
        board.tell({"step": 40})
    assert board.begins(2) is not None
    assert board.refusal() == (
        "Failure",
        f"lost {FRUITLESS} times in a row at step 40: its processes ended without a word",
    )


def test_one_loss_is_one_however_many_workers_saw_it() -> None:
    board = Board()
    assert board.begins(8) is None
    for rank in range(7):
        board.failed(f"worker {rank} lost sight of another")
    assert board.refusal() is None
    assert board.begins(8) is None


def test_a_run_that_gets_on_is_not_given_up() -> None:
    board = Board()
    for step in range(3 * FRUITLESS):
        board.tell({"step": step})
        assert board.begins(2) is None


def test_a_change_of_workers_is_no_loss_at_the_same_place() -> None:
    board = Board()
    for workers in range(1, 3 * FRUITLESS):
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


def test_a_warning_of_several_workers_is_told_once() -> None:
    board = Board()
    for _ in range(2):
        board.say("the disk is full")
    assert board.news() == (["the disk is full"], {}, False)
    board.say("the disk is full")
    board.say("there is room again")
    board.tell({"step": 3})
    assert board.news() == (["there is room again"], {"step": 3}, False)
    board.refuse("Mistake", "no such file")
    assert board.news() == ([], {"step": 3}, True)
