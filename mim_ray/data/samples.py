"""Sets that need no network: digits, photographs, crops of photographs, and shapes filled with textures."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw
from PIL.Image import Resampling

from mim_ray.data.sources import Files, Integers, Labelled, Source, needed
from mim_ray.errors import Mistake, nearest

Reals = npt.NDArray[np.floating[Any]]
Points = npt.NDArray[np.complexfloating[Any, Any]]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

SPLITS = ("train", "val")
PHOTOGRAPHS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": (
        "data/chelsea.png", "data/coffee.png", "data/astronaut.png", "data/rocket.jpg",
        "data/motorcycle_left.png", "data/hubble_deep_field.jpg", "data/retina.jpg", "data/ihc.png",
        "data/camera.png", "data/coins.png", "data/moon.png", "data/brick.png", "data/grass.png",
        "data/gravel.png", "data/page.png", "data/text.png",
    ),
}  # fmt: skip


def open_sample(text: str, request: str, split: str) -> Source:
    """The sample that a request such as `shapes:n=6000,size=32` names; a split in it wins over `split`."""
    name, _, words = request.partition(":")
    if name not in SAMPLES:
        raise Mistake(f"no sample {name!r}{nearest(name, SAMPLES)}")
    accepted = list(inspect.signature(SAMPLES[name]).parameters)[1:]
    arguments = {"split": _value("split", split)} if "split" in accepted else {}
    for word in filter(None, words.split(",")):
        key, _, value = word.partition("=")
        if key not in accepted:
            raise Mistake(f"sample:{name} has no argument {key!r}{nearest(key, accepted)}")
        arguments[key] = _value(key, value)
    return SAMPLES[name](text, **arguments)


def _value(key: str, word: str) -> str | int:
    if key == "split":
        if word not in SPLITS:
            raise Mistake(f"a sample has no split {word!r}{nearest(word, SPLITS)}")
        return word
    least = 0 if key == "seed" else 1
    if not word.isdecimal() or int(word) < least:
        raise Mistake(f"{key}={word} is not a whole number from {least} up")
    return int(word)


def _random(seed: int, stream: str, index: int = 0) -> Generator:
    return default_rng((seed, index, *stream.encode()))


@dataclass(eq=False)
class Digits(Labelled):
    glyphs: Pixels
    size: int

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.glyphs[index]).resize((self.size, self.size), Resampling.BICUBIC)


def digits(origin: str, size: int = 32, split: str = "train") -> Digits:
    """scikit-learn's 1,797 handwritten digits, of which the last fifth is val."""
    every = needed("sklearn.datasets").load_digits()
    boundary = len(every.target) * 4 // 5
    part = slice(boundary) if split == "train" else slice(boundary, None)
    targets = every.target[part, None].astype(np.int64)
    names = [f"digit {index}" for index in range(len(every.target))[part]]
    glyphs = np.rint(every.images[part] * (255 / 16)).astype(np.uint8)
    return Digits(origin, tuple("0123456789"), targets, names, glyphs, size)


class Photos(Files):
    def name(self, index: int) -> str:
        return Path(self.names[index]).stem


