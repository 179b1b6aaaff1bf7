"""FFCV's own JPEG decoder and resizer, called from compiled code that holds no Python lock.

Only FFCV's native library is loaded: importing the `ffcv` package would set torch's thread count, take
seconds, and bring the loader whose iterator loses errors. The library's functions get names of ours, so that
numba can keep the compiled kernel on disk and the next process starts at once.
"""

import ctypes
import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mim_ray.data.beton import Beton
from mim_ray.errors import Failure
from mim_ray.transforms.crop import Windows

GOOD, UNREADABLE, CORRUPT = 0, 1, 2


def missing() -> str | None:
    """Why this engine cannot be used here, or None."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    if importlib.util.find_spec("ffcv") is None:
        return "ffcv is not installed"
    try:
        _library()
    except OSError as error:
        return f"FFCV's native library does not load: {error}"
    return None


class NativeDecoder:
    """One thread's decoder: its scratch memory, and the compiled kernel all of them share."""

    def __init__(self, beton: Beton, descriptor: int) -> None:
        self._beton, self._descriptor, self._kernel = beton, descriptor, _kernel()
        self._packed = np.empty(int(beton.size.max()), np.uint8)
        self._pixels = np.empty(3 * int((beton.width.astype(np.int64) * beton.height).max()), np.uint8)

    def decode(self, samples: NDArray[np.int64], windows: Windows, out: NDArray[np.uint8]) -> None:
        """`windows` (views, images, 5) of `samples` into `out` (views, images, height, width, 3)."""
        b = self._beton
        bad, problem = self._kernel(
            self._descriptor, b.pointer, b.size, b.mode, b.height, b.width,
            samples, windows, self._packed, self._pixels, out,
        )  # fmt: skip
        if problem == GOOD:
            return
        what = "cannot be read from disk" if problem == UNREADABLE else "is not a sound picture"
        raise Failure(f"{b.path}: {b.name(int(samples[bad]))} {what}: run mim-ray data verify {b.path}")


def sound_jpeg(data: bytes, width: int, height: int) -> bool:
    """Whether FFCV's decoder takes these bytes without complaint (always true where it is not installed)."""
    if missing():
        return True
    source = np.frombuffer(data, np.uint8)
    pixels = np.empty(3 * width * height, np.uint8)
    whole = (height, width, pixels.ctypes.data, height, width, 0, 0, 1, 1, False, False)
    return int(_library().imdecode(source.ctypes.data, len(data), *whole)) == 0


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    package = importlib.util.find_spec("ffcv")
    assert package is not None
    assert package.origin is not None
    found = sorted(Path(package.origin).parent.glob("_libffcv*.so"))
    if not found:
        raise OSError("no _libffcv in the installed package")
    library = ctypes.CDLL(str(found[0]))
    library.imdecode.argtypes = [
        ctypes.c_void_p, ctypes.c_uint64, *[ctypes.c_uint32] * 2, ctypes.c_void_p, *[ctypes.c_uint32] * 6,
        *[ctypes.c_bool] * 2,
    ]  # fmt: skip
    # Each of our threads resizes one picture at a time; OpenCV's pool beneath them only gets in the way.
    library["_ZN2cv13setNumThreadsEi"](0)
    return library


@lru_cache(maxsize=1)
def _kernel() -> Callable[..., tuple[int, int]]:
    from llvmlite import binding

    for ours, theirs in (("mim_ray_imdecode", "imdecode"), ("mim_ray_resize", "resize")):
        address = ctypes.cast(_library()[theirs], ctypes.c_void_p).value
        binding.add_symbol(ours, address)
    from mim_ray.data.kernel import decode_batch

    kernel: Callable[..., tuple[int, int]] = decode_batch
    return kernel


def compile_kernel(beton: Beton) -> Any:
    """Compile, or load from disk, ahead of the first batch."""
    return NativeDecoder(beton, -1)
