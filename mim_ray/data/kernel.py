"""The compiled inner loop of the native engine. Import it through `native`, which names the C functions."""

from typing import Any

import numpy as np
from numba import njit, types
from numba.core.types import ExternalFunction

i32, i64, u64, ptr, flag = types.int32, types.int64, types.uint64, types.intp, types.boolean
_imdecode: Any = ExternalFunction(
    "mim_ray_imdecode", i32(ptr, u64, i32, i32, ptr, i32, i32, i32, i32, i32, i32, flag, flag)
)
_resize: Any = ExternalFunction(
    "mim_ray_resize", types.void(i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64)
)
_pread: Any = ExternalFunction("pread", i64(i32, ptr, u64, i64))

_u8, _u16, _u64 = types.uint8, types.uint16, types.uint64
_columns = (types.Array(t, 1, "C", readonly=True) for t in (_u64, _u64, _u8, _u16, _u16))
_signature = types.UniTuple(types.int64, 2)(
    types.int64,
    *_columns,
    types.int64[::1],
    types.Array(types.int32, 3, "A"),
    _u8[::1],
    _u8[::1],
    types.Array(_u8, 5, "A"),
)


@njit(nogil=True, inline="always")
def _read_all(descriptor: Any, target: Any, size: Any, offset: Any) -> bool:
    done = 0
    while done < size:
        got = _pread(np.int32(descriptor), target + done, np.uint64(size - done), offset + done)
        if got <= 0:
            return False
        done += got
    return True


@njit(_signature, nogil=True, cache=True, boundscheck=False)
def decode_batch(
    descriptor: Any, pointer: Any, size: Any, mode: Any, height: Any, width: Any,
    samples: Any, windows: Any, packed: Any, pixels: Any, out: Any,
) -> tuple[int, int]:  # fmt: skip
    """Returns (position in `samples`, problem); problem 0 when all went well, 1 unreadable, 2 corrupt."""
    views, high, wide = out.shape[0], out.shape[2], out.shape[3]
    for k in range(len(samples)):
        sample = samples[k]
        h, w = np.int64(height[sample]), np.int64(width[sample])
        length = np.int64(size[sample])
        start = np.int64(pointer[sample])
        first = np.int64(0)
        if mode[sample] == 0:
            if not _read_all(descriptor, packed.ctypes.data, length, start):
                return k, 1
            if (
                _imdecode(
                    packed.ctypes.data,
                    np.uint64(length),
                    h,
                    w,
                    pixels.ctypes.data,
                    h,
                    w,
                    0,
                    0,
                    1,
                    1,
                    False,
                    False,
                )
                != 0
            ):
                return k, 2
        else:
            first, last = h, np.int64(0)
            for v in range(views):
                first = min(first, np.int64(windows[v, k, 0]))
                last = max(last, np.int64(windows[v, k, 0] + windows[v, k, 2]))
            if length != 3 * h * w:
                return k, 2
            if not _read_all(descriptor, pixels.ctypes.data, (last - first) * w * 3, start + first * w * 3):
                return k, 1
        for v in range(views):
            top, left = windows[v, k, 0] - first, windows[v, k, 1]
            crop = out[v, k]
            _resize(
                0,
                pixels.ctypes.data,
                h - first,
                w,
                top,
                top + windows[v, k, 2],
                left,
                left + windows[v, k, 3],
                crop.ctypes.data,
                high,
                wide,
            )
            if windows[v, k, 4]:
                for y in range(high):
                    for x in range(wide // 2):
                        for c in range(3):
                            other = crop[y, wide - 1 - x, c]
                            crop[y, wide - 1 - x, c] = crop[y, x, c]
                            crop[y, x, c] = other
    return 0, 0
