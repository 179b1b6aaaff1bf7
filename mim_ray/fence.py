"""Whose a run is: of whoever began last. A process of it that was cut off or paused, and comes back, finds
another's word in the run's folder and stops before it writes."""

import json
import platform
import secrets
import time
from contextlib import suppress

from mim_ray.errors import Overtaken
from mim_ray.storage import Folder

FENCE = ".fence"
"""The word of whoever began last, in the run's folder."""


class Fence:
    """Asked before every write. What comes between question and write has to be harmless: nothing newer is ever
    removed, and a line is only ever appended."""

    def __init__(self, folder: Folder | None) -> None:
        """`None`: of nothing that another could write to."""
        self._folder = folder
        self._mine: bytes | None = None
        self._overtaken: str | None = None

    def claim(self) -> None:
        """From now on every other process of the run is overtaken; a second time this is a question like any."""
        if self._mine is not None:
            self.ask()
        elif self._folder is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            word = {"token": secrets.token_hex(8), "since": since, "host": platform.node()}
            mine = json.dumps(word).encode()
            with self._folder.in_words("written"):
                self._folder.write(FENCE, mine)
            self._mine = mine

    def ask(self) -> None:
        """Raises `Overtaken`, once and for all; and where the word cannot be read, whatever the disk or network
        says. Of a process that never claimed nothing is asked."""
        if self._folder is None or self._mine is None:
            return
        if self._overtaken is None and (there := self._folder.read(FENCE)) != self._mine:
            self._overtaken = f"{self._folder.url} is trained on by another process{_since(there)}: this one stops"
        if self._overtaken is not None:
            raise Overtaken(self._overtaken)

    def look(self) -> None:
        """The same at no cost: on a disk; elsewhere it says what the last question found."""
        if self._folder is not None and (self._folder.local is not None or self._overtaken is not None):
            with suppress(OSError):  # a disk that is gone for now
                self.ask()


OPEN = Fence(None)


def _since(word: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):  # of another version
        said = json.loads(word)
        return f" since {said['since']} (on {said['host']})"
    return ""
