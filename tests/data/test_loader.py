"""The loader: exact, restartable, honest about what goes wrong, and leaving nothing behind."""

import gc
import importlib
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, functional

from mim_ray.data import loader as loader_module
from mim_ray.data import native
from mim_ray.data.beton import FIELD, HEADER, BetonWriter, Mode
from mim_ray.data.loader import Backend, Batch, Loader
from mim_ray.data.memory import _cgroup_free
from mim_ray.data.plain import PlainDecoder
from mim_ray.data.sources import open_source
from mim_ray.data.subset import Subset
from mim_ray.errors import Failure, Mistake
from mim_ray.transforms.crop import CenterCrop, RandomCrop
from mim_ray.transforms.pixels import Normalise

SAMPLES, BATCH = 53, 8
CROP = RandomCrop(size=(32, 48))
BACKENDS: list[Backend] = ["ffcv", "torch"]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sets") / "jpeg.beton", Mode.JPEG)


@pytest.fixture(scope="module")
def raws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sets") / "raw.beton", Mode.RAW)


def written(path: Path, mode: Mode, samples: int = SAMPLES) -> Path:
    """Cuts of real photographs, of many sizes, as real JPEG files."""
    photographs = open_source("sample:photos")
    with BetonWriter(path, ["label"], samples) as writer:
        for i in range(samples):
            whole = (
                Image.open(io.BytesIO(raw)) if isinstance(raw := photographs.image(0), bytes) else as_image(raw)
            )
            left, top = 7 * i % 200, 5 * i % 150
            cut = whole.convert("RGB").crop((left, top, left + 90 + i, top + 130 - i))
            packed = io.BytesIO()
            cut.save(packed, "JPEG", quality=92)
            data = packed.getvalue() if mode == Mode.JPEG else np.asarray(cut).tobytes()
            writer.add(mode, cut.size, [i % 7], data, f"cut-{i}.jpg")
    return path


def as_image(raw: Any) -> Image.Image:
    return raw if isinstance(raw, Image.Image) else Image.fromarray(raw)


def loader(path: Path, **options: Any) -> Loader:
    settings: dict[str, Any] = {"batch": BATCH, "crop": CROP, "threads": 2, "backend": "ffcv"} | options
    return Loader(path, **settings)


def everything(batches: Iterable[Batch]) -> list[tuple[int, list[int], list[int], bytes]]:
    """Step, samples, labels and every byte of every view, for comparison."""
    return [
        (b.step, b.samples.tolist(), [] if b.labels is None else b.labels.tolist(),
         b"".join(view.contiguous().numpy().tobytes() for view in b.crops))
        for b in batches
    ]  # fmt: skip


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_three_epochs_stopped_anywhere_go_on_crop_for_crop(jpegs: Path, backend: Backend, views: int) -> None:
    whole = everything(loader(jpegs, backend=backend, views=views).batches(0, 18))
    assert [step for step, *_ in whole] == list(range(18))
    for stopped_at in (1, 6, 11, 17):
        for threads in (1, 3):
            again = loader(jpegs, backend=backend, views=views, threads=threads)
            assert everything(again.batches(stopped_at, 18)) == whole[stopped_at:]


@pytest.mark.parametrize("world", [2, 3])
def test_a_restart_in_another_world_sees_the_same_global_batches(jpegs: Path, world: int) -> None:
    whole = everything(loader(jpegs).batches(7, 14))
    parts = [everything(loader(jpegs, rank=rank, world=world).batches(7, 14)) for rank in range(world)]
    for step, *shares in zip(whole, *parts, strict=True):
        assert step[1] == [sample for share in shares for sample in share[1]]
        assert step[3] == b"".join(share[3] for share in shares)


def test_the_two_views_differ_and_the_first_is_the_single_one(jpegs: Path) -> None:
    both, one = next(loader(jpegs, views=2).batches()), next(loader(jpegs).batches())
    assert torch.equal(both.crops[0], one.crops[0])
    assert not torch.equal(both.crops[0], both.crops[1])


