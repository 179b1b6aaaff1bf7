"""Sets that need no network: digits, photographs, crops of photographs, and shapes filled with textures."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw
from pydantic import NonNegativeInt as Seed
from pydantic import PositiveInt as Count
from pydantic import create_model

from mim_ray.config import Spec, parse, resolve
from mim_ray.data.source import Files, Integers, Labelled, Source, needed, refuse_split
from mim_ray.errors import Mistake, nearest

Reals = npt.NDArray[np.floating[Any]]
Pixels = npt.NDArray[np.uint8]
Split = Literal["train", "val"]

PHOTOGRAPHS = (
    "sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg", "skimage/data/chelsea.png",
    "skimage/data/coffee.png", "skimage/data/astronaut.png", "skimage/data/rocket.jpg",
    "skimage/data/motorcycle_left.png", "skimage/data/hubble_deep_field.jpg", "skimage/data/retina.jpg",
    "skimage/data/ihc.png", "skimage/data/camera.png", "skimage/data/coins.png", "skimage/data/moon.png",
    "skimage/data/brick.png", "skimage/data/grass.png", "skimage/data/gravel.png", "skimage/data/page.png",
    "skimage/data/text.png",
)  # fmt: skip


def open_sample(text: str, request: str, split: str) -> Source:
    """The sample that a request such as `shapes:n=6000,size=32` names; a split in it wins over `split`."""
    name, _, words = request.partition(":")
    if name not in SAMPLES:
        raise Mistake(f"no sample {name!r}{nearest(name, SAMPLES)}")
    _, *parameters = inspect.signature(SAMPLES[name]).parameters.values()
    fields: dict[str, Any] = {each.name: (each.annotation, each.default) for each in parameters}
    if "split" not in fields:
        refuse_split(text, split)
    given = {"split": split} if "split" in fields else {}
    if words and not fields:
        raise Mistake(f"sample:{name} takes no arguments, got {words!r}")
    given |= parse([word for word in words.split(",") if word])
    defaults = create_model(name, __base__=Spec, **fields)()
    return SAMPLES[name](text, **dict(resolve(defaults, given)))


def _random(seed: int, stream: str, index: int = 0) -> Generator:
    return default_rng((seed, index, *stream.encode()))


@dataclass(eq=False)
class Digits(Labelled):
    glyphs: Pixels
    size: int

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.glyphs[index]).resize((self.size, self.size), Image.Resampling.BICUBIC)


def digits(origin: str, size: Count = 32, split: Split = "train") -> Digits:
    """scikit-learn's 1,797 handwritten digits, of which the last 360 are val."""
    every = needed("sklearn.datasets").load_digits()
    part = slice(0, 1437) if split == "train" else slice(1437, 1797)
    glyphs = np.rint(every.images[part] * (255 / 16)).astype(np.uint8)
    names = [f"digit {index}" for index in range(part.start, part.stop)]
    return Digits(origin, tuple("0123456789"), every.target[part, None], names, glyphs, size)


class Photos(Files):
    def name(self, index: int) -> str:
        return Path(self.names[index]).stem


def photos(origin: str) -> Photos:
    """The photographs installed with scikit-learn and scikit-image, colour before grey; none is fetched."""
    paths = (Path(needed(name.partition("/")[0]).__file__).parents[1] / name for name in PHOTOGRAPHS)
    present = [str(path) for path in paths if path.is_file()]
    return Photos(origin, (), np.zeros((len(present), 0), np.int64), present, Path())


