"""Pictures and folders of pictures to import."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Painter = Callable[..., Image.Image]
Packer = Callable[..., bytes]
FolderMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def painted() -> Painter:
    """A smooth random picture, another for every seed."""

    def paint(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    return paint


@pytest.fixture(scope="session")
def packed() -> Packer:
    """A picture as the bytes of a file."""

    def pack(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    return pack


@pytest.fixture
def folder_of(tmp_path: Path, painted: Painter, packed: Packer) -> FolderMaker:
    """A folder with so many JPEG files in each class, `cat=3, dog=2`, no two of them the same."""

    def make(name: str = "photos", **counts: int) -> Path:
        root = tmp_path / name
        for number, (label, count) in enumerate(counts.items()):
            (root / label).mkdir(parents=True)
            for i in range(count):
                picture = painted(1000 * number + i, 40 + i % 5, 30 + i % 3)
                (root / label / f"{i:03}.jpg").write_bytes(packed(picture, quality=95))
        return root

    return make
