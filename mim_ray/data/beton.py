"""The beton file: FFCV's format, read with numpy alone and written in one pass.

    header | field descriptions | one row per sample | padding | pages of picture bytes | proof | allocations

Everything but the proof is FFCV's; FFCV itself reads these files. The proof lies where FFCV does not look: a
checksum and a name for every sample, so that a file can be verified wherever it was copied.
"""

import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mim_ray.data.pools import part_of, remove_parts_of_the_dead
from mim_ray.errors import Failure, Mistake

VERSION = 2
HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("allocations", "<u8")],
    align=True,
)
FIELD = np.dtype([("kind", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True)
ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
BYTES = np.dtype([("pointer", "<u8"), ("size", "<u8")])
INTEGER, PICTURE = 1, 2
ROW_OF_KIND = {
    0: np.dtype("<f8"),
    INTEGER: np.dtype("<i8"),
    PICTURE: IMAGE,
    3: BYTES,
    4: np.dtype("<u8"),
    5: BYTES,
    6: np.dtype("<u8"),
}
PAGE = 1 << 23
PROOF_MAGIC = b"MIMRAY01"
LARGEST_SIDE = 65_500
"""Of a JPEG, as libjpeg has it; the format's own limit lies just above."""


class Mode(IntEnum):
    JPEG = 0
    RAW = 1


@dataclass(frozen=True)
class Beton:
    """An open beton: where each picture lies, how large it is, and its labels. Pictures stay on disk."""

    path: Path
    mode: NDArray[np.uint8]
    width: NDArray[np.uint16]
    height: NDArray[np.uint16]
    pointer: NDArray[np.uint64]
    size: NDArray[np.uint64]
    labels: dict[str, NDArray[np.int64]]
    page: int
    proof_end: int

    def __len__(self) -> int:
        return len(self.pointer)

    @classmethod
    def open(cls, path: str | Path) -> "Beton":
        path = Path(path)
        try:
            with path.open("rb") as file:
                return _read(cls, path, file)
        except FileNotFoundError:
            raise Mistake(f"no file {path}: make one with mim-ray data import SOURCE {path}") from None
        except IsADirectoryError:
            raise Mistake(f"{path} is a folder: make a beton with mim-ray data import {path} FILE") from None
        except OSError as error:
            raise Failure(f"{path} cannot be read: {error.strerror}") from None

    @cached_property
    def largest_picture_bytes(self) -> int:
        """Decoded, of the picture with the most pixels."""
        return 3 * int((self.width.astype(np.int64) * self.height).max())

    @cached_property
    def plausible(self) -> NDArray[np.bool_]:
        """Of each sample's row, whether it can be true: there are pixels, and raw ones fill its bytes exactly."""
        pixels = self.width.astype(np.uint64) * self.height
        filled = (self.mode == Mode.RAW) & (self.size == 3 * pixels)
        return np.asarray((pixels > 0) & (filled | (self.mode == Mode.JPEG)))

    @cached_property
    def proof(self) -> "Proof | None":
        """The stored checksums and names, or None in a file that FFCV wrote."""
        return _read_proof(self)

    def name(self, sample: int) -> str:
        """For a message: what the sample was called before it was imported, where that is still known."""
        with suppress(Failure):
            if self.proof is not None:
                return f"sample {sample} ({self.proof.names[sample]})"
        return f"sample {sample}"

    @property
    def checksum(self) -> str | None:
        """Of all samples in their order: equal for equal content. None without a proof."""
        return None if self.proof is None else hashlib.sha256(self.proof.checksums.tobytes()).hexdigest()

    def read(self, file: BinaryIO, sample: int) -> bytes:
        file.seek(int(self.pointer[sample]))
        return file.read(int(self.size[sample]))

    def checksum_of(self, sample: int, data: bytes) -> int:
        labels = [int(column[sample]) for column in self.labels.values()]
        shape = int(self.width[sample]), int(self.height[sample])
        return checksum_of(int(self.mode[sample]), shape, labels, data)


@dataclass(frozen=True)
class Proof:
    checksums: NDArray[np.uint32]
    names: list[str]


def checksum_of(mode: int, shape: tuple[int, int], labels: Sequence[int], data: bytes) -> int:
    """CRC-32 over everything a sample is: its shape and labels as well as its bytes."""
    return zlib.crc32(data, zlib.crc32(np.array([mode, *shape, *labels], "<i8").tobytes()))


def _read(cls: type[Beton], path: Path, file: BinaryIO) -> Beton:
    length = os.fstat(file.fileno()).st_size
    header = _table(file, HEADER, 1, path, length)[0]
    if header["version"] != VERSION or not 1 <= header["fields"] <= 64:
        raise Mistake(
            f"{path} is not a beton: its first bytes say version {header['version']} with "
            f"{header['fields']} fields, expected version {VERSION}"
        )
    end = int(header["allocations"])
    if end == 0:
        raise Failure(f"{path} was never finished by its writer: import it anew")
    if end > length or (length - end) % ALLOCATION.itemsize:
        raise Failure(f"{path} is truncated: {length:,} bytes of at least {end:,}: copy or import it anew")
    described = _table(file, FIELD, int(header["fields"]), path, length)
    names = [bytes(one["name"]).split(b"\0")[0].decode("ascii", "replace") for one in described]
    unknown = [name for name, one in zip(names, described, strict=True) if int(one["kind"]) not in ROW_OF_KIND]
    if unknown:
        raise Mistake(f"{path}: field {unknown[0]!r} is of a kind of its writer's own: import the set anew")
    kinds = [int(one["kind"]) for one in described]
    row = np.dtype([(f"f{i}", ROW_OF_KIND[kind]) for i, kind in enumerate(kinds)], align=True)
    rows = _table(file, row, int(header["samples"]), path, length)
    integers = {name: f"f{i}" for i, name in enumerate(names) if kinds[i] == INTEGER}
    if PICTURE not in kinds or not len(rows):
        raise Mistake(f"{path} holds no picture")
    picture = rows[f"f{kinds.index(PICTURE)}"]
    file.seek(end)
    sizes = _sizes_at(picture["pointer"], np.frombuffer(file.read(), ALLOCATION), end, path)
    return cls(
        path=path,
        mode=picture["mode"].copy(),
        width=picture["width"].copy(),
        height=picture["height"].copy(),
        pointer=picture["pointer"].copy(),
        size=sizes,
        labels={name: rows[field].astype(np.int64) for name, field in integers.items()},
        page=int(header["page"]),
        proof_end=end,
    )


def _table(file: BinaryIO, dtype: np.dtype[Any], count: int, path: Path, length: int) -> NDArray[Any]:
    wanted = count * dtype.itemsize
    if file.tell() + wanted > length:
        raise Failure(f"{path} is truncated: {length:,} bytes, too few for its {count:,} × {dtype.itemsize} bytes")
    return np.frombuffer(file.read(wanted), dtype)


def _sizes_at(pointers: NDArray[np.uint64], allocations: NDArray[Any], end: int, path: Path) -> NDArray[np.uint64]:
    ordered = allocations[np.argsort(allocations["pointer"])]
    at = np.searchsorted(ordered["pointer"], pointers)
    inside = at < len(ordered)
    torn = ~inside
    torn[inside] = ordered["pointer"][at[inside]] != pointers[inside]
    sizes = np.zeros(len(pointers), np.uint64)
    sizes[~torn] = ordered["size"][at[~torn]]
    torn |= (pointers > end) | (sizes > end) | (pointers + sizes > end)  # the sum of two wrong ones may wrap
    if torn.any():
        raise Failure(
            f"{path} is damaged: no bytes are recorded for sample {int(np.argmax(torn))}: import it anew"
        )
    return sizes


def _read_proof(beton: Beton) -> Proof | None:
    tail = len(PROOF_MAGIC) + 8
    try:
        with beton.path.open("rb") as file:
            file.seek(beton.proof_end - tail)
            ending = file.read(tail)
            if ending[:-8] != PROOF_MAGIC and beton.proof_end % beton.page == 0:
                return None  # FFCV's own writer, which fills whole pages
            size = int.from_bytes(ending[-8:], "little")
            file.seek(beton.proof_end - tail - size)
            with np.load(io.BytesIO(file.read(size)), allow_pickle=False) as stored:
                names = zlib.decompress(stored["names"].tobytes()).decode().split("\0")
                proof = Proof(stored["checksums"], names)
    except Exception as error:  # numpy's, zip's and zlib's, whichever trips over the damage first
        raise Failure(f"{beton.path} is damaged where its checksums are: copy or import it anew") from error
    if ending[:-8] != PROOF_MAGIC or not len(proof.checksums) == len(proof.names) == len(beton):
        raise Failure(f"{beton.path} is damaged: its checksums are of other samples: copy or import it anew")
    return proof


class BetonWriter:
    """Writes aside and renames on a clean exit; on any other it leaves nothing behind."""

    def __init__(self, path: Path, labels: Sequence[str], capacity: int, page: int = PAGE) -> None:
        self.path, self._page = path, page
        self.aside = part_of(path)
        kinds = [PICTURE] + [INTEGER] * len(labels)
        self._row = np.dtype([(f"f{i}", ROW_OF_KIND[kind]) for i, kind in enumerate(kinds)], align=True)
        self._fields = np.zeros(len(kinds), FIELD)
        for field, kind, name in zip(self._fields, kinds, ["image", *labels], strict=True):
            field["kind"] = kind
            encoded = name.encode("ascii")[:16]
            field["name"][: len(encoded)] = np.frombuffer(encoded, np.uint8)
        self._rows = np.zeros(capacity, self._row)
        self._allocations = np.zeros(capacity, ALLOCATION)
        self._checksums = np.zeros(capacity, np.uint32)
        self._names: list[str] = []
        self._finished = False
        self._at = _aligned(HEADER.itemsize + self._fields.nbytes + self._rows.nbytes, page)

    def __enter__(self) -> "BetonWriter":
        remove_parts_of_the_dead(self.path)
        self._file = self.aside.open("wb", buffering=1 << 20)
        self._file.seek(self._at)
        return self

    def add(self, mode: Mode, shape: tuple[int, int], labels: Sequence[int], data: bytes, name: str) -> None:
        """`shape`: width, height. A picture never crosses a page, as FFCV's page cache expects."""
        if len(data) > self._page:
            raise Mistake(
                f"{name}: {len(data):,} bytes do not fit a page of {self._page:,}: lower max_resolution="
            )
        if self._at % self._page + len(data) > self._page:
            self._at = _aligned(self._at, self._page)
            self._file.seek(self._at)
        self._file.write(data)
        here = len(self._names)
        self._rows[here] = ((mode, *shape, self._at), *labels)
        self._allocations[here] = (here, self._at, len(data))
        self._checksums[here] = checksum_of(mode, shape, labels, data)
        self._names.append(name.replace("\0", " "))
        self._at += len(data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
                self.aside.replace(self.path)
        finally:
            self.aside.unlink(missing_ok=True)  # before closing, which fails where the disk is full
            self._file.close()

    def finish(self) -> None:
        """Makes the file aside whole; leaving the `with` then gives it its name."""
        if self._finished:
            return
        self._finished = True
        count = len(self._names)
        proof = io.BytesIO()
        names = np.frombuffer(zlib.compress("\0".join(self._names).encode()), np.uint8)
        np.savez(proof, checksums=self._checksums[:count], names=names)
        self._file.write(proof.getvalue() + PROOF_MAGIC + len(proof.getvalue()).to_bytes(8, "little"))
        header = np.zeros(1, HEADER)
        header[0] = (VERSION, len(self._fields), self._page, count, self._file.tell())
        self._file.write(self._allocations[:count].tobytes())
        self._file.seek(0)
        self._file.write(header.tobytes() + self._fields.tobytes() + self._rows[:count].tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())


def _aligned(offset: int, page: int) -> int:
    return -(-offset // page) * page
