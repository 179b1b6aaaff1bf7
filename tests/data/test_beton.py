"""The beton: what FFCV reads, what FFCV wrote, and every way such a file can be broken."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mim_ray.data import beton as format_
from mim_ray.data.beton import Beton, BetonWriter, Mode
from mim_ray.data.pools import part_of
from mim_ray.data.verify import verify
from mim_ray.errors import Failure, Mistake

Painter = Callable[..., Image.Image]
Packer = Callable[..., bytes]
Writer = Callable[..., Path]
PAGE = 1 << 21  # FFCV's smallest
SAMPLES, SIZE = 20, (40, 30)


@pytest.fixture
def written(tmp_path: Path, painted: Painter, packed: Packer) -> Writer:
    """A beton of JPEG and raw pictures with two columns of labels."""

    def write(name: str = "set.beton", samples: int = SAMPLES, page: int = PAGE) -> Path:
        with BetonWriter(tmp_path / name, ["label", "group"], samples, page) as writer:
            for i in range(samples):
                image = painted(i, *SIZE)
                mode = Mode.RAW if i % 5 == 4 else Mode.JPEG
                data = packed(image) if mode == Mode.JPEG else np.asarray(image).tobytes()
                writer.add(mode, SIZE, [i % 3, -i], data, f"{i}.jpg")
        return tmp_path / name

    return write


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".part")


# What is written is what is read


def test_what_is_written_is_read_back(written: Writer, painted: Painter, packed: Packer) -> None:
    beton = Beton.open(written())
    assert len(beton) == SAMPLES
    assert beton.labels["label"].tolist() == [i % 3 for i in range(SAMPLES)]
    assert beton.labels["group"].tolist() == [-i for i in range(SAMPLES)]
    assert set(zip(beton.width.tolist(), beton.height.tolist(), strict=True)) == {SIZE}
    with beton.path.open("rb") as file:
        assert beton.read(file, 3) == packed(painted(3, *SIZE))
        assert beton.read(file, 4) == np.asarray(painted(4, *SIZE)).tobytes()
    assert beton.name(3) == "sample 3 (3.jpg)"
    assert verify(beton.path) == SAMPLES


def test_equal_samples_make_an_equal_file_and_an_equal_checksum(written: Writer) -> None:
    one, other, fewer = written("one"), written("other"), written("fewer", SAMPLES - 1)
    assert one.read_bytes() == other.read_bytes()
    assert Beton.open(one).checksum == Beton.open(other).checksum != Beton.open(fewer).checksum


def test_no_picture_crosses_a_page(written: Writer) -> None:
    beton = Beton.open(written(page=4096))
    first, last = beton.pointer, beton.pointer + beton.size - np.uint64(1)
    assert np.array_equal(first // np.uint64(4096), last // np.uint64(4096))
    assert verify(beton.path) == SAMPLES


def test_a_picture_larger_than_a_page_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with (
        pytest.raises(Mistake, match=r"big.jpg: 101 bytes do not fit a page of 100: lower max_resolution="),
        BetonWriter(tmp_path / "set.beton", [], 1, page=100) as writer,
    ):
        writer.add(Mode.JPEG, SIZE, [], bytes(101), "big.jpg")
    assert not list(tmp_path.iterdir())


def test_a_set_may_turn_out_smaller_than_expected(tmp_path: Path) -> None:
    with BetonWriter(tmp_path / "set.beton", [], capacity=100) as writer:
        writer.add(Mode.RAW, (1, 1), [], b"rgb", "one")
    assert verify(tmp_path / "set.beton") == 1


# Interruptions


def interrupted(path: Path, stop: type[BaseException]) -> None:
    with BetonWriter(path, [], 2) as writer:
        writer.add(Mode.RAW, (1, 1), [], b"rgb", "one")
        assert parts(path.parent) == [writer.aside.name]
        raise stop


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Failure, MemoryError, SystemExit])
def test_an_interrupted_writer_leaves_the_old_file_alone(
    written: Writer, tmp_path: Path, stop: type[BaseException]
) -> None:
    before = written().read_bytes()
    with pytest.raises(stop):
        interrupted(tmp_path / "set.beton", stop)
    assert (tmp_path / "set.beton").read_bytes() == before
    assert not parts(tmp_path)


def test_what_killed_writers_left_is_removed_and_what_living_ones_write_is_not(
    written: Writer, tmp_path: Path
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    part_of(tmp_path / "set.beton", gone.pid).touch()
    kept = [
        part_of(tmp_path / "other.beton", gone.pid),
        part_of(tmp_path / "set.beton", os.getppid()),
        tmp_path / f".set.beton.another-machine.{gone.pid}.part",
    ]
    for part in kept:
        part.touch()
    written()
    assert parts(tmp_path) == sorted(part.name for part in kept)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def write_kilobytes(path: Path, count: int) -> None:
    with BetonWriter(path, [], count) as writer:
        for i in range(count):
            writer.add(Mode.JPEG, (1, 1), [], bytes(1000), f"{i}.jpg")


@pytest.mark.parametrize("count", [3000, 1045], ids=["while adding", "while finishing"])
def test_a_full_disk_is_reported_and_nothing_is_left(small_disk: Path, count: int) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_kilobytes(small_disk / "set.beton", count)
    assert not list(small_disk.iterdir())


# Broken files


def test_every_truncation_is_seen(written: Writer) -> None:
    whole = written()
    data, beton = whole.read_bytes(), Beton.open(whole)
    cuts = {0, 1, 23, 24, 100, 3000, PAGE - 1, PAGE, PAGE + 5000, beton.proof_end - 1, len(data) - 25}
    for length in sorted(cuts | {len(data) - i for i in range(1, 24)}):
        whole.write_bytes(data[:length])
        with pytest.raises(Failure, match=r"set.beton is truncated: [\d,]+ bytes"):
            Beton.open(whole)
    for whole_rows in (1, SAMPLES):
        whole.write_bytes(data[: len(data) - 24 * whole_rows])
        with pytest.raises(Failure, match=r"set.beton is damaged: no bytes are recorded for sample \d+"):
            Beton.open(whole)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a beton: its first bytes say version 20617"),
        (b"PK\x03\x04" + bytes(100), "is not a beton"),
        (bytes(100), "is not a beton: its first bytes say version 0 with 0 fields, expected version 2"),
    ],
)
def test_a_wrong_magic_is_a_mistake(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.beton").write_bytes(data)
    with pytest.raises(Mistake, match=message):
        Beton.open(tmp_path / "x.beton")


def test_a_file_that_is_missing_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"no file .*x.beton: make one with mim-ray data import SOURCE"):
        Beton.open(tmp_path / "x.beton")
    with pytest.raises(
        Mistake, match=f"{tmp_path} is a folder: make a beton with mim-ray data import {tmp_path} FILE"
    ):
        Beton.open(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(Failure, match="loop cannot be read: Too many levels of symbolic links"):
        Beton.open(tmp_path / "loop")


def patched(path: Path, at: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return path


def test_headers_that_promise_what_is_not_there(written: Writer) -> None:
    with pytest.raises(Failure, match="never finished by its writer"):
        Beton.open(patched(written(), 16, bytes(8)))
    with pytest.raises(Failure, match=r"truncated: .* too few for its 1,099,511,627,776 × 32 bytes"):
        Beton.open(patched(written(), 8, (1 << 40).to_bytes(8, "little")))
    with pytest.raises(Mistake, match="holds no picture"):
        Beton.open(patched(written(), 8, bytes(8)))
    with pytest.raises(Mistake, match="field 'image' is of a kind of its writer's own"):
        Beton.open(patched(written(), format_.HEADER.itemsize, b"\xff"))
    with pytest.raises(Mistake, match="holds no picture"):
        Beton.open(patched(written(), format_.HEADER.itemsize, bytes([format_.INTEGER])))


def test_an_allocation_that_ends_beyond_all_numbers_is_seen(written: Writer) -> None:
    whole = written()
    size = (2**64 - PAGE).to_bytes(8, "little")  # with the first picture's pointer it sums up to 0
    with pytest.raises(Failure, match=r"set.beton is damaged: no bytes are recorded for sample 0"):
        Beton.open(patched(whole, Beton.open(whole).proof_end + 16, size))


def test_a_row_is_plausible_with_pixels_that_fill_its_bytes(written: Writer) -> None:
    rows = format_.HEADER.itemsize + 3 * format_.FIELD.itemsize
    for sample, at, wrong in ((4, 1, b"\x29"), (3, 3, b"\0"), (3, 0, b"\x01"), (3, 0, b"\x02")):
        beton = Beton.open(patched(written(), rows + 32 * sample + at, wrong))
        assert np.flatnonzero(~beton.plausible).tolist() == [sample]


# FFCV


@pytest.fixture(scope="module")
def ffcv() -> Iterator[None]:
    """Importing FFCV, and running its loader, leave PyTorch with other threads than it had."""
    threads = torch.get_num_threads()
    pytest.importorskip("ffcv")
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("ffcv")
def test_the_format_is_ffcvs() -> None:
    from ffcv import types
    from ffcv.fields import rgb_image

    def layout(kind: np.dtype[Any]) -> list[tuple[np.dtype[Any], int]]:
        return [field[:2] for field in (kind.fields or {}).values()]

    assert types.CURRENT_VERSION == format_.VERSION
    assert layout(types.HeaderType) == layout(format_.HEADER)
    assert layout(types.FieldDescType) == layout(format_.FIELD)
    assert layout(types.ALLOC_TABLE_TYPE) == layout(format_.ALLOCATION)
    assert dict(rgb_image.IMAGE_MODES) == {"jpg": Mode.JPEG, "raw": Mode.RAW}
    for kind, row in format_.ROW_OF_KIND.items():
        theirs = np.dtype(types.TYPE_ID_HANDLER[kind].metadata_type.fget(None))
        assert (theirs.itemsize, layout(theirs)) == (row.itemsize, layout(row))
    assert types.TYPE_ID_HANDLER[format_.INTEGER].__name__ == "IntField"
    assert types.TYPE_ID_HANDLER[format_.PICTURE].__name__ == "RGBImageField"


@pytest.mark.usefixtures("ffcv")
def test_ffcvs_reader_reads_ours(written: Writer) -> None:
    from ffcv.reader import Reader

    ours = Beton.open(written())
    theirs = Reader(str(ours.path))
    assert theirs.field_names == ["image", "label", "group"]
    assert (theirs.num_samples, theirs.page_size) == (SAMPLES, PAGE)
    image, label, group = (theirs.metadata[name] for name in theirs.metadata.dtype.names)
    for name, mine in (
        ("mode", ours.mode),
        ("width", ours.width),
        ("height", ours.height),
        ("data_ptr", ours.pointer),
    ):
        assert np.array_equal(image[name], mine)
    assert np.array_equal(label, ours.labels["label"])
    assert np.array_equal(group, ours.labels["group"])
    assert np.array_equal(theirs.alloc_table["ptr"], ours.pointer)
    assert np.array_equal(theirs.alloc_table["size"], ours.size)


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize("os_cache", [True, False])
def test_ffcvs_loader_yields_every_image_of_ours(
    written: Writer, painted: Painter, packed: Packer, os_cache: bool
) -> None:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()], "group": [IntDecoder()]}
    loader = Loader(
        str(written()),
        batch_size=8,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines=pipelines,
        os_cache=os_cache,
        drop_last=False,
    )
    seen = [
        (pixels.copy(), *label.tolist(), *group.tolist())
        for images, labels, groups in loader
        for pixels, label, group in zip(images, labels, groups, strict=True)
    ]
    assert [(label, group) for _, label, group in seen] == [(i % 3, -i) for i in range(SAMPLES)]
    for i, (pixels, *_) in enumerate(seen):
        image = painted(i, *SIZE)
        expected = image if i % 5 == 4 else Image.open(io.BytesIO(packed(image)))
        assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= 8


@pytest.fixture
def of_ffcv(tmp_path: Path, painted: Painter) -> Path:
    """A set that FFCV's own writer wrote, with fields that we do not use between those that we do."""
    from ffcv.fields import BytesField, FloatField, IntField, NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

    def sample(i: int) -> tuple[Any, ...]:
        picture = np.asarray(painted(i, *SIZE))
        return 0.5 * i, np.full(i + 1, i, np.uint8), picture, 7 * i, np.ones((2, 2), np.float32)

    path = tmp_path / "theirs.beton"
    fields = {
        "weight": FloatField(),
        "note": BytesField(),
        "image": RGBImageField(write_mode="proportion"),
        "label": IntField(),
        "array": NDArrayField(np.dtype("float32"), (2, 2)),
    }
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(
        [sample(i) for i in range(SAMPLES)], shuffle_indices=False
    )
    return path


@pytest.mark.usefixtures("ffcv")
def test_what_ffcv_wrote_is_read_and_verified_by_decoding(of_ffcv: Path, painted: Painter) -> None:
    beton = Beton.open(of_ffcv)
    assert beton.labels.keys() == {"label"}
    assert beton.labels["label"].tolist() == [7 * i for i in range(SAMPLES)]
    assert set(beton.mode.tolist()) == {Mode.JPEG, Mode.RAW}
    assert beton.proof is None
    assert beton.checksum is None
    assert beton.name(3) == "sample 3"
    with of_ffcv.open("rb") as file:
        raw = int(np.flatnonzero(beton.mode == Mode.RAW)[0])
        assert beton.read(file, raw) == np.asarray(painted(raw, *SIZE)).tobytes()
    assert verify(of_ffcv) == SAMPLES
    jpeg = int(np.flatnonzero(beton.mode == Mode.JPEG)[0])
    patched(of_ffcv, int(beton.pointer[jpeg]) + 2, b"\0\0")
    with pytest.raises(Failure, match=f"theirs.beton: sample {jpeg} does not decode"):
        verify(of_ffcv)
