"""Where the workers of a slot are handed one run after another; an actor that imports nothing."""

from typing import Any


class Desk:
    def __init__(self) -> None:
        self._board: list[Any] = []
        self._number = self._finished = 0
        self._result: dict[str, Any] | None = None
        self._is_over = False

    def give(self, board: list[Any]) -> int:
        """The next run, by the board it is spoken of at; its number."""
        self._board, self._result = board, None
        self._number += 1
        return self._number

    def turn(self, done: int) -> tuple[int, list[Any]] | None:
        """What a worker does that has done this number: the next run, an end, or to ask again."""
        if self._number > max(done, self._finished):
            return self._number, self._board
        return (done, []) if self._is_over else None

    def finish(self, number: int, result: dict[str, Any]) -> None:
        """Whatever else is still on its way of an earlier run comes too late."""
        if number == self._number and number > self._finished:
            self._finished, self._result = number, result

    def finished(self) -> int:
        return self._finished

    def result(self, number: int) -> dict[str, Any] | None:
        return self._result if number == self._finished else None

    def end(self) -> None:
        self._is_over = True
