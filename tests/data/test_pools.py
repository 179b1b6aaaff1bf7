"""Processes that work on one thing together."""

import multiprocessing
import os

import pytest

from mim_ray.data.pools import CHUNK, Killed, spread

MORE_THAN_A_PIPE_HOLDS = 1 << 22


def large(index: int) -> bytes:
    return bytes([index % 256]) * MORE_THAN_A_PIPE_HOLDS


def square(index: int) -> int:
    return index * index


def at_home(_: int) -> int:
    return os.getpid()


def refused(index: int) -> int:
    return 1 // index


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_asked_for_again_and_again(workers: int) -> None:
    with spread(square, workers) as squares:
        for indices in ([], [3, 1, 2], list(range(20 * CHUNK, 0, -1))):
            assert list(squares(indices)) == [(index, index * index) for index in indices]


def test_no_more_processes_start_than_there_is_work_for() -> None:
    with spread(at_home, 8) as homes:
        assert len({home for _, home in homes(list(range(2 * CHUNK)))}) == 2
    assert not multiprocessing.active_children()


def test_a_process_killed_in_the_middle_of_an_answer_is_no_hang() -> None:
    with spread(large, 2) as answers_to:
        answers = answers_to(list(range(20 * CHUNK)))
        next(answers)
        for process in multiprocessing.active_children():
            process.kill()  # in the middle of an answer that nobody reads yet
        with pytest.raises(Killed):
            list(answers)
    assert not multiprocessing.active_children()


def test_what_the_work_raises_is_raised_here_and_says_where() -> None:
    with pytest.raises(ZeroDivisionError) as refusal, spread(refused, 2) as answers:
        list(answers([1, 0]))
    assert "in refused" in refusal.value.__notes__[0]
