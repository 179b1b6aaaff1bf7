"""Whether a beton is still what was written: `mim-ray data verify`.

Where a card lies beside it, the whole file is held to the card's digest, and the samples are asked one by one only
to find the one that changed. Without a card they are all there is to ask.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mim_ray.data.beton import Beton, Mode
from mim_ray.data.card import SetCard
from mim_ray.data.native import sound_jpeg
from mim_ray.data.pictures import Unsound, open_picture
from mim_ray.data.stage import way_out
from mim_ray.errors import Failure
from mim_ray.progress import progress

BLOCK = 8 * 2**20


def verify(path: Path) -> int:
    """The number of samples, all sound; or a Failure that names the first that is not."""
    beton = Beton.open(path)
    if not SetCard.path_beside(path).exists():
        _verify_samples(beton)
    elif not _has_digest(path, SetCard.read(path).sha256):
        _verify_samples(beton)
        changed = "every sample is sound, but the header or a table is not as its card has it"
        raise Failure(f"{path}: {changed}: {_way_out(path)}")
    return len(beton)


def _has_digest(path: Path, sha256: str) -> bool:
    """False, too, where the disk does not give every byte back: the sample concerned is then found on its own."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with suppress(OSError), path.open("rb") as file, progress(f"verify {path.name}", size, "bytes") as advance:
        while block := file.read(BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest() == sha256


def _verify_samples(beton: Beton) -> None:
    path = beton.path
    with path.open("rb") as file, progress(f"verify {path.name}", len(beton), "samples") as advance:
        for sample in np.argsort(beton.pointer).tolist():
            if problem := _problem(beton, file, sample):
                raise Failure(f"{path}: {beton.name(sample)} {problem}: {_way_out(path)}")
            advance(1)


def _way_out(path: Path) -> str:
    return way_out(path.absolute(), "copy or import the set anew")


def _problem(beton: Beton, file: BinaryIO, sample: int) -> str | None:
    try:
        data = beton.read(file, sample)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if beton.proof is None:
        # A file of FFCV's own writer holds no checksums; that each picture decodes is all there is to ask.
        return None if _decodes(beton, sample, data) else "does not decode"
    same = beton.checksum_of(sample, data) == beton.proof.checksums[sample]
    return None if same else "does not match its checksum"


def _decodes(beton: Beton, sample: int, data: bytes) -> bool:
    width, height = int(beton.width[sample]), int(beton.height[sample])
    if beton.mode[sample] == Mode.RAW:
        return len(data) == 3 * width * height
    try:
        with open_picture(data) as image:
            image.load()
            return image.size == (width, height) and sound_jpeg(data, width, height)
    except Unsound:
        return False
