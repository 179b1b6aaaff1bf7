"""The same crops without FFCV: pictures decoded by Pillow, resized by two small matrix products in PyTorch."""

import io
import os
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from mim_ray.data.beton import Beton, Mode
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
        problem = None
        if len(data) != b.size[sample]:
            problem = "cannot be read from disk"
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
        raise Failure(f"{b.path}: {b.name(sample)} {problem}: run mim-ray data verify {b.path}")


def resized(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """As OpenCV's INTER_AREA does it, which is what FFCV calls."""
    h, w = picture.shape[:2]
    if (h, w) == (height, width):
        return picture
    shrinks = height <= h and width <= w
    rows, columns = _weights(h, height, shrinks), _weights(w, width, shrinks)
    pixels = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)
    result: NDArray[np.uint8] = (rows @ pixels @ columns.T).round_().byte().permute(1, 2, 0).numpy()
    return result


@lru_cache(maxsize=256)  # the sizes of windows of 256 pixels; of larger pictures it would fill the memory
def _weights(source: int, target: int, shrinks: bool) -> torch.Tensor:
    """(target, source): each output pixel's share of every input pixel along one axis."""
    inverse = target / source
    scale = 1 / inverse  # OpenCV's rounding, which decides where a pixel falls on a boundary
    at = np.arange(target)
    weights = np.zeros((target, source), np.float32)
    if shrinks:
        low, high = at * scale, (at + 1) * scale
        cell = np.arange(source)
        overlap = np.minimum(high[:, None], cell + 1) - np.maximum(low[:, None], cell)
        weights[:] = np.clip(overlap, 0, None)
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        left = np.floor(at * scale).astype(int)
        beyond = ((at + 1) - (left + 1) * inverse).astype(np.float32)
        share = np.where(beyond <= 0, 0, beyond - np.floor(beyond))
        left, share = np.minimum(left, source - 1), np.where(left < source - 1, share, 0)
        weights[at, left] += 1 - share
        weights[at, np.minimum(left + 1, source - 1)] += share
    return torch.from_numpy(weights)
