"""How a run shows itself: one live line on a terminal, plain lines in a log."""

from contextlib import ExitStack

from mim_ray.progress import Advance, progress
from mim_ray.training.place import Numbers


class Live:
    """Told how far the run is; after a restart it may be less far than before."""

    def __init__(self, name: str) -> None:
        self._name, self._shown = name, ExitStack()
        self._advance: Advance | None = None
        self._step = 0

    def tell(self, numbers: Numbers) -> None:
        step = int(numbers["step"])
        if self._advance is None:
            shown = progress(self._name, int(numbers["steps"]), "steps", done=step)
            self._advance, self._step = self._shown.enter_context(shown), step
        self._advance(step - self._step, described(numbers))
        self._step = step

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()


def described(numbers: Numbers) -> str:
    words = {
        "epoch {:.1f}": "train/epoch",
        "loss {:.4f}": "train/loss",
        "{:,.0f} img/s": "speed/images_per_second",
        "{:.0f} workers": "workers",
    }
    return ", ".join(text.format(numbers[name]) for text, name in words.items() if name in numbers)
