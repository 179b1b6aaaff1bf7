"""Pictures: whatever a folder of photographs holds becomes upright 8-bit RGB, or is refused with a reason."""

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mim_ray.data import native, pictures
from mim_ray.data.beton import PAGE, Mode
from mim_ray.data.pictures import Encoded, Unsound, encode

Painter = Callable[..., Image.Image]
Packer = Callable[..., bytes]
ORANGE = (200, 100, 50)
FORMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {}),
    "grey-jpeg": ("L", "JPEG", {}),
    "cmyk-jpeg": ("CMYK", "JPEG", {}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "png": ("RGB", "PNG", {}),
    "palette": ("P", "PNG", {}),
    "palette-see-through": ("P", "PNG", {"transparency": 200}),
    "alpha": ("RGBA", "PNG", {}),
    "grey-alpha": ("LA", "PNG", {}),
    "black-and-white": ("1", "PNG", {}),
    "gif": ("P", "GIF", {}),
    "bmp": ("RGB", "BMP", {}),
    "webp": ("RGB", "WEBP", {"lossless": True}),
    "tiff": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "cmyk-tiff": ("CMYK", "TIFF", {}),
    "avif": ("RGB", "AVIF", {}),
    "deep": ("I;16", "PNG", {}),
}


def stored(raw: Any, **options: Any) -> Encoded:
    settings: dict[str, Any] = {"max_resolution": 400, "quality": 90, "raw_pixels": False, "keep": True}
    return encode(raw, **settings | options)


def pixels(picture: Encoded) -> NDArray[np.uint8]:
    """What a reader of the beton sees."""
    width, height = picture.shape
    if picture.mode == Mode.RAW:
        return np.frombuffer(picture.data, np.uint8).reshape(height, width, 3)
    with Image.open(io.BytesIO(picture.data)) as image:
        assert image.size == picture.shape
        return np.asarray(image.convert("RGB"))


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


@pytest.fixture
def plain(packed: Packer) -> bytes:
    return packed(Image.new("RGB", (40, 30), ORANGE), quality=95)


