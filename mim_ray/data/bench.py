"""The loader's part of the speed contract: R1, R2, R2u, R10, and the tables."""

import gc
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mim_ray.bench import Finding, median_of, paired
from mim_ray.data.beton import Beton
from mim_ray.data.importer import Import, import_set
from mim_ray.data.loader import Loader
from mim_ray.data.pictures import Raw, open_picture, to_rgb
from mim_ray.data.plain import PlainDecoder
from mim_ray.data.sources import open_source
from mim_ray.transforms.crop import RandomCrop, Windows
from mim_ray.transforms.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise

PHOTOGRAPHS = 512
EPOCH = 4096
BATCH = 128
CORES = len(os.sched_getaffinity(0))
CROP = RandomCrop()
Row = dict[str, float | int | str]


def r1(pairs: int) -> Finding:
    """Our loader / a bare ffcv.Loader: same beton, crops, flips and threads."""
    with _sets() as sets:
        bare = _bare_ffcv(sets.beton(256))
        loader = Loader(sets.beton(256), batch=BATCH, threads=CORES, samples_per_epoch=EPOCH)
        return paired("R1", lambda: _rate(loader.epoch()), bare, pairs=pairs, unit="images/s ÷ images/s")


def r2(pairs: int) -> Finding:
    """Our loader / torchvision on the same stored pixels, both giving uint8."""
    with _sets() as sets:
        loader = Loader(sets.beton(256), batch=BATCH, threads=CORES, samples_per_epoch=EPOCH)
        theirs = _torchvision(sets.folder_of(256), normalise=False)
        return paired("R2", lambda: _rate(loader.epoch()), theirs, pairs=pairs, unit="images/s ÷ images/s")


def r2u(pairs: int) -> Finding:
    """As a user would switch: our 256-pixel beton / torchvision on the original files, both giving floats."""
    with _sets() as sets:
        loader = Loader(sets.beton(256), batch=BATCH, threads=CORES, samples_per_epoch=EPOCH)
        theirs = _torchvision(sets.originals, normalise=True)

        floats = torch.empty(BATCH, 3, *CROP.size).to(memory_format=torch.channels_last)

        normalise = Normalise()

        def ours() -> float:
            return _rate(normalise(batch.crops[0], out=floats) for batch in loader.epoch())

        return paired("R2u", ours, theirs, pairs=pairs, unit="images/s ÷ images/s")


def r10(pairs: int) -> Finding:
    """Memory growth in MB an epoch, over epochs, rebuilt loaders and early ends; refuses any thread left."""
    with _sets() as sets:

        def loader() -> Loader:
            return Loader(sets.beton(256), batch=BATCH, threads=CORES)

        kept = loader()
        _rate(kept.epoch())
        threads = threading.active_count()
        growth = []
        for epoch in range(max(30, pairs)):
            before = _resident_mb()
            _rate(kept.epoch(epoch))
            if epoch % 3 < 2:
                next(loader().batches(epoch))
            gc.collect()
            growth.append(_resident_mb() - before)
        left = threading.active_count() - threads
        if left:
            raise AssertionError(f"{left} loader threads were left behind")
        mean = sum(growth[3:]) / len(growth[3:])
        return median_of(growth[3:], "MB an epoch")._replace(ratio=mean)


def sizing() -> list[Row]:
    """Images a second and core, by storage, stored size and number of views."""
    rows: list[Row] = []
    with _sets() as sets:
        for storage, side, views in product(("jpeg", "raw"), (256, 400, 500), (1, 2)):
            beton = sets.beton(side, storage)
            loader = Loader(beton, batch=BATCH, threads=1, views=views)
            rates = sorted(_rate(loader.epoch()) for _ in range(5))
            size = beton.stat().st_size / PHOTOGRAPHS / 1000
            rows.append(
                {
                    "storage": storage,
                    "longest side": side,
                    "views": views,
                    "images/s/core": round(rates[2]),
                    "kB/image": round(size),
                }
            )
    return rows


def interpolation() -> list[Row]:
    """Our crops against torchvision's resizing of the very same windows, in levels of 255."""
    with _sets() as sets:
        loader = Loader(
            sets.beton(256), batch=PHOTOGRAPHS, threads=CORES, crop=RandomCrop(flip=0.0), shuffle=False
        )
        batch = next(loader.batches())
        height, width = loader.beton.height[: len(batch.samples)], loader.beton.width[: len(batch.samples)]
        windows = loader.crop.windows(loader.seed, 0, batch.position.numpy(), height, width)
        ours = batch.crops[0].float()
        return [_compared(name, ours, _resized(loader, windows, name)) for name in ("bilinear", "bicubic")]


