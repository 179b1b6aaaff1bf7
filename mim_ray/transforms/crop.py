"""Which window of a stored picture becomes which crop: a function of (seed, position, sample) alone."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, PositiveInt

from mim_ray.config import Spec
from mim_ray.draws import Purpose, keys, uniforms

Windows = NDArray[np.int32]
"""(images, 5): top, left, height, width in stored pixels, and 1 where the crop is mirrored."""

Share = Annotated[float, Field(gt=0, le=1)]
Shape = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TRIES = 10


class RandomCrop(Spec):
    """A window of random area and shape, resized to `size`, mirrored with probability `flip`."""

    kind: Literal["random"] = "random"
    size: tuple[PositiveInt, PositiveInt] = Field((224, 224), description="height, width of the crop")
    scale: tuple[Share, Share] = Field((0.2, 1.0), description="share of the picture's area, least and most")
    ratio: tuple[Shape, Shape] = Field((3 / 4, 4 / 3), description="width / height, least and most")
    flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring left to right")

    def windows(self, seed: int, view: int, draw: ArrayLike, height: ArrayLike, width: ArrayLike) -> Windows:
        """`draw`: what tells one visit of a picture from the next, for each image."""
        high, wide = np.asarray(height, np.int64)[:, None], np.asarray(width, np.int64)[:, None]
        u = uniforms(keys(Purpose.CROP, seed, view, draw), 2 * TRIES + 3)
        area = high * wide * _between(self.scale, u[:, :TRIES])
        aspect = np.exp(_between(np.log(self.ratio), u[:, TRIES : 2 * TRIES]))
        w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = (w > 0) & (w <= wide) & (h > 0) & (h <= high)
        first = np.argmax(fits, axis=1, keepdims=True)
        h, w = np.take_along_axis(h, first, 1)[:, 0], np.take_along_axis(w, first, 1)[:, 0]
        high, wide = high[:, 0], wide[:, 0]
        fallback_h, fallback_w = self._largest_window(high, wide)
        found = fits.any(axis=1)
        h, w = np.where(found, h, fallback_h), np.where(found, w, fallback_w)
        at, left, mirror = u[:, -3], u[:, -2], u[:, -1]
        top = np.where(found, at * (high - h + 1), (high - h) // 2)
        left = np.where(found, left * (wide - w + 1), (wide - w) // 2)
        return np.stack([top, left, h, w, mirror < self.flip], axis=1).astype(np.int32)

    def _largest_window(
        self, high: NDArray[np.int64], wide: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The central window that is left for pictures far longer than any permitted shape."""
        h = np.clip(np.rint(wide / self.ratio[0]).astype(np.int64), 1, high)
        w = np.clip(np.rint(high * self.ratio[1]).astype(np.int64), 1, wide)
        return h, w


class CenterCrop(Spec):
    """The central square of `share` of the shorter side (for a non-square size: its shape), resized."""

    kind: Literal["center"] = "center"
    size: tuple[PositiveInt, PositiveInt] = Field((224, 224), description="height, width of the crop")
    share: Share = Field(0.875, description="share of the shorter side that is kept: 224 / 256")

    def windows(self, seed: int, view: int, draw: ArrayLike, height: ArrayLike, width: ArrayLike) -> Windows:
        high, wide = np.asarray(height, np.int64), np.asarray(width, np.int64)
        unit = self.share * np.minimum(high / self.size[0], wide / self.size[1])
        h = np.clip(np.rint(unit * self.size[0]), 1, high)
        w = np.clip(np.rint(unit * self.size[1]), 1, wide)
        top, left = (high - h) // 2, (wide - w) // 2
        return np.stack([top, left, h, w, np.zeros_like(h)], axis=1).astype(np.int32)


Crop = Annotated[RandomCrop | CenterCrop, Field(discriminator="kind")]


def _between(bounds: ArrayLike, u: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.asarray(bounds, np.float64).tolist()
    return np.asarray(low + u * (high - low), np.float64)
