"""Importing: exact, repeatable, and whole or not at all."""

import errno
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mim_ray.config import parse, resolve
from mim_ray.data import importer, native
from mim_ray.data.beton import Beton, Mode
from mim_ray.data.card import SetCard
from mim_ray.data.importer import Import, import_set
from mim_ray.data.pools import part_of
from mim_ray.data.samples import OF_OURS, OF_PHOTOGRAPHS
from mim_ray.data.source import Labelled
from mim_ray.data.sources import open_source
from mim_ray.data.verify import verify
from mim_ray.errors import Failure, Mistake

Painter = Callable[..., Image.Image]
Packer = Callable[..., bytes]
FolderMaker = Callable[..., Path]


@dataclass(eq=False)
class Deadly(Labelled):
    """A source whose picture 20 ends the process that asks for it."""

    def image(self, index: int) -> Image.Image:
        if index == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return Image.new("RGB", (8, 8), (index, 0, 0))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "sets").mkdir()
    return tmp_path / "sets" / "out.beton"


def imported(source: Path | str, out: Path, **options: Any) -> SetCard:
    return import_set(open_source(str(source)), out, Import(**{"workers": 1} | options))


def names(path: Path) -> list[str]:
    proof = Beton.open(path).proof
    assert proof
    return proof.names


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


BOTH = ["out.beton", "out.beton.card.json"]


# What comes out


def test_a_folder_becomes_a_beton_and_a_card(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=4, dog=3)
    card, beton = imported(folder, out), Beton.open(out)
    assert left(out) == BOTH
    assert sorted(names(out)) == [f"cat/{i:03}.jpg" for i in range(4)] + [f"dog/{i:03}.jpg" for i in range(3)]
    with out.open("rb") as file:
        for sample, name in enumerate(names(out)):
            assert beton.read(file, sample) == (folder / name).read_bytes()
            assert beton.labels["label"][sample] == (0 if name.startswith("cat") else 1)
    assert verify(out) == card.samples == 7


def test_the_card_says_what_is_in_the_beton(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=4, dog=3)
    (folder / "dog" / "empty.jpg").touch()
    card, beton = imported(folder, out, seed=5, format="raw"), Beton.open(out)
    assert card == SetCard.read(out)
    assert (card.source, card.samples, card.classes) == (str(folder), 7, ("cat", "dog"))
    assert (card.class_counts, card.label_fields) == ((4, 3), ("label",))
    assert card.skipped == (("dog/empty.jpg", "is empty"),)
    assert card.kept_originals == 0
    assert card.bytes == out.stat().st_size
    assert card.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert card.checksum == beton.checksum
    assert card.width == (40, int(np.median(beton.width)), 43)
    assert resolve(Import(), parse([f"{key}={value}" for key, value in card.options.items()])) == Import(
        workers=1, seed=5, format="raw"
    )
    with out.open("rb") as file:
        pixels = [np.frombuffer(beton.read(file, i), np.uint8).reshape(-1, 3) / 255 for i in range(7)]
    assert np.allclose(card.mean, np.mean([p.mean(axis=0) for p in pixels], axis=0), atol=1e-6)
    assert np.allclose(card.std, np.concatenate(pixels).std(axis=0), atol=1e-2)
    shown = dict(card.lines())
    assert shown["classes"] == "2 (cat, dog)"
    assert shown["class_counts"] == "3 to 4 images each"
    assert shown["skipped"] == "1; dog/empty.jpg: is empty"


