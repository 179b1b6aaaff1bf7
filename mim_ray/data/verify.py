"""Whether every sample of a beton is still what was written: `mim-ray data verify`."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from mim_ray.data.beton import Beton, Mode
from mim_ray.data.native import sound_jpeg
from mim_ray.data.pictures import Unsound, open_picture
from mim_ray.errors import Failure
from mim_ray.progress import progress


def verify(path: Path) -> int:
    """The number of samples, all sound; or a Failure that names the first that is not."""
    beton = Beton.open(path)
    with path.open("rb") as file, progress(f"verify {path.name}", len(beton), "samples") as advance:
        for sample in np.argsort(beton.pointer).tolist():
            if problem := _problem(beton, file, sample):
                raise Failure(f"{path}: {beton.name(sample)} {problem}: copy or import the set anew")
            advance(1)
    return len(beton)


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
