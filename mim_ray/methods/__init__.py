"""Every method by its name."""

from collections.abc import Callable, Mapping

from mim_ray.config import resolve
from mim_ray.errors import Mistake, nearest
from mim_ray.methods.mae import mae
from mim_ray.run import Run

METHODS: dict[str, Callable[[], Run]] = {"mae": mae}


def resolved(method: str, overrides: Mapping[str, object]) -> Run:
    """The published settings of a method with a user's changes. `encoder=SIZE` is short for its size."""
    if method not in METHODS:
        raise Mistake(f"no method {method!r}{nearest(method, METHODS)}")
    words = {("method.encoder.size" if path == "encoder" else path): to for path, to in overrides.items()}
    return resolve(METHODS[method](), words)