def test_the_licence_is_that_of_the_words_or_of_the_source(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=2)
    unknown, known = imported(folder, out), imported(folder, out, licence="CC BY-SA 4.0")
    assert (unknown.licence, known.licence) == (None, "CC BY-SA 4.0")
    assert (unknown.checksum, unknown.sha256) == (known.checksum, known.sha256)
    assert [dict(card.lines())["licence"] for card in (unknown, known)] == ["not known", "CC BY-SA 4.0"]
    assert dict(known.lines())["options"].endswith(" 'licence=CC BY-SA 4.0'")
    assert SetCard.read(out).licence == "CC BY-SA 4.0"
    licences = {
        name: imported(f"sample:{name}{words}", out, n=1).licence
        for name, words in (
            ("shapes", ":n=8"),
            ("cues", ":n=1"),
            ("digits", ""),
            ("photos", ""),
            ("crops", ":n=1"),
        )
    }
    assert licences == {
        "shapes": OF_OURS, "cues": OF_OURS, "digits": None, "photos": OF_PHOTOGRAPHS, "crops": OF_PHOTOGRAPHS
    }  # fmt: skip
    assert imported("sample:shapes:n=8", out, licence="mine").licence == "mine"


def test_a_card_from_before_licences_is_read(folder_of: FolderMaker, out: Path) -> None:
    card = imported(folder_of(cat=2), out)
    path = SetCard.path_beside(out)
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "licence"}
    del older["options"]["licence"]
    path.write_text(json.dumps(older))
    assert SetCard.read(out).licence is None
    assert SetCard.read(out).checksum == card.checksum


def test_originals_are_kept_only_where_they_are_small_enough(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=5)
    assert imported(folder, out).kept_originals == 5
    assert imported(folder, out, keep=False).kept_originals == 0
    card = imported(folder, out, max_resolution=41)
    assert (card.kept_originals, card.width[2]) == (2, 41)


def test_raw_pictures_are_stored_as_pixels(folder_of: FolderMaker, out: Path) -> None:
    imported(folder_of(cat=2), out, format="raw")
    beton = Beton.open(out)
    assert set(beton.mode.tolist()) == {Mode.RAW}
    assert np.array_equal(beton.size, 3 * beton.width.astype(np.uint64) * beton.height)


def test_a_set_of_one_image_and_one_without_labels(painted: Painter, tmp_path: Path, out: Path) -> None:
    (tmp_path / "flat").mkdir()
    painted().save(tmp_path / "flat" / "only.png")
    card = imported(tmp_path / "flat", out)
    assert (card.samples, card.classes, card.label_fields) == (1, (), ())
    assert dict(card.lines())["class_counts"] == "unlabelled"
    assert Beton.open(out).labels == {}
    assert verify(out) == 1


def test_several_columns_of_labels_are_all_stored(out: Path) -> None:
    imported("sample:shapes:n=20", out)
    source = open_source("sample:shapes:n=20")
    beton, order = Beton.open(out), [int(name.split()[1].rstrip(",")) for name in names(out)]
    for column, name in enumerate(source.fields):
        assert beton.labels[name].tolist() == source.labels()[order, column].tolist()


def test_a_picture_30_000_pixels_wide_is_made_smaller_or_refused_in_one_line(tmp_path: Path, out: Path) -> None:
    (tmp_path / "wide").mkdir()
    Image.new("RGB", (30_000, 200)).save(tmp_path / "wide" / "panorama.png")
    assert imported(tmp_path / "wide", out).width == (400, 400, 400)
    assert imported(tmp_path / "wide", out, max_resolution=None).width == (30_000, 30_000, 30_000)
    with pytest.raises(Failure, match=r"panorama.png takes 18,000,000 bytes, .*: lower max_resolution=\)"):
        imported(tmp_path / "wide", out, max_resolution=None, format="raw")
    Image.new("RGB", (8, 8)).save(tmp_path / "wide" / "small.png")
    card = imported(tmp_path / "wide", out, max_resolution=None, format="raw")
    assert (names(out), [name for name, _ in card.skipped]) == (["small.png"], ["panorama.png"])


def test_names_that_are_no_unicode_are_shown_escaped(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=1)
    for name in (b"caf\xe9.jpg", b"nai\xef.jpg"):
        (folder / "cat" / os.fsdecode(name)).touch()
    (folder / "cat" / "000.jpg").rename(folder / "cat" / os.fsdecode(b"\xfcber.jpg"))
    card = imported(folder, out)
    assert card.skipped[0][0].startswith("cat/")
    assert {name for name, _ in card.skipped} == {"cat/caf\\xe9.jpg", "cat/nai\\xef.jpg"}
    assert names(out) == ["cat/\\xfcber.jpg"]
    assert SetCard.read(out) == card


