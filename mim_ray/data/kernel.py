"""The compiled inner loop of the native engine. Import it through `native`, which names the C functions."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.types import ExternalFunction

GOOD, UNREADABLE, CORRUPT = 0, 1, 2
JPEG = 0
ACCURATE = 4096
"""TJFLAG_ACCURATEDCT. The fast transform that FFCV asks for is 6 % faster and darkens red and blue by a level."""
RGB = 0

i32, i64, u64, ptr = types.int32, types.int64, types.uint64, types.intp
_pread: Any = ExternalFunction("pread", i64(i32, ptr, u64, i64))
_header: Any = ExternalFunction("mim_ray_header", i32(ptr, ptr, u64, ptr, ptr, ptr, ptr))
_decompress: Any = ExternalFunction("mim_ray_decompress", i32(ptr, ptr, u64, ptr, i32, i32, i32, i32, i32))
_resize: Any = ExternalFunction("mim_ray_resize", types.void(*[i64] * 11))

_columns = [types.Array(t, 1, "C", readonly=True) for t in (types.u8, types.u8, types.u1, types.u2, types.u2)]
_scratch = types.u1[::1]
_windows, _out = types.Array(types.i4, 3, "A"), types.Array(types.u1, 5, "A")
_signature = types.UniTuple(i64, 2)(i64, ptr, *_columns, i64[::1], _windows, _scratch, _scratch, _out)


@njit(nogil=True)
def _read(descriptor: Any, into: Any, size: Any, offset: Any) -> bool:
    done = i64(0)
    while done < i64(size):
        got = _pread(i32(descriptor), into.ctypes.data + done, u64(i64(size) - done), offset + done)
        if got <= 0:
            return False
        done += got
    return True


@njit(nogil=True)
def _rows(windows: Any) -> Any:
    first, last = i64(windows[0, 0]), i64(0)
    for view in range(len(windows)):
        first = min(first, i64(windows[view, 0]))
        last = max(last, i64(windows[view, 0] + windows[view, 2]))
    return first, last


@njit(nogil=True)
def _mirror(crop: Any) -> None:
    rows, columns = crop.shape[:2]
    for y in range(rows):
        for x in range(columns // 2):
            for c in range(3):
                left, right = crop[y, x, c], crop[y, columns - 1 - x, c]
                crop[y, x, c], crop[y, columns - 1 - x, c] = right, left


@njit(nogil=True)
def _is_of(jpeg: Any, packed: Any, length: Any, width: Any, height: Any) -> Any:
    """Whether the JPEG is as large as recorded: from any other, TurboJPEG fills what it can and says nothing."""
    found = np.empty(4, np.int32)
    at = found.ctypes.data
    problem = _header(jpeg, packed.ctypes.data, length, at, at + 4, at + 8, at + 12)
    return problem == 0 and found[0] == width and found[1] == height


def _compiled(function: Callable[..., Any]) -> Any:
    """Kept on disk for the next process, unless there is no place for it or what lies there is damaged."""
    try:
        return njit(_signature, nogil=True, cache=True)(function)
    except Exception:
        return njit(_signature, nogil=True)(function)


@_compiled
def decode_batch(
    descriptor: Any, jpeg: Any, pointer: Any, size: Any, mode: Any, height: Any, width: Any,
    samples: Any, windows: Any, packed: Any, pixels: Any, out: Any,
) -> tuple[int, int]:  # fmt: skip
    """Fills `out` (views, images, rows, columns, 3); returns the first image with a problem, and which.

    `jpeg`: a TurboJPEG handle. `packed`, `pixels`: room for the largest stored and the largest decoded picture.
    """
    for k in range(len(samples)):
        sample = samples[k]
        h, w, start = i64(height[sample]), i64(width[sample]), i64(pointer[sample])
        first = i64(0)
        if mode[sample] == JPEG:
            if not _read(descriptor, packed, size[sample], start):
                return k, UNREADABLE
            length = u64(size[sample])
            if not _is_of(jpeg, packed, length, w, h):
                return k, CORRUPT
            if _decompress(jpeg, packed.ctypes.data, length, pixels.ctypes.data, w, 0, h, RGB, ACCURATE):
                return k, CORRUPT
        else:
            # Of raw pixels only the rows are read that some view needs.
            first, last = _rows(windows[:, k])
            if not _read(descriptor, pixels, 3 * w * (last - first), start + 3 * w * first):
                return k, UNREADABLE
            h = last - first
        for view in range(len(out)):
            top, left, high, wide, mirrored = windows[view, k]
            top, crop = top - first, out[view, k]
            rows, columns = crop.shape[:2]
            _resize(
                0, pixels.ctypes.data, h, w, top, top + high, left, left + wide, crop.ctypes.data, rows, columns
            )
            if mirrored:
                _mirror(crop)
    return 0, GOOD
