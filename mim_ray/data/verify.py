"""Whether every sample of a beton is still what was written: `mim-ray data verify`."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mim_ray.data.beton import Beton, Mode
from mim_ray.errors import Failure
from mim_ray.progress import progress


def verify(path: Path) -> int:
    """The number of samples, all sound; or a Failure that names the first that is not."""
    beton = Beton.open(path)
    sound: Callable[[int, bytes], bool]
    if beton.proof is None:
        # A file of FFCV's own writer holds no checksums; that each picture decodes is all there is to ask.
        sound = lambda sample, data: _decodes(beton, sample, data)  # noqa: E731
        what = "does not decode"
    else:
        checksums = beton.proof.checksums
        sound = lambda sample, data: beton.checksum_of(sample, data) == checksums[sample]  # noqa: E731
        what = "does not match its checksum"
    with path.open("rb") as file, progress(f"verify {path.name}", len(beton), "samples") as advance:
        for sample in np.argsort(beton.pointer).tolist():
            if not sound(sample, beton.read(file, sample)):
                raise Failure(f"{path}: {beton.name(sample)} {what}: copy or import the set anew")
            advance(1)
    return len(beton)


def _decodes(beton: Beton, sample: int, data: bytes) -> bool:
    size = int(beton.width[sample]), int(beton.height[sample])
    if beton.mode[sample] == Mode.RAW:
        return len(data) == 3 * size[0] * size[1]
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.size == size
    except (OSError, SyntaxError, ValueError):
        return False