@dataclass(eq=False)
class Crops(Labelled):
    photographs: Photos
    size: int
    seed: int
    split: str

    def image(self, index: int) -> Image.Image:
        random = _random(self.seed, self.split, index)
        half = _half(self.photographs.names[self.targets[index, 0]], self.split)
        largest, smallest = min(half.size), min(self.size, *(length // 2 for length in half.size))
        side = round(smallest * (largest / smallest) ** random.random())
        left, top = (int(random.integers(length - side + 1)) for length in half.size)
        return half.resize((self.size, self.size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))


@cache
def _half(photograph: str, split: str) -> Image.Image:
    """The left half for train, the right one for val, decoded once per process."""
    with Image.open(photograph) as file:
        middle = file.width // 2
        left, right = (0, middle) if split == "train" else (middle, file.width)
        return file.convert("RGB").crop((left, 0, right, file.height))


def crops(origin: str, n: Count = 2000, size: Count = 96, seed: Seed = 0, split: Split = "train") -> Crops:
    """Squares cut at any scale from the photographs; the label is the photograph."""
    photographs = photos(origin)
    classes = tuple(map(photographs.name, range(len(photographs))))
    targets = np.arange(n)[:, None] % len(classes)
    names = [f"crop {index} of {classes[label]}" for index, label in enumerate(targets[:, 0])]
    return Crops(origin, classes, targets, names, photographs, size, seed, split)


def _around(corners: int, *radii: float) -> npt.NDArray[np.complexfloating]:
    """Corners around 0 in the complex plane, at radii taken in turn."""
    return np.asarray(np.resize(radii, corners) * np.exp(2j * np.pi * np.arange(corners) / corners))


_OUTLINES = {  # what to fill, and then, where there is a second, what to empty
    "circle": (_around(64, 0.95),),
    "ellipse": (_around(64, 0.83) + _around(64, 0.32).conj(),),
    "triangle": (_around(3, 1.2),),
    "square": (_around(4, 1.15),),
    "star": (_around(10, 1.2, 0.5),),
    "cross": (np.ravel(_around(4, 0.36)[:, None] * [3 - 1j, 3 + 1j, 1 + 1j]),),
    "ring": (_around(64, 1.05), _around(64, 0.55)),
    "crescent": (_around(64, 1.05), _around(64, 0.85) + 0.5),
}


class _Canvas:
    """Where a texture is painted: the complex plane around the centre of the shape, a little tilted."""

    def __init__(self, random: Generator, centre: complex, side: int) -> None:
        steps = (np.arange(side, dtype=np.float32) + 0.5) / side
        self.plane = (steps + 1j * steps[:, None] - centre) * complex(np.exp(1j * random.normal(0, 0.08)))
        self.random = random

    def wave(self, along: Reals) -> Reals:
        """A sine of random phase that is 4.5 to 6 pixels long in an image of 32."""
        sine: Reals = np.sin(2 * np.pi * (along * self.random.uniform(5.3, 7.1) + self.random.random()))
        return sine

    def noise(self, cells: int, smoothing: Image.Resampling) -> Reals:
        coarse = Image.fromarray(self.random.random((cells, cells), np.float32) - np.float32(0.5))
        return np.asarray(coarse.resize(self.plane.shape, smoothing))


_TEXTURES: dict[str, Callable[[_Canvas], Reals]] = {  # ink where positive, paper elsewhere
    "plain": lambda at: np.ones(at.plane.shape),
    "horizontal": lambda at: at.wave(at.plane.imag),
    "vertical": lambda at: at.wave(at.plane.real),
    "diagonal": lambda at: at.wave(0.7 * at.plane.real + float(at.random.choice((-0.7, 0.7))) * at.plane.imag),
    "checks": lambda at: at.wave(at.plane.real) * at.wave(at.plane.imag),
    "dots": lambda at: at.wave(at.plane.real) + at.wave(at.plane.imag) - 0.7,
    "rings": lambda at: at.wave(np.abs(at.plane)),
    "rays": lambda at: np.sin(np.angle(at.plane) * float(at.random.integers(6, 10)) + at.random.random()),
    "blobs": lambda at: at.noise(9, Image.Resampling.BICUBIC),
    "grain": lambda at: at.noise(24, Image.Resampling.NEAREST),
}
SHAPES = tuple(_OUTLINES)
TEXTURES = tuple(_TEXTURES)
PAIRS = len(SHAPES) * len(TEXTURES)
OVERSAMPLING = 4


def draw(random: Generator, shape: str, texture: str, size: int) -> Pixels:
    """A shape filled with a texture on a smooth background, at a random place, in random colours."""
    side = size * OVERSAMPLING
    centre = complex(*random.uniform(0.43, 0.57, 2))
    inside = _silhouette(random, shape, centre, side)
    inked = _TEXTURES[texture](_Canvas(random, centre, side)) > 0
    background = _background(random, size)
    ink, paper = _colours(random, background)
    shape_share, ink_share = _share(inside), _share(inside & inked)
    pixels: Reals = ink_share * ink + (shape_share - ink_share) * paper + (1 - shape_share) * background
    return (pixels + 0.5).astype(np.uint8)


def _silhouette(random: Generator, shape: str, centre: complex, side: int) -> npt.NDArray[np.bool_]:
    turn = random.uniform(0.3, 0.38) * np.exp(2j * np.pi * random.random())
    image = Image.new("L", (side, side))
    for outline, fill in zip(_OUTLINES[shape], (1, 0), strict=False):
        corners = (outline * turn + centre) * side
        ImageDraw.Draw(image).polygon(list(zip(corners.real, corners.imag, strict=True)), fill)
    return np.asarray(image, bool)


def _background(random: Generator, size: int) -> Pixels:
    coarse = random.integers(0, 256, 3) + random.integers(-60, 61, (3, 3, 3))
    image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _colours(random: Generator, background: Pixels) -> Reals:
    """Two colours that stand out from the background and from each other."""
    chosen: Reals = background.mean(axis=(0, 1), keepdims=True)[0]
    for candidates in random.uniform(0, 255, (2, 6, 3)):
        gaps = np.linalg.norm(candidates[:, None] - chosen, axis=2).min(axis=1)
        chosen = np.concatenate([chosen, candidates[gaps.argmax(), None]])
    return chosen[1:].astype(np.float32)


def _share(mask: npt.NDArray[np.bool_]) -> Reals:
    """How much of each pixel a mask covers."""
    boxes = Image.fromarray(mask * np.uint8(255)).reduce(OVERSAMPLING)
    return np.asarray(boxes, np.float32)[:, :, None] / 255


@dataclass(eq=False)
class Drawings(Labelled):
    size: int
    seed: int
    stream: str

    def __post_init__(self) -> None:
        self.fields = ("label", "texture")

    def image(self, index: int) -> Pixels:
        shape, texture = self.targets[index]
        return draw(_random(self.seed, self.stream, index), SHAPES[shape], TEXTURES[texture], self.size)


def _drawings(origin: str, pairs: Integers, size: int, seed: int, stream: str) -> Drawings:
    targets = np.stack(np.divmod(pairs, len(TEXTURES)), axis=1)
    names = [f"drawing {index}, {SHAPES[s]} in {TEXTURES[t]}" for index, (s, t) in enumerate(targets)]
    return Drawings(origin, SHAPES, targets, names, size, seed, stream)


def shapes(origin: str, n: Count = 6000, size: Count = 32, seed: Seed = 0, split: Split = "train") -> Drawings:
    """Shape and texture are independent: every run of 80 images holds each pair once."""
    random = _random(seed, f"{split} pairs")
    runs = [random.permutation(PAIRS) for _ in range(0, n, PAIRS)]
    return _drawings(origin, np.concatenate(runs)[:n], size, seed, split)


def cues(origin: str, n: Count = 10, size: Count = 32, seed: Seed = 0) -> Drawings:
    """Every pair of shape and texture `n` times, to ask a model which of the two it goes by."""
    return _drawings(origin, np.tile(np.arange(PAIRS), n), size, seed, "cues")


SAMPLES: dict[str, Callable[..., Source]] = {
    "digits": digits, "photos": photos, "crops": crops, "shapes": shapes, "cues": cues,
}  # fmt: skip