# The order, and the same again


def test_the_order_on_disk_is_shuffled_by_the_seed(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=10, dog=10)
    imported(folder, out)
    first, labels = names(out), Beton.open(out).labels["label"].tolist()
    assert first != sorted(first)
    assert labels != sorted(labels)
    imported(folder, out, seed=1)
    assert names(out) != first
    assert sorted(names(out)) == sorted(first)


def test_the_same_seed_makes_the_same_file_whatever_the_workers(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=30, dog=30)
    (folder / "cat" / "007.jpg").write_bytes(b"broken")
    options = {"per_class": 25, "max_resolution": 35, "seed": 3}
    alone = imported(folder, out, **options)
    data = out.read_bytes()
    both = imported(folder, out, workers=2, **options)
    assert out.read_bytes() == data
    assert both.model_copy(update={"options": alone.options}) == alone
    assert not multiprocessing.active_children()


# Subsets


def test_subsets_are_exact_repeatable_and_nested(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=30, dog=10)
    assert imported(folder, out, n=10).samples == 10
    few, data = set(names(out)), out.read_bytes()
    imported(folder, out, n=10)
    assert out.read_bytes() == data
    imported(folder, out, n=20)
    assert few < set(names(out))
    assert imported(folder, out, fraction=0.1).class_counts == (3, 1)
    assert imported(folder, out, per_class=4).class_counts == (4, 4)
    assert imported(folder, out, one_class="dog").class_counts == (0, 10)


@pytest.mark.parametrize("subset", [{"n": 12}, {"per_class": 6}, {"fraction": 0.3}])
def test_an_unusable_image_in_a_subset_is_replaced(
    folder_of: FolderMaker, out: Path, subset: dict[str, Any]
) -> None:
    folder = folder_of(cat=20, dog=20)
    imported(folder, out, **subset)
    before = names(out)
    for name in before[:3]:
        (folder / name).write_bytes(b"broken")
    card = imported(folder, out, **subset)
    assert card.samples == sum(card.class_counts) == 12
    assert set(before[3:]) < set(names(out))
    assert {name for name, _ in card.skipped} == set(before[:3])
    if "n" not in subset:
        assert card.class_counts == (6, 6)


def test_a_number_that_cannot_be_had_fails_and_writes_nothing(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=5)
    (folder / "cat" / "003.jpg").write_bytes(b"broken")
    message = r"5 images asked for, 4 sound ones found \(cat/003.jpg is not a picture of a known format\)"
    with pytest.raises(Failure, match=message):
        imported(folder, out, n=5)
    assert left(out) == []


# Unusable images


def spoil(folder: Path) -> dict[str, str]:
    """Damages three of the images and makes two unreadable; returns the reasons to expect."""
    cat = folder / "cat"
    (cat / "000.jpg").write_bytes(b"")
    (cat / "001.jpg").write_bytes(b"GIF89a nonsense")
    (cat / "002.jpg").write_bytes((cat / "002.jpg").read_bytes()[:-200])
    (cat / "003.jpg").unlink()
    (cat / "003.jpg").symlink_to("nowhere")
    (cat / "004.jpg").unlink()
    (cat / "004.jpg").symlink_to("/proc/self/mem")
    return {
        "cat/000.jpg": "is empty",
        "cat/001.jpg": "cannot",
        "cat/002.jpg": "image file is truncated",
        "cat/003.jpg": "cannot be read: No such file or directory",
        "cat/004.jpg": "cannot be read: Input/output error",
    }