def photos(origin: str) -> Photos:
    """The photographs installed with scikit-learn and scikit-image, colour before grey; none is fetched."""
    packages = {Path(needed(package).__file__).parent: names for package, names in PHOTOGRAPHS.items()}
    paths = [package / name for package, names in packages.items() for name in names]
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
        largest = min(half.size)
        smallest = min(self.size, largest // 2)
        side = round(smallest * (largest / smallest) ** random.random())
        left, top = (int(random.integers(length - side + 1)) for length in half.size)
        box = (left, top, left + side, top + side)
        return half.resize((self.size, self.size), Resampling.BICUBIC, box)


@cache
def _half(photograph: str, split: str) -> Image.Image:
    """The left half for train, the right one for val, decoded once per process."""
    with Image.open(photograph) as file:
        middle = file.width // 2
        left, right = (0, middle) if split == "train" else (middle, file.width)
        return file.convert("RGB").crop((left, 0, right, file.height))


def crops(origin: str, n: int = 2000, size: int = 96, seed: int = 0, split: str = "train") -> Crops:
    """Squares cut at any scale from the photographs; the label is the photograph."""
    photographs = photos(origin)
    classes = tuple(map(photographs.name, range(len(photographs))))
    targets = np.arange(n)[:, None] % len(classes)
    names = [f"crop {index} of {classes[label]}" for index, label in enumerate(targets[:, 0])]
    return Crops(origin, classes, targets, names, photographs, size, seed, split)


def _around(corners: int, *radii: float) -> Points:
    """Corners around 0 in the complex plane, at radii taken in turn."""
    directions = np.exp(2j * np.pi * np.arange(corners) / corners)
    return np.asarray(np.resize(radii, corners) * directions)


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


@dataclass
class _Canvas:
    """Where a texture is painted: the complex plane around the centre of the shape, 1 image wide."""

    random: Generator
    plane: Points

    def wave(self, along: Reals) -> Reals:
        """A sine of random phase that is 4.5 to 6 pixels long in an image of 32."""
        turns = along * self.random.uniform(5.3, 7.1) + self.random.random()
        return np.sin(2 * np.pi * turns)

    def noise(self, cells: int, smoothing: Resampling) -> Reals:
        coarse = Image.fromarray(self.random.random((cells, cells), np.float32) - np.float32(0.5))
        return np.asarray(coarse.resize(self.plane.shape, smoothing))


_TEXTURES: dict[str, Callable[[_Canvas], Reals]] = {  # ink where positive, paper elsewhere
    "plain": lambda at: np.ones(at.plane.shape),
    "horizontal": lambda at: at.wave(at.plane.imag),
    "vertical": lambda at: at.wave(at.plane.real),
    "diagonal": lambda at: at.wave(at.plane.real + at.plane.imag * at.random.choice([-1, 1])),
    "checks": lambda at: at.wave(at.plane.real) * at.wave(at.plane.imag),
    "dots": lambda at: at.wave(at.plane.real) + at.wave(at.plane.imag) - 0.7,
    "rings": lambda at: at.wave(np.abs(at.plane)),
    "rays": lambda at: np.sin(np.angle(at.plane) * at.random.integers(6, 10) + at.random.random()),
    "blobs": lambda at: at.noise(9, Resampling.BICUBIC),
    "grain": lambda at: at.noise(24, Resampling.NEAREST),
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
    inked = _TEXTURES[texture](_canvas(random, centre, side)) > 0
    background = _background(random, size)
    ink, paper = _colours(random, background)
    ink_share, paper_share = _shares(inside & inked), _shares(inside & ~inked)
    pixels = ink_share * ink + paper_share * paper + (1 - ink_share - paper_share) * background
    return np.rint(pixels).astype(np.uint8)


def _silhouette(random: Generator, shape: str, centre: complex, side: int) -> Mask:
    turn = random.uniform(0.3, 0.38) * np.exp(2j * np.pi * random.random())
    image = Image.new("L", (side, side))
    for outline, fill in zip(_OUTLINES[shape], (1, 0), strict=False):
        corners = (outline * turn + centre) * side
        ImageDraw.Draw(image).polygon(list(zip(corners.real, corners.imag, strict=True)), fill)
    return np.asarray(image, bool)


def _canvas(random: Generator, centre: complex, side: int) -> _Canvas:
    steps = (np.arange(side) + 0.5) / side
    plane = (steps + 1j * steps[:, None] - centre) * np.exp(1j * random.normal(0, 0.08))
    return _Canvas(random, plane.astype(np.complex64))


def _background(random: Generator, size: int) -> Pixels:
    coarse = random.integers(0, 256, 3) + random.integers(-60, 61, (3, 3, 3))
    image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
    return np.asarray(image.resize((size, size), Resampling.BICUBIC))


def _colours(random: Generator, background: Pixels) -> Reals:
    """Two colours that stand out from the background and from each other."""
    chosen = background.mean(axis=(0, 1), keepdims=True)[0]
    for candidates in random.uniform(0, 255, (2, 6, 3)):
        gaps = np.linalg.norm(candidates[:, None] - chosen, axis=2).min(axis=1)
        chosen = np.concatenate([chosen, candidates[gaps.argmax(), None]])
    return chosen[1:].astype(np.float32)


def _shares(mask: Mask) -> Reals:
    """How much of each pixel a mask covers."""
    size = len(mask) // OVERSAMPLING
    boxes = mask.reshape(size, OVERSAMPLING, size, OVERSAMPLING)
    return boxes.mean(axis=(1, 3), dtype=np.float32)[:, :, None]


@dataclass(eq=False)
class Drawings:
    origin: str
    targets: Integers
    size: int
    seed: int
    stream: str
    classes: tuple[str, ...] = SHAPES
    fields: tuple[str, ...] = ("label", "texture")

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        shape, texture = self.targets[index]
        return f"drawing {index}, {SHAPES[shape]} in {TEXTURES[texture]}"

    def labels(self) -> Integers:
        return self.targets

    def image(self, index: int) -> Pixels:
        shape, texture = self.targets[index]
        random = _random(self.seed, self.stream, index)
        return draw(random, SHAPES[shape], TEXTURES[texture], self.size)


def _shapes_and_textures(pairs: Integers) -> Integers:
    return np.stack(np.divmod(pairs, len(TEXTURES)), axis=1)


def shapes(origin: str, n: int = 6000, size: int = 32, seed: int = 0, split: str = "train") -> Drawings:
    """Independent shapes and textures: every run of 80 images holds each pair once."""
    random = _random(seed, f"{split} pairs")
    runs = [random.permutation(PAIRS) for _ in range(0, n, PAIRS)]
    return Drawings(origin, _shapes_and_textures(np.concatenate(runs)[:n]), size, seed, split)


def cues(origin: str, n: int = 10, size: int = 32, seed: int = 0) -> Drawings:
    """Every pair of shape and texture `n` times, to ask a model which of the two it goes by."""
    return Drawings(origin, _shapes_and_textures(np.tile(np.arange(PAIRS), n)), size, seed, "cues")


SAMPLES: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "photos": photos,
    "crops": crops,
    "shapes": shapes,
    "cues": cues,
}
