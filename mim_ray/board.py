"""Workers and whoever launched them leave word for each other here; an actor that imports nothing."""

FRUITLESS = 6
"""How often in a row a run may fail at the same step before it is given up."""


class Board:
    """Where workers and whoever launched them leave word for each other."""

    def __init__(self) -> None:
        self._numbers: dict[str, float] = {}
        self._stop = False
        self._refusal: tuple[str, str] | None = None
        self._failures: list[tuple[float, str]] = []

    def tell(self, numbers: dict[str, float]) -> None:
        self._numbers = numbers

    def heard(self) -> dict[str, float]:
        return self._numbers

    def ask_to_stop(self) -> None:
        self._stop = True

    def is_asked_to_stop(self) -> bool:
        return self._stop

    def refuse(self, kind: str, words: str) -> None:
        """Something that no restart would mend."""
        self._refusal = self._refusal or (kind, words)

    def failed(self, words: str) -> None:
        """Something that a restart may mend, unless it happens again and again at the same place."""
        place = self._numbers.get("step", 0)
        self._failures = [failure for failure in self._failures if failure[0] == place] + [(place, words)]
        if len(self._failures) >= FRUITLESS:
            self.refuse("Failure", f"failed {FRUITLESS} times in a row at step {place:.0f}: {words}")

    def refusal(self) -> tuple[str, str] | None:
        return self._refusal