def test_unusable_images_are_named_and_left_out(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=8)
    expected = spoil(folder)
    card = imported(folder, out)
    assert card.samples == 3
    assert sorted(name for name, _ in card.skipped) == sorted(expected)
    for name, reason in card.skipped:
        assert expected[name] in reason or name == "cat/001.jpg"


@pytest.mark.skipif(native.missing() is not None, reason="FFCV is not installed")
def test_a_jpeg_with_a_hole_is_named_and_left_out(folder_of: FolderMaker, out: Path, packed: Packer) -> None:
    folder = folder_of(cat=3)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    whole = packed(noise)
    (folder / "cat" / "001.jpg").write_bytes(whole[:9000] + bytes(2000) + whole[11_000:])
    reason = "is a damaged JPEG: some of its data is wrong or missing"
    for options in ({}, {"keep": False}, {"format": "raw"}, {"max_resolution": 100}):
        assert imported(folder, out, **options).skipped == (("cat/001.jpg", reason),)
    with pytest.raises(Failure, match=f"^cat/001.jpg {reason}: nothing was written"):
        imported(folder, out, strict=True)


def test_strict_fails_at_the_first_and_writes_nothing(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=8)
    (folder / "cat" / "005.jpg").write_bytes(b"")
    with pytest.raises(Failure, match=r"^cat/005.jpg is empty: nothing was written \(strict=true\)$"):
        imported(folder, out, strict=True)
    assert left(out) == []


def test_a_folder_of_nothing_usable_fails(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=2)
    for path in (folder / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(Failure, match=r"2 images asked for, 0 sound ones found \(cat/00\d.jpg is empty\)"):
        imported(folder, out)
    assert left(out) == []


def test_an_empty_class_folder_is_refused(folder_of: FolderMaker, out: Path) -> None:
    folder = folder_of(cat=2)
    (folder / "dog").mkdir()
    with pytest.raises(Mistake, match=r"class folder 'dog' .* holds no image: add images or remove it"):
        imported(folder, out)


# Places


def test_a_place_that_cannot_be_written_is_refused_first(folder_of: FolderMaker, tmp_path: Path) -> None:
    folder = folder_of(cat=1)
    with pytest.raises(Mistake, match=r"x.beton: there is no folder .*nowhere"):
        imported(folder, tmp_path / "nowhere" / "x.beton")
    with pytest.raises(Mistake, match=r"is a folder: name a file, such as .*set.beton"):
        imported(folder, tmp_path)
    with pytest.raises(Failure, match="cannot be written: File name too long"):
        imported(folder, tmp_path / ("x" * 250))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_resolution=0", "max_resolution=0: expected an integer greater than or equal to 1"),
        ("max_resolution=70000", "max_resolution=70000: expected an integer less than or equal to 65500"),
        ("quality=101", "quality=101: expected an integer less than or equal to 100"),
        ("seed=-1", "seed=-1: expected an integer greater than or equal to 0"),
        ("seed=99999999999999999999", "seed=99999999999999999999: expected"),
        ("workers=-1", "workers=-1: expected an integer greater than or equal to 0"),
        ("format=jpg", "format=jpg: expected jpeg or raw: did you mean 'jpeg'"),
        ("licence=", "licence=: expected a string with at least 1 character"),
        ("qualty=9", "no field 'qualty': did you mean 'quality'"),
    ],
)
def test_options_are_refused_in_words(override: str, message: str) -> None:
    with pytest.raises(Mistake, match=message):
        resolve(Import(), parse([override]))


def test_nothing_but_a_beton_is_overwritten(folder_of: FolderMaker, tmp_path: Path) -> None:
    folder = folder_of(cat=1)
    listed, other, empty, link = (tmp_path / name for name in ("all.csv", "notes.txt", "empty", "link.csv"))
    listed.write_text("photos/cat/000.jpg,1\n")
    other.write_text("\x02\0notes")
    empty.touch()
    link.symlink_to(listed)
    for path in (listed, link, tmp_path / "photos" / ".." / "all.csv"):
        with pytest.raises(Mistake, match=f"^{path} is the source itself: name another file for the beton$"):
            imported(listed, path)
    for path in (other, empty, folder / "cat" / "000.jpg"):
        before = path.read_bytes()
        with pytest.raises(Mistake, match=f"^{path} exists and is not a beton: name another file, or remove it"):
            imported(listed, path)
        assert path.read_bytes() == before
    for _ in range(2):
        assert imported(listed, tmp_path / "out.beton").samples == 1


