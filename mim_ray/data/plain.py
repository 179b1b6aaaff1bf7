"""The same crops without FFCV: pictures decoded by Pillow, resized in NumPy.

Not in PyTorch, nor by a matrix product: each would start threads of its own under every one of the loader's.
"""

import io
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from mim_ray.data.beton import Beton, Mode
from mim_ray.data.stage import way_out
from mim_ray.errors import Failure
from mim_ray.transforms.crop import Windows


class PlainDecoder:
    """One thread's decoder, with the interface of the native one."""

    def __init__(self, beton: Beton, descriptor: int) -> None:
        self._beton, self._descriptor = beton, descriptor

    def decode(self, samples: NDArray[np.int64], windows: Windows, out: NDArray[np.uint8]) -> None:
        """`windows` (views, images, 5) of `samples` into `out` (views, images, height, width, 3)."""
        for k, sample in enumerate(samples):
            picture = self.picture(int(sample))
            for view in range(len(out)):
                top, left, h, w, mirrored = (int(x) for x in windows[view, k])
                crop = resized(picture[top : top + h, left : left + w], out.shape[2], out.shape[3])
                out[view, k] = crop[:, ::-1] if mirrored else crop

    def picture(self, sample: int) -> NDArray[np.uint8]:
        b = self._beton
        shape = int(b.height[sample]), int(b.width[sample]), 3
        data = os.pread(self._descriptor, int(b.size[sample]), int(b.pointer[sample]))
        if len(data) != b.size[sample]:
            problem = "cannot be read from disk"
        elif not b.plausible[sample]:
            problem = "is not a sound picture"
        elif b.mode[sample] == Mode.RAW:
            return np.frombuffer(data, np.uint8).reshape(shape)
        else:
            try:
                with JpegImageFile(io.BytesIO(data)) as image:  # Image.open would refuse what it finds too large
                    picture = np.asarray(image.convert("RGB"))
                if picture.shape == shape:
                    return picture
                problem = f"is {picture.shape} where {shape} is recorded"
            except (OSError, SyntaxError, ValueError):
                problem = "is not a sound picture"
        raise Failure(
            f"{b.path}: {b.name(sample)} {problem}: {way_out(b.path, f'run mim-ray data verify {b.path}')}"
        )


def resized(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """As OpenCV's INTER_AREA does it, which is what FFCV calls."""
    h, w = picture.shape[:2]
    if (h, w) == (height, width):
        return picture
    shrinks = height <= h and width <= w
    rows = _along_first_axis(picture, height, shrinks)
    columns = _along_first_axis(np.ascontiguousarray(rows.swapaxes(0, 1)), width, shrinks)
    return np.rint(columns, out=columns).astype(np.uint8).swapaxes(0, 1)


def _along_first_axis(pixels: NDArray[Any], target: int, shrinks: bool) -> NDArray[np.float32]:
    cells, shares = _weights(len(pixels), target, shrinks)
    total = np.zeros((target, *pixels.shape[1:]), np.float32)
    for cell, share in zip(cells.T, shares.T, strict=True):
        total += pixels[cell] * share[:, None, None]
    return total


def _weights(source: int, target: int, shrinks: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each output pixel along one axis: the input pixels it is made of, and each one's share."""
    inverse = target / source
    scale = 1 / inverse  # OpenCV's rounding, which decides where a pixel falls on a boundary
    at = np.arange(target)
    first = np.floor(at * scale).astype(np.int64)
    if shrinks:
        low, high = at * scale, (at + 1) * scale
        cells = first[:, None] + np.arange(math.ceil(scale) + 1)
        overlap = np.minimum(high[:, None], cells + 1) - np.maximum(low[:, None], cells)
        shares = np.where(cells < source, np.clip(overlap, 0, None), 0)
        shares /= shares.sum(axis=1, keepdims=True)
    else:
        cells = first[:, None] + np.arange(2)
        beyond = ((at + 1) - (first + 1) * inverse).astype(np.float32)
        second = np.where((beyond <= 0) | (first >= source - 1), 0, beyond - np.floor(beyond))
        shares = np.stack([1 - second, second], axis=1)
    return np.minimum(cells, source - 1), shares.astype(np.float32)
