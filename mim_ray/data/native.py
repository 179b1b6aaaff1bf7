"""FFCV's native library, called from compiled code that holds no Python lock.

Only that library is loaded, with the libjpeg-turbo and the OpenCV it was built against: importing the `ffcv`
package would set torch's thread count, take seconds, and bring the loader whose iterator loses errors. The
functions get names of ours, so that numba keeps the compiled kernel on disk and the next process starts at once.
"""

import ctypes
import importlib
import importlib.util
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mim_ray.data.beton import Beton
from mim_ray.data.stage import way_out
from mim_ray.errors import Failure
from mim_ray.transforms.crop import Windows


def missing() -> str | None:
    """Why this engine cannot be used here, or None."""
    for package in ("numba", "ffcv"):
        if _home(package) is None:
            return f"{package} is not installed"
    try:
        importlib.import_module("numba")  # one that does not fit this NumPy says so here
        _library()
    except (ImportError, OSError, AttributeError) as error:
        return f"numba or FFCV's native library does not load: {error}"
    return None


class NativeDecoder:
    """One thread's decoder: its scratch memory, its TurboJPEG handle, and the kernel that all of them share."""

    def __init__(self, beton: Beton, descriptor: int) -> None:
        self._beton, self._descriptor, self._kernel = beton, descriptor, _kernel()
        self._packed = np.empty(int(beton.size.max()), np.uint8)
        self._pixels = np.empty(beton.largest_picture_bytes, np.uint8)
        self._jpeg = _new_handle(self)

    def decode(self, samples: NDArray[np.int64], windows: Windows, out: NDArray[np.uint8]) -> None:
        """`windows` (views, images, 5) of `samples` into `out` (views, images, height, width, 3)."""
        from mim_ray.data.kernel import GOOD, UNREADABLE

        b = self._beton
        torn = samples[~b.plausible[samples]]
        if len(torn):
            raise self._failure(int(torn[0]), "is not a sound picture")
        bad, problem = self._kernel(
            self._descriptor, self._jpeg, b.pointer, b.size, b.mode, b.height, b.width,
            samples, windows, self._packed, self._pixels, out,
        )  # fmt: skip
        if problem != GOOD:
            what = "cannot be read from disk" if problem == UNREADABLE else "is not a sound picture"
            raise self._failure(int(samples[bad]), what)

    def _failure(self, sample: int, problem: str) -> Failure:
        path = self._beton.path
        return Failure(
            f"{path}: {self._beton.name(sample)} {problem}: {way_out(path, f'run mim-ray data verify {path}')}"
        )


def sound_jpeg(data: bytes, width: int, height: int) -> bool:
    """Whether the decoder takes these bytes without complaint (always, where it is not installed)."""
    try:
        library = _library()
    except (OSError, AttributeError):
        return True
    source, pixels = np.frombuffer(data, np.uint8), np.empty(3 * width * height, np.uint8)
    handle = library.tjInitDecompress()
    try:
        whole = (pixels.ctypes.data, width, 0, height, 0, 0)
        return int(library.tjDecompress2(handle, source.ctypes.data, len(data), *whole)) == 0
    finally:
        library.tjDestroy(handle)


def _new_handle(owner: object) -> int:
    library = _library()
    handle = int(library.tjInitDecompress())
    weakref.finalize(owner, library.tjDestroy, handle).atexit = False  # a stuck thread may still hold it then
    return handle


def _home(package: str) -> Path | None:
    with suppress(ImportError):
        found = importlib.util.find_spec(package)
        if found is not None and found.origin is not None:
            return Path(found.origin).parent
    return None


@cache
def _library() -> ctypes.CDLL:
    home = _home("ffcv")
    files = sorted(home.glob("_libffcv*.so")) if home else []
    if not files:
        raise OSError("no _libffcv in the installed package")
    library = ctypes.CDLL(str(files[0]))
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjDestroy.argtypes = [ctypes.c_void_p]
    library.tjDecompress2.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, *[ctypes.c_int] * 5
    ]  # fmt: skip
    # Each of our threads resizes one picture at a time; OpenCV's pool beneath them only gets in the way.
    with suppress(AttributeError):
        library["_ZN2cv13setNumThreadsEi"](0)
    return library


@cache
def _kernel() -> Callable[..., tuple[int, int]]:
    from llvmlite import binding

    for ours, theirs in (("header", "tjDecompressHeader3"), ("decompress", "tjDecompress2"), ("resize", "resize")):
        binding.add_symbol(f"mim_ray_{ours}", ctypes.cast(_library()[theirs], ctypes.c_void_p).value)
    from mim_ray.data.kernel import decode_batch

    kernel: Callable[..., tuple[int, int]] = decode_batch
    return kernel