# Scripts


@pytest.mark.parametrize(
    "lines",
    [
        "print(mim_ray.import_set(mim_ray.open_source('sample:shapes:n=40'), out, workers).samples)",
        "print(next(mim_ray.Loader('sample:shapes:n=40', batch=40, crop=crop).batches()).crops[0].shape[0])",
    ],
    ids=["import", "loader"],
)
def test_a_script_without_a_guard_is_run_once(tmp_path: Path, lines: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import mim_ray, os, pathlib\n"
        "print('begun', flush=True)\n"
        "os.sched_getaffinity = lambda _: {0, 1}\n"
        "out, workers = pathlib.Path('x.beton'), mim_ray.Import(workers=2)\n"
        "crop = mim_ray.RandomCrop(size=(32, 32))\n" + lines
    )
    cache = os.environ | {"MIM_RAY_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=cache, check=False
    )
    assert (done.stdout, done.returncode) == ("begun\n40\n", 0), done.stderr
    assert "Traceback" not in done.stderr


def test_a_source_of_the_script_itself_is_imported_by_the_script_alone(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Deadly("mine", ("only",), np.zeros((3, 1), np.int64), ["a", "b", "c"])
    monkeypatch.setattr(Deadly, "__module__", "__main__")
    message = r"^Deadly is defined in the script itself: move it to a module, or import with workers=1$"
    with pytest.raises(Mistake, match=message):
        import_set(source, out, Import(workers=2))
    assert import_set(source, out, Import(workers=1)).samples == 3


# Interruptions


@pytest.mark.parametrize("when", ["_encode", "_card"])
@pytest.mark.parametrize("older", [True, False])
def test_ctrl_c_leaves_no_half_file_and_an_older_one_alone(
    folder_of: FolderMaker, out: Path, monkeypatch: pytest.MonkeyPatch, when: str, older: bool
) -> None:
    folder = folder_of(cat=8)
    if older:
        imported(folder, out, seed=1)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 5 or when == "_card":
            assert [name for name in left(out) if name.endswith(".part")]
            raise KeyboardInterrupt
        return original(*arguments)

    original = getattr(importer, when)
    monkeypatch.setattr(importer, when, interrupted)
    with pytest.raises(KeyboardInterrupt):
        imported(folder, out)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


@pytest.mark.parametrize("full", ["beton", "card"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    folder_of: FolderMaker, out: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    def no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if full == "beton":
        monkeypatch.setattr(os, "fsync", no_space)
    else:
        monkeypatch.setattr(Path, "write_text", no_space)
    with pytest.raises(Failure, match=r"out.beton: the disk is full; nothing was written: free some room"):
        imported(folder_of(cat=2), out)
    assert left(out) == []


@pytest.fixture
def files_of_at_most_a_megabyte() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("files_of_at_most_a_megabyte")
def test_a_limit_on_the_size_of_files_is_one_line(folder_of: FolderMaker, out: Path) -> None:
    with pytest.raises(Failure, match=r"out.beton cannot be written: File too large$"):
        imported(folder_of(cat=2), out)
    assert left(out) == []


def test_a_killed_encoding_process_is_one_line_and_no_hang(out: Path) -> None:
    source = Deadly("deadly", ("only",), np.zeros((60, 1), np.int64), [f"{i}" for i in range(60)])
    with pytest.raises(Failure, match=r"an encoding process was killed \(out of memory\?\): .* fewer workers="):
        import_set(source, out, Import(workers=2))
    assert left(out) == []
    assert not multiprocessing.active_children()


@pytest.fixture
def endless(painted: Painter, packed: Packer, tmp_path: Path) -> Path:
    """A list of 50,000 pictures, which take longer to import than any test waits."""
    (tmp_path / "one.jpg").write_bytes(packed(painted(0, 200, 150)))
    listed = tmp_path / "many.txt"
    listed.write_text("one.jpg\n" * 50_000)
    return listed


def begun(source: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    """An import under way in a process group of its own, some bytes already on disk."""
    words = ["-m", "mim_ray", "data", "import", str(source), str(out), f"workers={workers}", "format=raw"]
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, start_new_session=True)
    part, deadline = part_of(out, process.pid), time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


def members(group: int) -> list[int]:
    """The processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_ctrl_c_to_all_processes_is_one_line(endless: Path, out: Path) -> None:
    process = begun(endless, out, workers=2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "mim-ray: stopped\n"
    assert process.returncode == 130
    assert left(out) == []


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_end_it_as_cleanly(endless: Path, out: Path, stop: signal.Signals, code: int) -> None:
    process = begun(endless, out, workers=2)
    os.killpg(process.pid, stop)
    assert process.communicate(timeout=60)[1] == "mim-ray: stopped\n"
    assert process.returncode == code
    assert left(out) == []


@dataclass(eq=False)
class Watching(Labelled):
    """A source that notes what SIGTERM would do while it is read."""

    seen: list[Any]

    def image(self, index: int) -> Image.Image:
        self.seen.append(signal.getsignal(signal.SIGTERM))
        return Image.new("RGB", (8, 8))


def test_signals_are_only_borrowed(out: Path) -> None:
    source = Watching("watching", (), np.zeros((1, 0), np.int64), ["one"], [])
    before = signal.getsignal(signal.SIGTERM)
    assert before == signal.SIG_DFL
    import_set(source, out, Import(workers=1))
    assert signal.getsignal(signal.SIGTERM) == before
    thread = threading.Thread(target=import_set, args=(source, out, Import(workers=1)))
    thread.start()
    thread.join()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        import_set(source, out, Import(workers=1))
    finally:
        signal.signal(signal.SIGTERM, before)
    of_the_import, in_a_thread, of_the_program = source.seen
    assert callable(of_the_import)
    assert (in_a_thread, of_the_program) == (signal.SIG_DFL, signal.SIG_IGN)


def test_a_killed_import_leaves_no_beton_and_no_process_and_the_next_one_cleans_up(
    endless: Path, folder_of: FolderMaker, out: Path
) -> None:
    process = begun(endless, out, workers=2)
    process.kill()
    process.communicate(timeout=60)
    part = part_of(out, process.pid)
    assert left(out) == [part.name]
    deadline = time.monotonic() + 30
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(process.pid)
    card = part_of(SetCard.path_beside(out), process.pid)
    elsewhere = part.with_name(f".out.beton.another-host.{process.pid}.part")
    alive = part_of(out, os.getppid())
    for path in (card, elsewhere, alive):
        path.touch()
    imported(folder_of(cat=2), out)
    assert left(out) == sorted([*BOTH, elsewhere.name, alive.name])


# Cards


def test_a_card_that_is_missing_damaged_or_of_another_file_is_refused(folder_of: FolderMaker, out: Path) -> None:
    imported(folder_of(cat=2), out)
    path = SetCard.path_beside(out)
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"bytes": 1}))
    with pytest.raises(Failure, match=r"out.beton.card.json describes 1 bytes, not the [\d,]+ of .*out.beton"):
        SetCard.read(out)
    path.write_text("{}")
    with pytest.raises(Failure, match=r"out.beton.card.json is damaged: Field required: import the set anew"):
        SetCard.read(out)
    path.unlink()
    with pytest.raises(Mistake, match=r"has no card beside it \(out.beton.card.json\)"):
        SetCard.read(out)
    out.unlink()
    with pytest.raises(Mistake, match=r"no file .*out.beton"):
        SetCard.read(out)
