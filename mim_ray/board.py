"""Workers and whoever launched them leave word for each other here; an actor that imports nothing."""

from typing import Any

LOSSES = 6
"""How often in a row a run may be lost before its next checkpoint until it is given up."""

PAUSES = (5.0, 20.0, 60.0, 180.0, 300.0)
"""Seconds before each new try of what the world refused; what it refuses after all of them is the end."""


class Board:
    """Where workers and whoever launched them leave word for each other."""

    def __init__(self, job: dict[str, Any] | None = None) -> None:
        self._job = job
        self._numbers: dict[str, float] = {}
        self._stop = False
        self._refusal: tuple[str, str] | None = None
        self._words: dict[str, bool] = {}
        self._change_is_near = False
        self._workers, self._saved, self._heard = 0, -1.0, 0
        self._group, self._losses, self._last_words = 0, 0, "its processes ended without a word"
        self._refused_in, self._refusals = -1, 0
        self._got_on_in = 0
        self._looks: dict[int, dict[str, float]] = {}

    def job(self) -> dict[str, Any] | None:
        """Here and not among the settings of Ray Train, which it writes down: an address may hold a password."""
        return self._job

    def tell(self, numbers: dict[str, float]) -> None:
        """By the first worker; a newer checkpoint than any before is what makes up for its losses."""
        self._got_on_in = self._group
        saved = numbers.get("saved", -1)
        if saved > self._saved:
            self._saved, self._losses, self._refusals = saved, 0, 0
        self._numbers = numbers
        self._heard += 1

    def see(self, step: int, found: dict[str, float]) -> None:
        """What is found of the run at a step; after a restart it may be found again."""
        self._looks[step] = found
        self._heard += 1

    def seen(self, after: int) -> list[tuple[int, dict[str, float]]]:
        """What was found at later steps than this one."""
        return sorted((step, found) for step, found in self._looks.items() if step > after)

    def ask_to_stop(self) -> None:
        self._stop = True

    def make_ready(self, ready: bool) -> None:
        """Whether a new group of workers is near, which will go on from the last checkpoint."""
        self._change_is_near = ready

    def asks(self) -> tuple[bool, bool]:
        """Of the workers, all the time: to stop; to have a checkpoint."""
        self._heard += 1
        return self._stop, self._change_is_near

    def refuse(self, kind: str, words: str) -> None:
        """Something that no restart would mend."""
        self._refusal = self._refusal or (kind, words)

    def begins(self, workers: int) -> str | None:
        """Told by the first worker whenever a group of workers begins. A restart may mend what ended the group
        before, an exception or a process that died, unless that happens again and again with no checkpoint."""
        self._losses = self._losses + 1 if workers == self._workers else 0
        self._group, self._workers = self._group + 1, workers
        self._heard += 1
        if self._losses < LOSSES:
            return None
        at = max(0, self._saved)
        self.refuse("Failure", f"lost {LOSSES} times in a row after step {at:.0f}: {self._last_words}")
        return self._last_words

    def mistaken(self, words: str, where: str) -> None:
        """What a worker cannot do as it is asked. Where a group before could, the number of workers has changed
        since, or the memory that is free, and may change again."""
        if 0 < self._got_on_in < self._group:
            self.refused(words, where)
        else:
            self.refuse("Mistake", words + where)

    def refused(self, words: str, where: str) -> None:
        """What the world refused a worker, which may pass: another group tries after a pause. Several workers of
        one group are one refusal; a newer checkpoint makes up for all of them."""
        if self._refused_in != self._group:
            self._refused_in, self._refusals = self._group, self._refusals + 1
            if self._refusals > len(PAUSES):
                self.refuse("Failure", words + where)
            else:
                self.say(f"{words}{where}: tried again in {PAUSES[self._refusals - 1]:.0f} s")
        self.failed(words + where)

    def pause(self) -> float:
        """How many seconds the group that has just begun is to wait, for what the one before was refused."""
        return PAUSES[self._refusals - 1] if self._refusals and self._refused_in == self._group - 1 else 0.0

    def number(self) -> int:
        """Of the newest group of workers."""
        return self._group

    def overtaken(self, words: str, group: int) -> None:
        """By a newer group of this board, as it should be; or by one of another, whose the run is now."""
        if group == self._group:
            self.refuse("Overtaken", words)

    def failed(self, words: str) -> None:
        """An exception of a worker; others of its group may only tell that they lost sight of it."""
        self._last_words = words

    def say(self, words: str) -> None:
        """A warning of a worker; what several say is said once."""
        self._words.setdefault(words, True)

    def news(self) -> tuple[list[str], dict[str, float], int, bool]:
        """What was said since the last time, how far the run is, how often its workers were heard of, and whether
        it has ended in a refusal."""
        new = [words for words, is_new in self._words.items() if is_new]
        self._words |= dict.fromkeys(new, False)
        return new, self._numbers, self._heard, self._refusal is not None

    def refusal(self) -> tuple[str, str] | None:
        return self._refusal
