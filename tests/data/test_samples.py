import pickle
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mim_ray.data import samples
from mim_ray.data.samples import SAMPLES, SHAPES, TEXTURES, Photos, photos
from mim_ray.data.source import Source
from mim_ray.data.sources import open_source
from mim_ray.errors import Failure, Mistake

SMALL = {
    "digits": "sample:digits",
    "photos": "sample:photos",
    "crops": "sample:crops:n=40,size=24",
    "shapes": "sample:shapes:n=100,size=16",
    "cues": "sample:cues:n=1,size=16",
}


def pixels(source: Source, index: int) -> npt.NDArray[np.uint8]:
    image = source.image(index)
    assert not isinstance(image, bytes)
    return np.asarray(image)


def refusal(text: str, **options: str) -> str:
    with pytest.raises(Mistake) as refused:
        open_source(text, **options)
    return str(refused.value)


def test_every_sample_has_a_small_version_here() -> None:
    assert SMALL.keys() == SAMPLES.keys()


@pytest.mark.parametrize("text", SMALL.values())
def test_every_sample_is_a_source(text: str) -> None:
    source = open_source(text)
    labels = source.labels()
    assert source.origin == text
    assert labels.shape == (len(source), len(source.fields))
    assert labels.dtype == np.int64
    if source.fields:
        assert set(labels[:, 0].tolist()) == set(range(len(source.classes)))
    else:
        assert source.classes == ()
    assert len({source.name(index) for index in range(len(source))}) == len(source)


@pytest.mark.parametrize("text", SMALL.values())
def test_any_process_draws_the_same_pictures(text: str) -> None:
    first, again = open_source(text), open_source(text)
    second: Source = pickle.loads(pickle.dumps(again))
    for index in (len(first) - 1, 0, 7):
        one, other = first.image(index), second.image(index)
        assert type(one) is type(other)
        assert one == other if isinstance(one, bytes) else np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("name", ["crops", "shapes", "cues"])
def test_the_seed_changes_every_picture(name: str) -> None:
    first, second = open_source(SMALL[name]), open_source(f"{SMALL[name]},seed=1")
    assert all(not np.array_equal(pixels(first, index), pixels(second, index)) for index in range(20))


def test_refusals() -> None:
    assert refusal("sample:shaps") == "no sample 'shaps': did you mean 'shapes'?"
    assert refusal("sample:") == "no sample '': choose from crops, cues, digits, photos, shapes"
    assert refusal("sample:shapes:sise=64") == "no field 'sise': did you mean 'size'?"
    assert refusal("sample:shapes:n=many") == "n=many: expected an integer"
    assert refusal("sample:crops:size=0") == "size=0: expected an integer greater than 0"
    assert refusal("sample:crops:split=vall").endswith("expected train or val: did you mean 'val'?")
    assert refusal("sample:digits", split="test") == "split=test: expected train or val"
    assert refusal("sample:cues:n=1", split="val") == "split=val: sample:cues:n=1 has no splits: leave split= out"
    assert refusal("sample:photos", split="val").startswith("split=val: sample:photos has no splits")
    assert refusal("sample:photos:n=3") == "sample:photos takes no arguments, got 'n=3'"


def test_a_split_in_the_name_wins() -> None:
    named, given = open_source("sample:digits:split=val"), open_source("sample:digits", split="val")
    assert len(named) == len(given) == 360
    assert len(open_source("sample:digits:split=train", split="val")) == 1437


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(Failure, match=r"^sklearn is not installed: pip install 'mim_ray\[sources\]'$"):
        open_source("sample:photos")


# Digits


def test_digits() -> None:
    train, val = open_source("sample:digits"), open_source("sample:digits", split="val")
    assert len(train) + len(val) == 1797
    assert train.classes == tuple("0123456789")
    names = [{source.name(index) for index in range(len(source))} for source in (train, val)]
    assert not names[0] & names[1]
    zero = pixels(open_source("sample:digits:size=64"), 0)
    assert zero.shape == (64, 64)
    assert zero.max() > 200
    assert zero[28:36, 28:36].mean() < 60  # the hole of the first digit, a zero


# Photographs


def test_photographs_are_the_installed_ones() -> None:
    source = photos("sample:photos")
    names = [source.name(index) for index in range(len(source))]
    assert {"china", "flower", "chelsea", "astronaut", "camera", "coins"} <= set(names)
    for index in range(len(source)):
        image = Image.open(source.root / source.names[index])
        assert min(image.size) > 150
        image.close()