def _resized(loader: Loader, windows: Windows, interpolation: str) -> torch.Tensor:
    from torchvision.transforms import InterpolationMode, functional

    mode, size = InterpolationMode(interpolation), list(loader.crop.size)
    crops = []
    with loader.beton.path.open("rb") as file:
        decoder = PlainDecoder(loader.beton, file.fileno())
        for sample, (top, left, high, wide, _) in enumerate(windows.tolist()):
            picture = torch.from_numpy(decoder.picture(sample).copy()).permute(2, 0, 1)
            crops.append(functional.resized_crop(picture, top, left, high, wide, size, mode, antialias=True))
    return torch.stack(crops).float()


def _compared(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> Row:
    return {
        "torchvision": name,
        "difference of means": round(float((ours.mean() - theirs.mean()).abs()), 3),
        "ratio of deviations": round(float(ours.std() / theirs.std()), 4),
        "mean absolute difference": round(float((ours - theirs).abs().mean()), 2),
    }


RATIOS: dict[str, Callable[[int], Finding]] = {"R1": r1, "R2": r2, "R2u": r2u, "R10": r10}
TABLES: dict[str, Callable[[], list[Row]]] = {"sizing": sizing, "interpolation": interpolation}


class _Sets:
    """Photographs of 500 × 375 pixels as files, and betons made from them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.originals = folder / "originals"
        target = self.originals / "all"
        target.mkdir(parents=True)
        photographs = open_source("sample:photos")
        whole = [_as_rgb(photographs.image(i)) for i in range(len(photographs))]
        draw = np.random.default_rng(0)
        for number in range(PHOTOGRAPHS):
            image = whole[number % len(whole)]
            share = draw.uniform(0.5, 1.0)
            width, height = int(image.width * share), int(image.height * share)
            left, top = draw.integers(image.width - width + 1), draw.integers(image.height - height + 1)
            cut = image.crop((int(left), int(top), int(left) + width, int(top) + height))
            cut.resize((500, 375), Image.Resampling.BICUBIC).save(target / f"{number:04}.jpg", quality=90)

    def beton(self, side: int, storage: str = "jpeg") -> Path:
        path = self._folder / f"{storage}-{side}.beton"
        if not path.exists():
            options = Import.model_validate({"max_resolution": side, "format": storage, "workers": 1})
            import_set(open_source(str(self.originals)), path, options)
        return path

    def folder_of(self, side: int) -> Path:
        """The very JPEG bytes that the beton of this size holds, as files."""
        folder = self._folder / f"files-{side}"
        if not folder.exists():
            (folder / "all").mkdir(parents=True)
            beton = Beton.open(self.beton(side))
            with beton.path.open("rb") as file:
                for sample in range(len(beton)):
                    (folder / "all" / f"{sample:04}.jpg").write_bytes(beton.read(file, sample))
        return folder


@contextmanager
def _sets() -> Iterator[_Sets]:
    with tempfile.TemporaryDirectory() as folder:
        yield _Sets(Path(folder))


def _as_rgb(raw: Raw) -> Image.Image:
    with open_picture(raw) as image:
        return to_rgb(image)


def _rate(batches: Any) -> float:
    began, images = time.perf_counter(), 0
    for batch in batches:
        images += len(batch if isinstance(batch, torch.Tensor) else batch.samples)
    return images / (time.perf_counter() - began)


def _bare_ffcv(beton: Path) -> Callable[[], float]:
    threads = torch.get_num_threads()
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader as BareLoader
    from ffcv.loader import OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    decoder = RandomResizedCropRGBImageDecoder(CROP.size, CROP.scale, CROP.ratio)
    pipelines = {"image": [decoder, RandomHorizontalFlip(CROP.flip), ToTensor(), ToTorchImage()]}
    samples = np.tile(np.arange(PHOTOGRAPHS), EPOCH // PHOTOGRAPHS)
    bare = BareLoader(
        str(beton), batch_size=BATCH, num_workers=CORES, order=OrderOption.RANDOM, indices=samples,
        os_cache=True, drop_last=True, pipelines=pipelines | {"label": None},
    )  # fmt: skip
    torch.set_num_threads(threads)
    return lambda: _rate(images for (images,) in bare)


def _torchvision(folder: Path, *, normalise: bool) -> Callable[[], float]:
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision import datasets, transforms

    last: list[Any] = [transforms.PILToTensor()]
    if normalise:
        last = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    crop = transforms.RandomResizedCrop(CROP.size, CROP.scale, CROP.ratio)
    steps = [crop, transforms.RandomHorizontalFlip(CROP.flip), *last]
    files = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    sampler = RandomSampler(files, replacement=True, num_samples=EPOCH)
    loader = DataLoader(files, BATCH, sampler=sampler, num_workers=CORES, persistent_workers=True)
    return lambda: _rate(images for images, _ in loader)


def _resident_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