@pytest.mark.parametrize("mode", ["jpegs", "raws"])
def test_both_backends_give_the_same_crops(mode: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(mode)
    for crop in (CROP, CenterCrop(size=(40, 40)), RandomCrop(size=(160, 160)), RandomCrop(size=(9, 6))):
        ours, plain = (next(loader(path, crop=crop, backend=b, batch=50).batches()) for b in BACKENDS)
        assert torch.equal(ours.samples, plain.samples)
        gap = (ours.crops[0].int() - plain.crops[0].int()).abs()
        assert gap.max() <= 1  # the rounding of the resize; JPEG is decoded to the very same pixels
        assert gap.float().mean() < 0.2


def test_batches_are_bytes_with_channels_last_and_labels_and_index(jpegs: Path) -> None:
    batch = next(loader(jpegs).batches())
    assert batch.crops[0].shape == (BATCH, 3, 32, 48)
    assert batch.crops[0].dtype == torch.uint8
    assert batch.crops[0].is_contiguous(memory_format=torch.channels_last)
    assert batch.labels is not None
    assert torch.equal(batch.labels, batch.samples % 7)
    assert batch.position.tolist() == list(range(BATCH))
    assert next(loader(jpegs, label=None).batches()).labels is None


def test_batches_stay_what_they_are_when_kept(jpegs: Path) -> None:
    kept = list(loader(jpegs, ahead=1).batches(0, 12))
    assert everything(kept) == everything(loader(jpegs).batches(0, 12))


def test_buffers_are_used_again_when_batches_are_dropped(jpegs: Path) -> None:
    used = loader(jpegs)
    for _ in used.batches(0, 60):
        pass
    assert used._buffers.made <= used.ahead + 2


def test_evaluation_takes_every_sample_once_in_any_world(jpegs: Path) -> None:
    options: dict[str, Any] = {"shuffle": False, "keep_tail": True, "crop": CenterCrop(size=(32, 32))}
    shares = [everything(loader(jpegs, rank=r, world=3, **options).epoch()) for r in range(3)]
    taken = [sample for share in shares for _, index, *_ in share for sample in index]
    assert sorted(taken) == list(range(SAMPLES))
    assert len({len(share) for share in shares}) == 1


def test_a_set_of_one_image_fills_virtual_epochs(tmp_path: Path) -> None:
    path = written(tmp_path / "one.beton", Mode.JPEG, samples=1)
    with pytest.raises(Mistake, match="larger than an epoch of 1 samples"):
        loader(path)
    batches = list(loader(path, samples_per_epoch=32).epoch())
    assert len(batches) == 4
    crops = torch.cat([batch.crops[0] for batch in batches])
    assert len(crops.unique(dim=0)) == 32
    beton = loader(path, samples_per_epoch=32).beton
    assert all(column.flags.aligned for column in (beton.width, beton.height, beton.pointer))


def test_an_epoch_of_few_pictures_may_be_as_long_as_that_of_all(jpegs: Path) -> None:
    few = loader(jpegs, subset=Subset(n=3), samples_per_epoch="all")
    whole = loader(jpegs)
    assert few.steps_per_epoch == whole.steps_per_epoch
    seen = torch.cat([batch.samples for batch in few.epoch()])
    assert len(seen.unique()) == 3
    counts = seen.unique(return_counts=True)[1]
    assert counts.max() - counts.min() <= 1


def threads_of_loaders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mim_ray")]


def test_leaving_early_ends_the_threads_and_frees_the_buffers(jpegs: Path) -> None:
    left = loader(jpegs)
    for batch in left.batches():
        del batch
        break
    gc.collect()
    assert not threads_of_loaders()
    assert not left._buffers._free


def said_by(script: str, *arguments: object, **environment: str) -> str:
    """What a program of its own prints; on stderr it may print nothing."""
    words = [sys.executable, "-c", script, *map(str, arguments)]
    ended = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


EXIT = """
import sys
from mim_ray.data.loader import Loader
from mim_ray.transforms.crop import RandomCrop
crop = RandomCrop(size=(512, 512))
batches = Loader(sys.argv[1], batch=32, crop=crop, threads=4, backend=sys.argv[2]).batches()
next(batches)
"""
EXIT_OF_A_USER = """
import sys, mim_ray
loader = mim_ray.Loader(sys.argv[1], batch=8, crop=mim_ray.RandomCrop(size=(32, 32)), backend=sys.argv[2])
batches = [loader.batches(start) for start in range(2)]
for one in batches:
    next(one)
"""


@pytest.mark.parametrize("script", [EXIT, EXIT_OF_A_USER])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_program_may_end_in_the_middle_of_an_epoch(jpegs: Path, backend: Backend, script: str) -> None:
    assert said_by(script, jpegs, backend) == ""


THREADS = """
import os, sys, torch
from mim_ray.data.loader import Loader
from mim_ray.transforms.crop import RandomCrop
def running(): return len(os.listdir("/proc/self/task"))
before = running()
batches = Loader(sys.argv[1], batch=8, crop=RandomCrop(), threads=2, backend="torch").batches()
for _ in range(3):
    next(batches)
print(running() - before, torch.get_num_threads())
"""


def test_the_plain_backend_starts_no_threads_beneath_its_own_and_leaves_torchs_alone(jpegs: Path) -> None:
    assert said_by(THREADS, jpegs, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2") == "2 2\n"


def test_a_start_that_fails_leaves_no_threads(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = loader(jpegs)
    monkeypatch.setattr(crowded._buffers, "take", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(crowded.batches())
    assert not threads_of_loaders()


def test_an_epoch_ends_when_its_copies_have_left_the_host(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By events that stand for a GPU far behind: else the next epoch would fill what is still being copied."""
    pending: set[Any] = set()

    class Event:
        def __init__(self) -> None:
            pending.add(self)

        def query(self) -> bool:
            return False

        def synchronize(self) -> None:
            pending.remove(self)

    class Queue:
        record_event = Event

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Queue)
    assert sum(len(batch.samples) for batch in loader(jpegs, device="meta").epoch()) == 48
    assert not pending


def test_a_file_may_be_removed_between_two_epochs(raws: Path, tmp_path: Path) -> None:
    """As the cache of staged files does it, when it needs room."""
    path = tmp_path / "evicted.beton"
    path.write_bytes(raws.read_bytes())
    running = loader(path)
    before = everything(running.epoch())
    path.unlink()
    assert everything(running.epoch()) == before


def test_two_loaders_at_once_thirty_epochs_twenty_rebuilds(jpegs: Path) -> None:
    torch_threads = torch.get_num_threads()
    first, second = loader(jpegs), loader(jpegs, seed=1)
    expected = everything(first.epoch(3)), everything(second.epoch(3))
    memory = []
    for epoch in range(30):
        pairs = list(zip(first.epoch(3), second.epoch(3), strict=True))
        assert (everything(a for a, _ in pairs), everything(b for _, b in pairs)) == expected
        del pairs
        if epoch < 20:
            next(loader(jpegs, views=2).batches(epoch))
        gc.collect()
        memory.append(resident_mb())
    assert not threads_of_loaders()
    assert torch.get_num_threads() == torch_threads
    assert memory[-1] - memory[9] < 20, memory


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


class Broken:
    """A decoder whose thread meets an error, or never ends."""

    def __init__(self, *_: object) -> None:
        self.calls = 0

    def decode(self, samples: Any, windows: Any, out: Any) -> None:
        self.calls += 1
        if self.calls > 2:
            raise ZeroDivisionError("in the loader's thread")


class Stuck(Broken):
    released = threading.Event()

    def decode(self, samples: Any, windows: Any, out: Any) -> None:
        Stuck.released.wait(30)


def test_an_error_in_a_thread_is_raised_where_the_batch_is_awaited(
    jpegs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "NativeDecoder", Broken)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="in the loader's thread"):
        list(loader(jpegs).batches(0, 100))
    assert time.monotonic() - began < 5
    assert not threads_of_loaders()


def test_a_stalled_loader_is_named(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "NativeDecoder", Stuck)
    with pytest.raises(Failure, match=r"jpeg.beton: no batch for \d s at step 3 .*2 of 2 loader threads alive"):
        next(loader(jpegs, stall_seconds=0.5).batches(3))
    Stuck.released.set()


def within_seconds(seconds: float, happened: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not happened() and time.monotonic() < until:
        time.sleep(0.02)
    return happened()


def test_the_garbage_collector_may_end_an_iterator_in_a_thread_of_its_own(
    jpegs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an iterator is part of a cycle; pytest fails a test on an error in there."""
    forgotten = threading.Event()

    class Collecting(Broken):
        def decode(self, samples: Any, windows: Any, out: Any) -> None:
            self.calls += 1
            if self.calls > 1:
                forgotten.wait(10)
                gc.collect()

    monkeypatch.setattr(native, "NativeDecoder", Collecting)
    gc.disable()
    try:
        cycle: list[Any] = [loader(jpegs, threads=1).batches()]
        cycle.append(cycle)
        next(cycle[0])
        del cycle
        forgotten.set()
        assert within_seconds(10, lambda: not threads_of_loaders())
    finally:
        gc.enable()


def test_stuck_threads_are_waited_for_together(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, released = threading.Barrier(5), threading.Event()

    class Waiting(Broken):
        def decode(self, samples: Any, windows: Any, out: Any) -> None:
            stuck.wait(10)
            released.wait(30)

    monkeypatch.setattr(native, "NativeDecoder", Waiting)
    stream = loader(jpegs, threads=4, ahead=4, stall_seconds=0.5)._stream(0, None)
    stuck.wait(10)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 1.5
    released.set()
    assert within_seconds(10, lambda: not threads_of_loaders())


def test_a_thread_that_died_is_noticed_at_once(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mim_ray.data import stream

    monkeypatch.setattr(stream, "_work", lambda *_: None)
    with pytest.raises(Failure, match="0 of 2 loader threads alive"):
        next(loader(jpegs).batches())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_picture_damaged_on_disk_is_named(jpegs: Path, tmp_path: Path, backend: Backend) -> None:
    data = bytearray(jpegs.read_bytes())
    sound = loader(jpegs).beton
    start, size = int(sound.pointer[17]), int(sound.size[17])
    data[start : start + size] = bytes(size)
    damaged = tmp_path / "damaged.beton"
    damaged.write_bytes(bytes(data))
    with pytest.raises(Failure, match=r"sample 17 \(cut-17.jpg\) is not a sound picture: run mim-ray data verify"):
        list(loader(damaged, backend=backend, keep_tail=True).epoch())


MODE, HEIGHT = 0, 3  # where they stand in a sample's row


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("mode", "at", "wrong"),
    [
        ("raws", HEIGHT, (226).to_bytes(2, "little")),
        ("raws", HEIGHT, bytes(2)),
        ("raws", MODE, b"\x07"),
        ("jpegs", MODE, bytes([Mode.RAW])),
    ],
    ids=["twice as high", "without height", "of no kind", "a JPEG that says raw"],
)
def test_a_row_that_cannot_be_true_is_named(
    request: pytest.FixtureRequest, tmp_path: Path, backend: Backend, mode: str, at: int, wrong: bytes
) -> None:
    data = bytearray(request.getfixturevalue(mode).read_bytes())
    start = HEADER.itemsize + 2 * FIELD.itemsize + 24 * 17 + at
    data[start : start + len(wrong)] = wrong
    damaged = tmp_path / "damaged.beton"
    damaged.write_bytes(bytes(data))
    with pytest.raises(Failure, match=r"sample 17 \(cut-17.jpg\) is not a sound picture: run mim-ray data verify"):
        list(loader(damaged, backend=backend, keep_tail=True).epoch())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recorded", [(128, 96), (60, 44)])
def test_a_picture_of_another_size_than_recorded_is_named(
    tmp_path: Path, backend: Backend, recorded: tuple[int, int]
) -> None:
    path, packed = tmp_path / "other.beton", io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(packed, "JPEG")
    with BetonWriter(path, [], 1) as writer:
        writer.add(Mode.JPEG, recorded, [], packed.getvalue(), "other.jpg")
    with pytest.raises(Failure, match=r"sample 0 \(other.jpg\) is .*: run mim-ray data verify"):
        next(loader(path, samples_per_epoch=8, backend=backend).batches())


def test_pillows_limit_on_pixels_is_not_ours(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert len(next(loader(jpegs, backend="torch").batches()).samples) == BATCH


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_cut_short_under_a_running_loader_is_an_error_not_a_crash(
    raws: Path, tmp_path: Path, backend: Backend
) -> None:
    shrinking = tmp_path / "shrinking.beton"
    shrinking.write_bytes(raws.read_bytes())
    running = loader(shrinking, backend=backend, ahead=1).batches()
    next(running)
    with shrinking.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(Failure, match="cannot be read from disk"):
        list(running)


def test_memory_is_counted_before_it_is_taken(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "available_bytes", lambda: 10_000_000)
    with pytest.raises(
        Mistake, match=r"would hold .* MB and 10 MB is free: 3 \+ 2 batches of 2 × 50 × 224 × 224 × 3"
    ):
        Loader(jpegs, batch=50, views=2, threads=1)


def test_pinned_memory_is_counted_in_the_powers_of_two_in_which_pytorch_takes_it(
    jpegs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(loader_module, "available_bytes", lambda: 36_000_000)  # 5 × 6.0 MB fit, 5 × 8.4 do not
    Loader(jpegs, batch=40, threads=1)
    with pytest.raises(Mistake, match=r"would hold 42 MB .* which take 8.39 MB each"):
        Loader(jpegs, batch=40, threads=1, device="cuda")


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_what_a_container_holds_of_files_counts_as_free(tmp_path: Path, limit: str, used: str) -> None:
    folder = (tmp_path / limit).parent
    folder.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / used).write_text("990\n")
    (folder / "memory.stat").write_text("anon 90\nfile 900\ninactive_file 700\nactive_file 150\n")
    assert _cgroup_free(tmp_path) == [860]


def test_a_very_wide_picture_is_loaded_or_refused_with_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wide.beton"
    with BetonWriter(path, [], 1) as writer:
        packed = io.BytesIO()
        Image.new("RGB", (30_000, 64), "teal").save(packed, "JPEG")
        writer.add(Mode.JPEG, (30_000, 64), [], packed.getvalue(), "panorama.jpg")
    batch = next(Loader(path, batch=2, samples_per_epoch=2, crop=CROP, threads=1).batches())
    assert (batch.crops[0].float().mean((0, 2, 3)) - torch.tensor([0.0, 128, 128])).abs().max() < 4
    monkeypatch.setattr(loader_module, "available_bytes", lambda: 5_000_000)
    with pytest.raises(Mistake, match=r"30000 × 64 pixels \(sample 0 \(panorama.jpg\)\).*max_resolution="):
        Loader(path, batch=2, samples_per_epoch=2, crop=CROP, threads=1)


def test_auto_says_when_it_falls_back(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "missing", lambda: "ffcv is not installed")
    with pytest.warns(
        UserWarning, match="backend=torch, several times slower than FFCV, because ffcv is not installed"
    ):
        fallen = loader(jpegs, backend="auto")
    assert fallen.backend == "torch"
    assert isinstance(fallen._decoder(), PlainDecoder)
    with pytest.raises(Mistake, match="backend=ffcv: ffcv is not installed"):
        loader(jpegs, backend="ffcv")


def test_a_numba_that_does_not_load_is_as_none(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def misfit(_: str) -> None:
        raise ImportError("Numba needs NumPy 2.3 or less")

    monkeypatch.setattr(importlib, "import_module", misfit)
    with pytest.warns(UserWarning, match="does not load: Numba needs NumPy 2.3 or less"):
        assert loader(jpegs, backend="auto").backend == "torch"


def test_a_kernel_that_cannot_be_kept_on_disk_is_compiled_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    native._kernel()
    from mim_ray.data import kernel

    def njit(*_: object, cache: bool = False, **__: object) -> Callable[[str], str]:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: f"compiled {function}"

    monkeypatch.setattr(kernel, "njit", njit)
    assert kernel._compiled("it") == "compiled it"  # type: ignore[arg-type]


def test_wrong_words_are_refused(jpegs: Path) -> None:
    for options, words in (
        ({"backend": "fcv"}, "did you mean 'ffcv'"),
        ({"label": "labell"}, "did you mean 'label'"),
        ({"label": 3}, "label=3: .* has none of that name: choose from label"),
        ({"rank": 2, "world": 2}, "rank=2: expected a whole number from 0 to 1"),
        ({"world": 0}, "world=0: expected a whole number of at least 1"),
        ({"batch": 54}, "batch=54 is larger than an epoch of 53 samples"),
        ({"batch": 0}, "batch=0: expected a whole number of at least 1"),
        ({"batch": 8.5}, "batch=8.5: expected a whole number of at least 1"),
        ({"batch": 2, "world": 3}, "batch=2: leaves some of 3 ranks without an image"),
        ({"threads": 0}, "threads=0: expected a whole number of at least 1"),
        ({"views": 1.5}, "views=1.5: expected a whole number of at least 1"),
        ({"ahead": "3"}, "ahead='3': expected a whole number of at least 1"),
        ({"samples_per_epoch": 1.5}, "samples_per_epoch=1.5: expected a whole number of at least 1"),
        ({"samples_per_epoch": 0}, "samples_per_epoch=0: expected a whole number of at least 1"),
        ({"seed": -1}, "seed=-1: expected a whole number from 0 to 9223372036854775807"),
        ({"seed": 2**63}, "seed=9223372036854775808: expected a whole number from 0 to 9223372036854775807"),
        ({"crop": 224}, "crop=224: expected a RandomCrop or a CenterCrop"),
        ({"stall_seconds": 0}, "stall_seconds=0: expected more than 0"),
        ({"stall_seconds": float("nan")}, "stall_seconds=nan: expected more than 0"),
        ({"stall_seconds": float("inf")}, "stall_seconds=inf: expected more than 0, and an end, such as 120"),
        ({"device": "gpu"}, "device='gpu': expected cpu, cuda, or one GPU of several, such as cuda:1"),
        ({"device": 1.5}, "device=1.5: expected cpu, cuda"),
    ):
        with pytest.raises(Mistake, match=words):
            loader(jpegs, **options)


def test_the_largest_seed_is_taken(jpegs: Path) -> None:
    assert len(next(loader(jpegs, seed=2**63 - 1).batches()).samples) == BATCH


def test_steps_and_epochs_count_from_0(jpegs: Path) -> None:
    steps = loader(jpegs)
    with pytest.raises(Mistake, match="start=-1: expected a whole number of at least 0"):
        steps.batches(-1)
    with pytest.raises(Mistake, match=r"start=1\.5: expected a whole number of at least 0"):
        steps.batches(1.5)  # type: ignore[arg-type]
    with pytest.raises(Mistake, match="stop=-2: expected a whole number of at least 0"):
        steps.batches(0, -2)
    with pytest.raises(Mistake, match="epoch=-1: expected a whole number of at least 0"):
        steps.epoch(-1)
    assert list(steps.batches(5, 5)) == []


@pytest.mark.parametrize(
    ("count", "device", "words"),
    [
        (0, "cuda", "device='cuda': PyTorch finds 0 GPUs here: expected cpu, or cuda where there is a GPU"),
        (2, "cuda:2", "device='cuda:2': PyTorch finds 2 GPUs here: expected cuda:0 to cuda:1"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(
    jpegs: Path, monkeypatch: pytest.MonkeyPatch, count: int, device: str, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(Mistake, match=words):
        loader(jpegs, device=device)


def picture_of(decoder: PlainDecoder, sample: int) -> torch.Tensor:
    return torch.from_numpy(decoder.picture(sample).copy()).permute(2, 0, 1)


def assert_pixels_agree(ours: torch.Tensor, theirs: torch.Tensor, means: float) -> None:
    """The channels' means to so many of ImageNet's deviations, their deviations to 2 %."""
    a, b = Normalise()(ours), Normalise()(theirs)
    assert (a.mean((0, 2, 3)) - b.mean((0, 2, 3))).abs().max() < means
    assert (a.std((0, 2, 3)) / b.std((0, 2, 3)) - 1).abs().max() < 0.02


@pytest.mark.parametrize("interpolation", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
def test_pixels_agree_with_torchvisions_resizing_of_the_same_windows(
    jpegs: Path, interpolation: InterpolationMode
) -> None:
    ours = loader(jpegs, batch=50, crop=RandomCrop(size=(64, 64)))
    batch, plan = next(ours.batches()), next(ours._requests(0, 1))
    decoder = PlainDecoder(ours.beton, ours._file.fileno())
    theirs = []
    for k, sample in enumerate(plan.samples.tolist()):
        *window, mirrored = plan.windows[0, k].tolist()
        crop = functional.resized_crop(
            picture_of(decoder, sample), *window, [64, 64], interpolation, antialias=True
        )
        theirs.append(crop.flip(-1) if mirrored else crop)
    assert_pixels_agree(batch.crops[0], torch.stack(theirs), means=0.002)


@pytest.mark.parametrize("interpolation", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
def test_crops_are_distributed_as_those_of_torchvisions_random_resized_crop(
    jpegs: Path, interpolation: InterpolationMode
) -> None:
    """Of every picture 40 crops each: their areas and shapes by mean and quantiles, and their pixels."""
    crop, visits = RandomCrop(size=(32, 32)), 40
    ours = loader(jpegs, batch=SAMPLES, crop=crop)
    decoder, transform = (
        PlainDecoder(ours.beton, ours._file.fileno()),
        RandomResizedCrop(crop.size, crop.scale, crop.ratio, interpolation, antialias=True),
    )
    pictures = [picture_of(decoder, sample) for sample in range(SAMPLES)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.stack([transform(picture) for picture in pictures for _ in range(visits)])
        their_windows = [
            (*RandomResizedCrop.get_params(picture, [*crop.scale], [*crop.ratio])[2:], *picture.shape[1:])
            for picture in pictures
            for _ in range(visits)
        ]
    our_windows = [
        (*window[2:4], ours.beton.height[sample], ours.beton.width[sample])
        for plan in ours._requests(0, visits)
        for sample, window in zip(plan.samples, plan.windows[0], strict=True)
    ]
    for a, b in zip(areas_and_shapes(our_windows), areas_and_shapes(their_windows), strict=True):
        assert abs(a.mean() - b.mean()) < 0.015
        assert np.abs(np.quantile(a, QUANTILES) - np.quantile(b, QUANTILES)).max() < 0.03
    assert_pixels_agree(torch.cat([batch.crops[0] for batch in ours.batches(0, visits)]), theirs, means=0.02)


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def areas_and_shapes(windows: list[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    h, w, high, wide = np.array(windows, np.float64).T
    return h * w / (high * wide), np.log(w / h)


def test_memory_of_an_epoch_left_early_goes_back_to_the_system(jpegs: Path) -> None:
    large = loader(jpegs, crop=RandomCrop(size=(512, 512)), batch=50)
    for batch in large.batches():
        during = resident_mb()
        del batch
        break
    gc.collect()
    assert resident_mb() < during - 50 * 512 * 512 * 3 / 1e6