def test_photographs_are_never_fetched() -> None:
    code = (
        "import socket, sys; socket.socket.connect = None\n"
        "from mim_ray.data.sources import open_source\n"
        "source = open_source('sample:crops')\n"
        "print(len(source.image(0).tobytes()), len(open_source('sample:photos')), 'pooch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(96 * 96 * 3), str(len(open_source("sample:photos"))), "False"]


# Crops


def test_crops_are_named_by_photograph() -> None:
    source = open_source("sample:crops:n=50,size=32")
    photographs = open_source("sample:photos")
    assert source.classes == tuple(photographs.name(index) for index in range(len(photographs)))
    counts = np.bincount(source.labels()[:, 0], minlength=len(source.classes))
    assert counts.max() - counts.min() <= 1
    assert all(pixels(source, index).shape == (32, 32, 3) for index in range(20))


def test_train_and_val_crops_come_from_disjoint_halves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = Image.new("RGB", (301, 200), "red")
    image.paste("blue", (150, 0, 301, 200))
    image.save(tmp_path / "two.png")
    two = Photos("two", (), np.zeros((1, 0), np.int64), ["two.png"], tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(samples, "photos", lambda _: two)
    for split, channel in (("train", 0), ("val", 2)):
        crops = open_source("sample:crops:n=30,size=40", split=split)
        for index in range(len(crops)):
            crop = pixels(crops, index)
            assert (crop[..., channel] == 255).all()
            assert crop.sum() == crop[..., channel].sum()


# Shapes and textures


def test_names_of_shapes_and_textures() -> None:
    source = open_source("sample:shapes")
    assert (source.fields, source.classes) == (("label", "texture"), SHAPES)
    assert (len(source), len(SHAPES), len(TEXTURES)) == (6000, 8, 10)
    shape, texture = source.labels()[5]
    assert source.name(5) == f"drawing 5, {SHAPES[shape]} in {TEXTURES[texture]}"


@pytest.mark.parametrize("split", ["train", "val"])
def test_shape_and_texture_are_independent(split: str) -> None:
    pairs = Counter(map(tuple, open_source("sample:shapes:n=6000", split=split).labels().tolist()))
    assert set(pairs.values()) == {6000 // 80}
    partial = Counter(map(tuple, open_source("sample:shapes:n=6013", split=split).labels().tolist()))
    assert set(partial.values()) == {75, 76}


def test_order_tells_nothing_about_shape_or_texture() -> None:
    shapes, textures = open_source("sample:shapes:n=8000").labels().T
    for values, kinds in ((shapes, 8), (textures, 10)):
        follows = np.zeros((kinds, kinds))
        np.add.at(follows, (values[:-1], values[1:]), 1)
        expected = follows.sum() / kinds**2
        freedom = kinds**2 - 1
        assert ((follows - expected) ** 2 / expected).sum() < freedom + 6 * np.sqrt(2 * freedom)


def test_a_longer_set_begins_like_a_shorter_one() -> None:
    short, long = open_source("sample:shapes:n=100"), open_source("sample:shapes:n=300")
    assert np.array_equal(short.labels(), long.labels()[:100])
    assert np.array_equal(pixels(short, 99), pixels(long, 99))


def test_splits_and_cues_share_no_picture() -> None:
    sets = [open_source(f"sample:shapes:n=80,split={split}") for split in ("train", "val")]
    sets.append(open_source("sample:cues:n=1"))
    drawn = [{pixels(source, index).tobytes() for index in range(80)} for source in sets]
    assert len(set.union(*drawn)) == 240


def test_drawings_have_the_size_asked_for() -> None:
    for size in (16, 33, 96):
        drawing = pixels(open_source(f"sample:shapes:size={size}"), 3)
        assert drawing.shape == (size, size, 3)
        assert drawing.dtype == np.uint8


def test_larger_drawings_show_the_same() -> None:
    small, large = open_source("sample:shapes:size=24"), open_source("sample:shapes:size=96")
    for index in range(20):
        halved = Image.fromarray(pixels(large, index)).reduce(4)
        difference = np.asarray(halved).astype(float) - pixels(small, index)
        assert np.abs(difference).mean() < 6


def test_cues_are_a_grid() -> None:
    source = open_source("sample:cues:n=3")
    grid = list(product(range(8), range(10)))
    assert list(map(tuple, source.labels().tolist())) == grid * 3


def test_textures_can_be_told_apart() -> None:
    """Nearest neighbours in the spectrum of the middle guess them far more often than 1 time in 10."""
    source = open_source("sample:shapes:n=800")
    textures = source.labels()[:, 1]
    images = np.stack([pixels(source, index) for index in range(len(source))]).mean(axis=3)
    middle = images[:, 8:24, 8:24]
    spectra = np.abs(np.fft.rfft2(middle - middle.mean(axis=(1, 2), keepdims=True))).reshape(len(images), -1)
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    nearest = np.argmax(spectra[400:] @ spectra[:400].T, axis=1)
    assert (textures[:400][nearest] == textures[400:]).mean() > 0.3
