"""Signals as a question: the first asks for an end after a checkpoint, the second ends at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Asked:
    def __init__(self) -> None:
        self.by: int | None = None

    def __bool__(self) -> bool:
        return self.by is not None

    def hear(self, number: int, _: object) -> None:
        if self:
            raise KeyboardInterrupt
        self.by = number


@contextmanager
def asking() -> Iterator[Asked]:
    """SIGINT and SIGTERM, while inside and in the main thread."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
