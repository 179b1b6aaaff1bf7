"""Any picture, however it was stored, to the bytes a beton holds."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from mim_ray.data.beton import LARGEST_SIDE, PAGE, Mode
from mim_ray.data.native import sound_jpeg

Raw = bytes | NDArray[np.uint8] | NDArray[np.uint16] | Image.Image
MOST_PIXELS = 500_000_000
ORIENTATION_TAG = 0x0112
TURN_OF_ORIENTATION = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class Unsound(Exception):
    """This picture cannot be used; the text says why."""


class Encoded(NamedTuple):
    mode: Mode
    shape: tuple[int, int]
    """width, height"""
    data: bytes
    kept: bool
    """Whether the original JPEG bytes were kept as they were."""
    moments: NDArray[np.float64]
    """(3, 2): each channel's mean and mean square, in 0 … 1."""


def encode(raw: Raw, *, max_resolution: int | None, quality: int, raw_pixels: bool, keep: bool) -> Encoded:
    limit = max_resolution or LARGEST_SIDE
    with open_picture(raw) as image:
        original = raw if isinstance(raw, bytes) and image.format in ("JPEG", "MPO") else None
        whole = image.size
        checkable = image.mode != "CMYK"  # which the other decoder does not turn into RGB
        kept = keep and not raw_pixels and _is_plain_jpeg(image) and max(whole) <= limit
        if image.format == "JPEG" and not kept:
            image.draft(None, (limit, limit))
        picture = shrunk(to_rgb(image), limit)
    if original is not None and checkable and not sound_jpeg(original, *_eighth(whole)):
        raise Unsound("is a damaged JPEG: some of its data is wrong or missing")
    if original is not None and kept and len(original) <= PAGE:
        return Encoded(Mode.JPEG, whole, original, True, _moments(picture))
    mode, data = (Mode.RAW, picture.tobytes()) if raw_pixels else (Mode.JPEG, _jpeg(picture, quality))
    if len(data) > PAGE:
        raise Unsound(f"takes {len(data):,} bytes, and at most {PAGE:,} can be stored: lower max_resolution=")
    return Encoded(mode, picture.size, data, False, _moments(picture))


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright, 8 bits, three channels; transparency over white; 16-bit greys over their full range."""
    if image.mode == "F":
        raise Unsound("has floating-point pixels without a known range")
    if (turn := _turn(image)) is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64).clip(0, 0xFFFF)
        return Image.fromarray((deep // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def shrunk(image: Image.Image, limit: int) -> Image.Image:
    """With no side longer than `limit`; never enlarged."""
    longest = max(image.size)
    if longest <= limit:
        return image
    width, height = (max(1, round(side * limit / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


@contextmanager
def open_picture(raw: Raw) -> Iterator[Image.Image]:
    """The picture, with every way a file can be broken turned into Unsound."""
    if isinstance(raw, bytes) and not raw:
        raise Unsound("is empty")
    try:
        with _unlimited_and_quiet(), raw if isinstance(raw, Image.Image) else _from_bytes_or_array(raw) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Unsound(f"has {image.width} × {image.height} pixels, more than {MOST_PIXELS:,}")
            yield image
    except Unsound:
        raise
    except Exception as error:  # Pillow's decoders raise whatever the broken bytes lead them to
        raise Unsound(" ".join(str(error).split()) or type(error).__name__) from error


@contextmanager
def _unlimited_and_quiet() -> Iterator[None]:
    """Pillow without its own limit on pixels and without its warnings, which name no file."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _from_bytes_or_array(raw: bytes | NDArray[np.uint8] | NDArray[np.uint16]) -> Image.Image:
    if isinstance(raw, bytes):
        try:
            return Image.open(io.BytesIO(raw))
        except UnidentifiedImageError:
            raise Unsound("is not a picture of a known format") from None
    return Image.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw)


def _eighth(size: tuple[int, int]) -> tuple[int, int]:
    """As large as a JPEG is decoded fastest; every bit of it is read all the same."""
    width, height = size
    return -(-width // 8), -(-height // 8)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=quality)
    return packed.getvalue()


def _is_plain_jpeg(image: Image.Image) -> bool:
    return image.format == "JPEG" and image.mode in ("RGB", "L") and _turn(image) is None


def _turn(image: Image.Image) -> Transpose | None:
    """What sets a picture upright; none where its EXIF data is damaged, for that is no reason to lose it."""
    try:
        return TURN_OF_ORIENTATION.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:
        return None


def _moments(picture: Image.Image) -> NDArray[np.float64]:
    """From histograms: exact, and the same whatever the order of summation."""
    levels = np.arange(256) / 255
    counts = np.array(picture.histogram()).reshape(3, 256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    return np.stack([shares @ levels, shares @ levels**2], axis=1)
