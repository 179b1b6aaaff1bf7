"""Verification: whatever changes in a beton after it was written is found, and the sample is named."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mim_ray.data.beton import ALLOCATION, FIELD, HEADER, PROOF_MAGIC, Beton, BetonWriter, Mode
from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.data.verify import verify
from mim_ray.errors import Failure, Mistake

SAMPLES, PAGE = 12, 4096
ROW, POINTER_IN_ROW, LABEL_IN_ROW = 24, 5, 16


@pytest.fixture
def beton(tmp_path: Path, painted: Callable[..., Image.Image], packed: Callable[..., bytes]) -> Beton:
    path = tmp_path / "set.beton"
    with BetonWriter(path, ["label"], SAMPLES, PAGE) as writer:
        for i in range(SAMPLES):
            image = painted(i, 20, 16)
            data = packed(image) if i % 4 else np.asarray(image).tobytes()
            writer.add(Mode.JPEG if i % 4 else Mode.RAW, image.size, [i], data, f"photo-{i}.jpg")
    return Beton.open(path)


def changed(beton: Beton, at: int, to: bytes | None = None) -> Path:
    """The file with one byte flipped, or bytes replaced, at a place counted from its start or end."""
    data = bytearray(beton.path.read_bytes())
    new = bytes([data[at] ^ 0x10]) if to is None else to
    start = at % len(data)
    data[start : start + len(new)] = new
    beton.path.write_bytes(data)
    return beton.path


def row(sample: int) -> int:
    return HEADER.itemsize + 2 * FIELD.itemsize + ROW * sample


def test_an_unchanged_file_is_sound(beton: Beton, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(beton.path) == SAMPLES
    assert "verify set.beton: 12/12 samples" in capsys.readouterr().err


@pytest.mark.parametrize("sample", [0, 1, SAMPLES - 1])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_byte_in_a_picture_is_found_and_named(beton: Beton, sample: int, where: str) -> None:
    size = int(beton.size[sample])
    offset = {"first": 0, "middle": size // 2, "last": size - 1}[where]
    with pytest.raises(Failure, match=rf"sample {sample} \(photo-{sample}.jpg\) does not match its checksum"):
        verify(changed(beton, int(beton.pointer[sample]) + offset))


@pytest.mark.parametrize("offset", [0, 1, 3, LABEL_IN_ROW, LABEL_IN_ROW + 7])
def test_a_flipped_byte_in_a_mode_a_size_or_a_label_is_found_and_named(beton: Beton, offset: int) -> None:
    with pytest.raises(Failure, match=r"sample 7 \(photo-7.jpg\) does not match its checksum"):
        verify(changed(beton, row(7) + offset))


def test_a_flipped_pointer_is_found_and_named(beton: Beton) -> None:
    with pytest.raises(Failure, match="no bytes are recorded for sample 7"):
        verify(changed(beton, row(7) + POINTER_IN_ROW))


def test_the_first_of_two_bad_samples_is_named(beton: Beton) -> None:
    for sample in (9, 4):
        changed(beton, int(beton.pointer[sample]))
    with pytest.raises(Failure, match="sample 4 "):
        verify(beton.path)


def test_swapped_pictures_are_found(beton: Beton) -> None:
    rows = beton.path.read_bytes()[row(5) : row(7)]
    with pytest.raises(Failure, match=r"sample 6 .* does not match its checksum"):
        verify(changed(beton, row(5), rows[ROW:] + rows[:ROW]))


def test_a_lost_or_damaged_proof_is_not_taken_for_a_file_without_one(beton: Beton) -> None:
    whole, end = beton.path.read_bytes(), beton.proof_end
    for at in (end - 1, end - 8, end - 9, end - 8 - len(PROOF_MAGIC), end - 40, end - 300):
        with pytest.raises(Failure, match=r"set.beton is damaged"):
            verify(changed(beton, at))
        beton.path.write_bytes(whole)


def test_a_header_with_fewer_samples_is_found(beton: Beton) -> None:
    with pytest.raises(Failure, match="its checksums are of other samples"):
        verify(changed(beton, 8, (SAMPLES - 1).to_bytes(8, "little")))


def test_any_flipped_byte_is_reported_or_without_meaning(beton: Beton) -> None:
    """Bytes without meaning: padding, and what only a writer of FFCV's reads: arguments, allocations' sample."""
    whole, sound = beton.path.read_bytes(), contents(beton)
    draw = random.Random(0)
    places = [*range(row(SAMPLES)), *range(PAGE, len(whole))]
    for at in draw.sample(places, 200):
        changed(beton, at)
        try:
            verify(beton.path)
        except (Failure, Mistake):
            pass
        else:
            assert contents(Beton.open(beton.path)) == sound or at < row(0)
        beton.path.write_bytes(whole)


def contents(beton: Beton) -> list[Any]:
    with beton.path.open("rb") as file:
        return [
            (beton.read(file, i), int(beton.mode[i]), int(beton.width[i]), [*beton.labels], beton.name(i))
            for i in range(len(beton))
        ]


@pytest.mark.parametrize("lost", [1, ALLOCATION.itemsize, 1000])
def test_truncation_is_found(beton: Beton, lost: int) -> None:
    beton.path.write_bytes(beton.path.read_bytes()[:-lost])
    with pytest.raises(Failure, match=r"set.beton is (truncated|damaged)"):
        verify(beton.path)


def test_a_sample_that_the_disk_does_not_give_back_is_named(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Beton.read

    def broken(self: Beton, file: Any, sample: int) -> bytes:
        if sample == 5:
            raise OSError(5, "Input/output error")
        return read(self, file, sample)

    monkeypatch.setattr(Beton, "read", broken)
    with pytest.raises(Failure, match=r"sample 5 \(photo-5.jpg\) cannot be read \(Input/output error\)"):
        verify(beton.path)


def test_what_is_no_beton_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "x.beton").write_bytes(bytes(100))
    with pytest.raises(Mistake, match="is not a beton"):
        verify(tmp_path / "x.beton")
    with pytest.raises(Mistake, match="is a folder"):
        verify(tmp_path)


# With a card beside it


@pytest.fixture
def imported(tmp_path: Path) -> Beton:
    path = tmp_path / "shapes.beton"
    import_set(open_source("sample:shapes:n=20"), path, Import(workers=1))
    return Beton.open(path)


def test_a_file_that_is_as_its_card_has_it_is_sound(imported: Beton, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(imported.path) == 20
    size = imported.path.stat().st_size
    assert f"verify shapes.beton: {size:,}/{size:,} bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "at", [4, HEADER.itemsize + FIELD.itemsize + 1, -ALLOCATION.itemsize], ids=["page", "field name", "allocation"]
)
def test_a_flipped_byte_in_the_header_or_a_table_is_found(imported: Beton, at: int) -> None:
    with pytest.raises(
        Failure, match="every sample is sound, but the header or a table is not as its card has it"
    ):
        verify(changed(imported, at))


def test_a_changed_sample_is_still_named(imported: Beton) -> None:
    with pytest.raises(Failure, match=r"sample 3 \(.*\) does not match its checksum"):
        verify(changed(imported, int(imported.pointer[3])))


def test_every_flipped_byte_is_reported(imported: Beton) -> None:
    whole = imported.path.read_bytes()
    for at in random.Random(0).sample(range(len(whole)), 30):
        with pytest.raises((Failure, Mistake)):
            verify(changed(imported, at))
        imported.path.write_bytes(whole)


def test_where_the_disk_does_not_give_every_byte_back_the_samples_are_asked(
    imported: Beton, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    class Digest:
        update = broken

        def hexdigest(self) -> str:
            return "of a part"

    monkeypatch.setattr(hashlib, "sha256", Digest)
    monkeypatch.setattr(Beton, "read", broken)
    with pytest.raises(Failure, match=r"sample \d+ \(.*\) cannot be read \(Input/output error\)"):
        verify(imported.path)