# Every form


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_is_read(form: str, packed: Packer) -> None:
    mode, name, options = FORMS[form]
    orange = Image.new("RGB", (40, 30), ORANGE)
    raw = packed(in_mode(orange, mode), name, **options)
    picture = stored(raw)
    assert (picture.mode, picture.shape) == (Mode.JPEG, (40, 30))
    expected = np.asarray(in_mode(orange, mode if mode != "I;16" else "L").convert("RGB"))
    assert np.abs(pixels(stored(raw, raw_pixels=True)).astype(int) - expected).max() <= 4


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1)])
def test_grey_arrays_fill_the_range_of_their_depth(depth: Any, shape: tuple[int, ...]) -> None:
    top = np.iinfo(depth).max
    assert np.all(pixels(stored(np.full(shape, top, depth), raw_pixels=True)) == 255)
    assert np.all(pixels(stored(np.full(shape, top // 5, depth), raw_pixels=True)) == 51)


def test_an_array_and_a_pillow_image_are_taken_too(painted: Painter) -> None:
    image = painted()
    for raw in (np.asarray(image), image.copy()):
        assert np.array_equal(pixels(stored(raw, raw_pixels=True)), np.asarray(image))


def test_what_is_transparent_becomes_white(packed: Packer) -> None:
    half = Image.new("RGBA", (40, 30), (*ORANGE, 0))
    half.paste((*ORANGE, 255), (0, 0, 20, 30))
    seen = pixels(stored(packed(half, "PNG"), raw_pixels=True))
    assert np.all(seen[:, 20:] == 255)
    assert np.all(seen[:, :20] == ORANGE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_rotated_picture_is_set_upright(orientation: int, form: str, painted: Painter, packed: Packer) -> None:
    exif = Image.Exif()
    exif[pictures.ORIENTATION_TAG] = orientation
    raw = packed(painted(), form, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    picture = stored(raw, raw_pixels=True)
    assert np.array_equal(pixels(picture), np.asarray(upright))
    assert stored(raw).kept == (form == "JPEG" and orientation == 1)


def test_damaged_exif_data_costs_no_picture(painted: Painter, packed: Packer) -> None:
    exif = Image.Exif()
    exif[pictures.ORIENTATION_TAG], exif[0x010E] = 6, "a description"
    raw, draw = packed(painted(), exif=exif), random.Random(0)
    start = raw.index(b"Exif")
    for _ in range(100):
        damaged = bytearray(raw)
        damaged[draw.randrange(start, start + len(exif.tobytes()))] = draw.randrange(256)
        assert sorted(stored(bytes(damaged)).shape) == [30, 40]


# What is kept, and what is made anew


def test_a_small_jpeg_is_kept_byte_for_byte(plain: bytes) -> None:
    picture = stored(plain)
    assert picture.kept
    assert picture.data == plain


@pytest.mark.parametrize("options", [{"keep": False}, {"max_resolution": 39}, {"raw_pixels": True}])
def test_a_jpeg_is_not_kept_against_the_options(plain: bytes, options: dict[str, Any]) -> None:
    assert not stored(plain, **options).kept


def test_a_small_jpeg_with_much_behind_it_is_encoded_anew(plain: bytes) -> None:
    assert stored(plain + bytes(PAGE - len(plain))).kept
    picture = stored(plain + bytes(PAGE - len(plain) + 1))
    assert not picture.kept
    assert len(picture.data) < 10_000


def test_quality_is_that_of_the_new_encoding(painted: Painter, packed: Packer) -> None:
    raw = packed(painted(), "PNG")
    assert len(stored(raw, quality=30).data) < len(stored(raw, quality=95).data)


# Sizes


@pytest.mark.parametrize(
    ("size", "limit", "shape"),
    [
        ((800, 600), 400, (400, 300)),
        ((600, 800), 400, (300, 400)),
        ((500, 500), 400, (400, 400)),
        ((401, 3), 400, (400, 3)),
        ((400, 300), 400, (400, 300)),
        ((40, 30), 400, (40, 30)),
        ((800, 600), None, (800, 600)),
        ((30_000, 10), 400, (400, 1)),
        ((30_000, 10), None, (30_000, 10)),
        ((65_500, 1), None, (65_500, 1)),
        ((70_000, 1), None, (65_500, 1)),
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_longest_side_is_limited_and_nothing_enlarged(
    size: tuple[int, int], limit: int | None, shape: tuple[int, int], form: str, packed: Packer
) -> None:
    raw = packed(Image.new("RGB", size, ORANGE), form if max(size) <= 65_500 else "PNG")
    picture = stored(raw, max_resolution=limit)
    assert picture.shape == shape
    assert np.abs(pixels(picture).astype(int) - ORANGE).max() <= 4


def test_a_large_jpeg_decoded_small_looks_like_one_decoded_whole(painted: Painter, packed: Packer) -> None:
    raw = packed(painted(0, 1600, 1200), quality=95)
    whole = painted(0, 1600, 1200).resize((400, 300), Image.Resampling.BICUBIC)
    assert np.abs(pixels(stored(raw, raw_pixels=True)).astype(int) - np.asarray(whole)).max() <= 12


# Statistics


def test_the_moments_are_those_of_the_pixels(painted: Painter) -> None:
    picture = stored(painted(), raw_pixels=True)
    values = pixels(picture).reshape(-1, 3) / 255
    assert np.allclose(picture.moments, np.stack([values.mean(0), (values**2).mean(0)], axis=1))


# Refusals


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is empty"),
        (b"not a picture", "is not a picture of a known format"),
        (b"\xff\xd8\xff\xe0", "is not a picture of a known format"),
        (np.zeros((30, 40, 7), np.uint8), "Cannot handle this data type"),
        (Image.new("F", (4, 3)), "has floating-point pixels without a known range"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(raw: Any, reason: str) -> None:
    with pytest.raises(Unsound, match=reason):
        stored(raw)


def test_a_jpeg_cut_in_the_middle_is_refused(painted: Painter, packed: Packer) -> None:
    raw = packed(painted(0, 200, 200))
    with pytest.raises(Unsound, match="truncated"):
        stored(raw[: len(raw) // 2])


@pytest.mark.skipif(native.missing() is not None, reason="FFCV is not installed")
@pytest.mark.parametrize("damage", ["marker", "noise", "hole"])
@pytest.mark.parametrize("form", ["jpeg", "grey-jpeg", "progressive"])
@pytest.mark.parametrize("options", [{}, {"keep": False}, {"raw_pixels": True}, {"max_resolution": 64}])
def test_a_jpeg_damaged_in_the_middle_is_refused_whatever_is_made_of_it(
    damage: str, form: str, options: dict[str, Any]
) -> None:
    mode, name, settings = FORMS[form]
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(file, name, **settings)
    raw = file.getvalue()
    stretch = {"marker": b"\xff\xd3", "noise": random.Random(0).randbytes(200), "hole": bytes(2000)}[damage]
    middle = len(raw) // 2
    with pytest.raises(Unsound, match="is a damaged JPEG: some of its data is wrong or missing"):
        stored(raw[:middle] + stretch + raw[middle + len(stretch) :], **options)


@pytest.mark.parametrize("options", [{}, {"keep": False}, {"raw_pixels": True}, {"max_resolution": 30}])
def test_a_jpeg_that_is_only_odd_is_taken(painted: Painter, packed: Packer, options: dict[str, Any]) -> None:
    turned = Image.Exif()
    turned[pictures.ORIENTATION_TAG] = 6
    image = painted(0, 43, 31)
    odd = {
        "four colours": packed(image.convert("CMYK")),
        "progressive": packed(image, progressive=True),
        "grey": packed(image.convert("L")),
        "turned": packed(image, exif=turned),
        "bytes behind it": packed(image) + b"what a camera adds",
        "two pictures": packed(image, "MPO", save_all=True, append_images=[image]),
        "restarts": packed(image, restart_marker_blocks=2),
        "no subsampling": packed(image, subsampling=0),
        "stored as RGB": packed(image, keep_rgb=True),
        "one pixel": packed(image.resize((1, 1))),
    }
    for name, raw in odd.items():
        with Image.open(io.BytesIO(raw)) as seen:
            expected = ImageOps.exif_transpose(seen).convert("RGB")
        picture = stored(raw, **options)
        expected = expected.resize(picture.shape)
        assert np.abs(pixels(picture).astype(int) - np.asarray(expected)).mean() < 6, name


def test_a_picture_too_large_for_a_page_is_refused_with_the_way_out() -> None:
    large = Image.new("RGB", (2000, 2000))
    expected = "takes 12,000,000 bytes, and at most 8,388,608 can be stored: lower max_resolution="
    with pytest.raises(Unsound, match=expected):
        stored(large.copy(), raw_pixels=True, max_resolution=None)
    assert len(stored(large.copy(), raw_pixels=True, max_resolution=1600).data) == 3 * 1600**2


def test_a_picture_too_large_to_decode_is_refused(plain: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 1199)
    with pytest.raises(Unsound, match="has 40 × 30 pixels, more than 1,199"):
        stored(plain)


@pytest.mark.parametrize("form", FORMS)
def test_whatever_the_damage_the_answer_is_a_picture_or_a_reason(
    form: str, painted: Painter, packed: Packer, capfd: pytest.CaptureFixture[str]
) -> None:
    mode, name, options = FORMS[form]
    raw, draw = packed(in_mode(painted(0, 20, 15), mode), name, **options), random.Random(form)
    reasons = []
    for _ in range(60):
        damaged = bytearray(raw[: draw.choice([len(raw), draw.randrange(len(raw))])])
        for _ in range(draw.randrange(4)):
            damaged[draw.randrange(len(damaged) or 1) :][:1] = bytes([draw.randrange(256)])
        try:
            stored(bytes(damaged), max_resolution=64)
        except Unsound as reason:
            reasons.append(str(reason))
    assert reasons
    assert all(reason and "\n" not in reason for reason in reasons)
    capfd.readouterr()  # libtiff's own complaints


def test_pillow_is_left_with_its_own_limit(plain: bytes) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    stored(plain)
    with pytest.raises(Unsound):
        stored(b"nothing")
    assert limit == Image.MAX_IMAGE_PIXELS
