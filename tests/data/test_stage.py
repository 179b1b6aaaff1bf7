"""Staging: one copy a node, proven, evicted by size, and nothing half-done left behind."""

import errno
import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from filelock import FileLock

from mim_ray.data.stage import on_network, stage
from mim_ray.errors import Failure, Mistake, without_secrets

staging = import_module("mim_ray.data.stage")
BYTES = os.urandom(100_000)
MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:40 / /home rw,relatime shared:2 master:1 - nfs4 server:/home rw,vers=4.2
31 30 8:1 / /home/me/scratch rw - xfs /dev/nvme0n1 rw
32 27 0:41 / /data\\040sets rw - lustre mds@tcp:/fs rw
33 27 0:42 / /auto rw - autofs systemd-1 rw
34 33 0:43 / /auto rw - cifs //server/share rw
35 27 0:44 / /bucket rw - fuse.gcsfuse bucket rw
36 27 8:2 / /usb rw - fuseblk /dev/sdb1 rw
"""


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(staging, "MOUNTS", tmp_path / "no-mounts")
    monkeypatch.delenv("MIM_RAY_CACHE", raising=False)
    monkeypatch.delenv("MIM_RAY_CACHE_GB", raising=False)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written(tmp_path / "far" / "train.beton", BYTES)


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def sparse(path: Path, size: float) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(int(size))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in folder.iterdir() if path.suffix != ".lock")


def copied(source: str | Path, cache: Path, **options: Any) -> Path:
    return stage(str(source), cache=cache, mode="always", **options)


def last_used(target: Path, seconds: float) -> None:
    os.utime(f"{target}.sha256", (seconds, seconds))


def disk(monkeypatch: pytest.MonkeyPatch, *, total: float, free: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=int(total), free=int(free)))


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# What is returned


def test_a_near_file_is_returned_as_it_is(source: Path, cache: Path) -> None:
    assert stage(str(source), cache=cache) == source
    assert stage(f"file://{source}", cache=cache) == source
    assert stage(str(source), cache=cache, mode="never") == source
    assert not cache.exists()


def test_a_far_file_is_copied(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = written(source.parent / "mountinfo", f"1 0 0:1 / {source.parent} rw - nfs4 host:/ rw\n".encode())
    monkeypatch.setattr(staging, "MOUNTS", mounts)
    target = stage(str(source), cache=cache)
    assert target.parent == cache
    assert target.read_bytes() == BYTES
    assert stage(str(source), cache=cache, mode="never") == source


def test_a_copy_carries_its_digest(source: Path, cache: Path) -> None:
    target = copied(source, cache)
    digest = hashlib.sha256(BYTES).hexdigest()
    assert Path(f"{target}.sha256").read_text() == f"{digest} *{target.name}\n"
    assert names(cache) == ["train.beton", "train.beton.sha256"]


def test_a_url_is_copied_and_followed(cache: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/val.beton", BYTES)
    first = stage("memory://bucket/val.beton", cache=cache)
    assert first.name.endswith("-val.beton")
    assert first.read_bytes() == BYTES
    store.pipe("/bucket/val.beton", BYTES[::-1])
    second = stage("memory://bucket/val.beton", cache=cache)
    assert second.read_bytes() == BYTES[::-1]
    assert first.read_bytes() == BYTES


def test_the_query_of_a_signed_url_is_no_part_of_the_name(cache: Path) -> None:
    fsspec.filesystem("memory").pipe("/signed/val.beton?signature=" + "f" * 300, BYTES)
    assert stage(f"memory://signed/val.beton?signature={'f' * 300}", cache=cache).name.endswith("-val.beton")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_server_without_ranges_is_copied(cache: Path, tmp_path: Path) -> None:
    data = os.urandom(20 * 2**20)
    written(tmp_path / "served" / "val.beton", data)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))) as server:
        Thread(target=server.serve_forever).start()
        target = stage(f"http://127.0.0.1:{server.server_port}/val.beton", cache=cache)
        server.shutdown()
    assert target.read_bytes() == data


def test_a_changed_file_is_copied_anew(source: Path, cache: Path) -> None:
    first = copied(source, cache)
    os.utime(source, (1, 1))
    second = copied(source, cache)
    assert first != second
    assert first.exists()


def test_the_cache_is_where_the_environment_says(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIM_RAY_CACHE", str(source.parent / "here"))
    assert stage(str(source), mode="always").parent == source.parent / "here" / "betons"
    monkeypatch.delenv("MIM_RAY_CACHE")
    monkeypatch.setenv("HOME", str(source.parent))
    assert stage(str(source), mode="always").parent == source.parent / ".cache/mim_ray/betons"


def test_progress_counts_to_the_size(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "CHUNK", 40_000)
    steps: list[tuple[int, int]] = []
    copied(source, cache, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(40_000, 100_000), (80_000, 100_000), (100_000, 100_000)]


@pytest.mark.parametrize(
    ("path", "far"),
    [
        ("/data/x.beton", False),
        ("/home/me/x.beton", True),
        ("/homely/x.beton", False),
        ("/home/me/scratch/x.beton", False),
        ("/data sets/x.beton", True),
        ("/auto/x.beton", True),
        ("/bucket/x.beton", True),
        ("/usb/x.beton", False),
    ],
)
def test_the_nearest_mount_decides(path: str, far: bool) -> None:
    assert on_network(Path(path), MOUNTS) is far
    assert not on_network(Path(path), "")


# Exactly one copy


def staged_in_a_process(source: Path, cache: Path, copies: Path, together: Barrier) -> None:
    def note(done: int, total: int) -> None:
        if done == total:
            with copies.open("a") as log:
                log.write(f"{os.getpid()}\n")

    together.wait()
    assert copied(source, cache, progress=note).read_bytes() == source.read_bytes()


def test_four_processes_copy_once(source: Path, cache: Path, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    copies, together = tmp_path / "copies", spawn.Barrier(4)
    arguments = (source, cache, copies, together)
    workers = [spawn.Process(target=staged_in_a_process, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(copies.read_text().splitlines()) == 1


def held_in_a_process(lock: Path, holding: Any, seen: Any) -> None:
    with FileLock(lock):
        holding.set()
        seen.wait()


def test_waiting_is_said_once(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target = copied(source, cache)
    spawn = multiprocessing.get_context("spawn")
    holding, seen = spawn.Event(), spawn.Event()
    lock = cache / f"{target.name[:16]}.lock"
    other = spawn.Process(target=held_in_a_process, args=(lock, holding, seen))
    other.start()
    holding.wait()

    def let_go(_: object) -> bool:
        seen.set()
        return True

    monkeypatch.setattr(staging, "PATIENCE", 0.0)
    monkeypatch.setattr(staging.LOG, "filter", let_go)
    assert copied(source, cache) == target
    other.join()
    assert [record.name for record in caplog.records if "waiting" in record.message] == ["mim_ray.stage"]


def test_a_second_call_trusts_the_copy(source: Path, cache: Path) -> None:
    target = copied(source, cache)
    last_used(target, 1)
    assert copied(source, cache, progress=raising(AssertionError("copied twice"))) == target
    assert Path(f"{target}.sha256").stat().st_mtime > 1


def test_a_torn_copy_is_replaced(source: Path, cache: Path) -> None:
    target = copied(source, cache)
    with target.open("r+b") as file:
        file.truncate(10)
    assert copied(source, cache).read_bytes() == BYTES


# What is refused


def test_a_missing_file_names_its_nearest(source: Path, tmp_path: Path) -> None:
    written(source.parent / "unlike.txt", b"")
    with pytest.raises(Mistake, match=r"trian\.beton is not a file: did you mean 'train\.beton'\?"):
        stage(str(source.with_name("trian.beton")))
    with pytest.raises(Mistake, match=r"nowhere/x\.beton is not a file: nor is any in .*nowhere"):
        stage(str(tmp_path / "nowhere" / "x.beton"))
    with pytest.raises(Mistake, match="far is not a file"):
        stage(str(source.parent))


def test_never_refuses_a_url() -> None:
    with pytest.raises(Mistake, match=r"memory://b/x.beton is not on this machine .* use mode 'auto'"):
        stage("memory://b/x.beton", mode="never")


def test_an_unknown_mode_is_refused(source: Path) -> None:
    with pytest.raises(Mistake, match="no staging mode 'allways': did you mean 'always'"):
        stage(str(source), mode="allways")  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["memory://b/missing.beton", "nosuch://b/x.beton"])
def test_an_unreachable_source_is_one_line(url: str, cache: Path) -> None:
    with pytest.raises(Failure, match=f"^{url} cannot be read .*: check its address and your access$"):
        stage(url, cache=cache)


def test_a_source_that_disappears_is_one_line(source: Path, cache: Path) -> None:
    with pytest.raises(Failure, match=r"train\.beton cannot be read \(FileNotFoundError"):
        copied(source, cache, progress=lambda *_: source.unlink())
    assert names(cache) == []


def test_a_source_that_changes_meanwhile_is_refused(source: Path, cache: Path) -> None:
    with pytest.raises(Failure, match=r"train.beton changed while it was copied"):
        copied(source, cache, progress=lambda *_: os.utime(source, (1, 1)))
    assert names(cache) == []


def test_a_source_without_size_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", lambda *_: {"size": None})
    with pytest.raises(Failure, match=r"memory://b/x.beton does not tell its size"):
        stage("memory://b/x.beton", cache=cache)


def test_a_cut_source_is_refused(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging.LocalFileSystem, "open", lambda *_, **__: io.BytesIO(BYTES[:10]))
    with pytest.raises(Failure, match="advertised 100000 bytes and gave 10"):
        copied(source, cache)
    assert names(cache) == []


def test_a_disk_that_gives_back_other_bytes_is_refused(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: real(io.BytesIO(b"other"), "sha256"))
    with pytest.raises(Failure, match="cache gave back other bytes"):
        copied(source, cache)
    assert names(cache) == []


# The card


def test_the_card_travels_with_the_beton(source: Path, cache: Path) -> None:
    card = json.dumps({"sha256": hashlib.sha256(BYTES).hexdigest(), "samples": 3})
    Path(f"{source}.card.json").write_text(card)
    assert Path(f"{copied(source, cache)}.card.json").read_text() == card


def test_a_card_without_digest_is_copied(source: Path, cache: Path) -> None:
    Path(f"{source}.card.json").write_text("{}")
    assert Path(f"{copied(source, cache)}.card.json").read_text() == "{}"


def test_a_digest_that_the_card_denies_is_refused(source: Path, cache: Path) -> None:
    Path(f"{source}.card.json").write_text(json.dumps({"sha256": "f" * 64}))
    digest = hashlib.sha256(BYTES).hexdigest()[:12]
    with pytest.raises(Failure, match=rf"train.beton is {digest}, its card says {'f' * 12}:"):
        copied(source, cache)
    assert names(cache) == []


def test_a_torn_card_is_refused(source: Path, cache: Path) -> None:
    Path(f"{source}.card.json").write_text('{"sha')
    with pytest.raises(Failure, match=r"train\.beton\.card\.json cannot be read \(JSONDecodeError"):
        copied(source, cache)


# Room


@pytest.mark.parametrize("wanted", ["a", "b"])
def test_the_least_recently_used_goes_first(tmp_path: Path, cache: Path, wanted: str) -> None:
    a, b, c = (written(tmp_path / name, bytes(100)) for name in "abc")
    for path in (a, b):
        last_used(copied(path, cache), 1)
    copied(tmp_path / wanted, cache)
    copied(c, cache, limit_bytes=200)
    assert names(cache) == sorted([wanted, f"{wanted}.sha256", "c", "c.sha256"])


def test_what_is_not_ours_is_not_evicted(tmp_path: Path, cache: Path) -> None:
    theirs = [written(cache / name, bytes(100)) for name in ("my.tar", "my.tar.sha256", "film.part")]
    copied(written(tmp_path / "a", bytes(100)), cache, limit_bytes=100)
    assert all(path.exists() for path in theirs)


def test_nothing_goes_where_there_is_room(tmp_path: Path, cache: Path) -> None:
    for name in "abc":
        copied(written(tmp_path / name, bytes(100)), cache, limit_bytes=300)
    assert [name for name in names(cache) if len(name) == 1] == ["a", "b", "c"]


def test_a_full_disk_evicts_too(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(written(tmp_path / "a", bytes(100)), cache)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, free=50 if "a" in names(cache) else 150)
    )
    copied(written(tmp_path / "b", bytes(100)), cache)
    assert names(cache) == ["b", "b.sha256"]


def test_the_one_asked_for_is_never_evicted(source: Path, cache: Path) -> None:
    target = copied(source, cache)
    last_used(target, 1)
    assert copied(source, cache, limit_bytes=1) == target
    assert target.exists()


def test_one_that_is_being_copied_is_not_evicted(tmp_path: Path, cache: Path) -> None:
    target = copied(written(tmp_path / "a", bytes(100)), cache)
    with FileLock(cache / f"{target.name[:16]}.lock"):
        copied(written(tmp_path / "b", bytes(100)), cache, limit_bytes=100)
    assert target.exists()


def test_what_can_never_fit_is_said_in_numbers(source: Path, cache: Path) -> None:
    kept = copied(source, cache)
    huge = sparse(source.with_name("x.beton"), 12e9)
    with pytest.raises(
        Failure, match=r"x\.beton is 12\.0 GB; the cache at .*cache may hold 10\.0 GB \(.*\): raise"
    ):
        copied(huge, cache, limit_bytes=10 * 10**9)
    assert kept.exists()


def test_the_limit_comes_from_the_environment(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = sparse(source.with_name("x.beton"), 12e9)
    monkeypatch.setenv("MIM_RAY_CACHE_GB", "7.5")
    with pytest.raises(Failure, match=r"may hold 7\.5 GB"):
        copied(huge, cache)
    monkeypatch.setenv("MIM_RAY_CACHE_GB", "plenty")
    with pytest.raises(Mistake, match="MIM_RAY_CACHE_GB is 'plenty': expected a number of GB"):
        copied(huge, cache)


def test_the_limit_is_four_fifths_of_the_disk(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, total=10e9, free=10e9)
    with pytest.raises(Failure, match=r"may hold 8\.0 GB"):
        copied(sparse(source.with_name("x.beton"), 9e9), cache)


def test_a_disk_without_room_is_said_in_numbers(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = copied(source, cache)
    disk(monkeypatch, total=100e9, free=3e9)
    with pytest.raises(Failure, match=r"x\.beton is 12\.0 GB; .*may hold 3\.0 GB .*3\.0 GB free, 0\.0 GB to"):
        copied(sparse(source.with_name("x.beton"), 12e9), cache)
    assert kept.exists()


# Nothing half-done


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_interrupted_copy_leaves_nothing(source: Path, cache: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        copied(source, cache, progress=raising(error))
    assert names(cache) == []
    assert copied(source, cache).read_bytes() == BYTES


def test_the_part_of_a_dead_process_is_removed(source: Path, cache: Path) -> None:
    target = copied(source, cache)
    target.rename(f"{target}.999999999.part")
    copied(source, cache)
    assert names(cache) == ["train.beton", "train.beton.sha256"]


def test_a_dead_part_of_another_beton_is_evicted(source: Path, cache: Path) -> None:
    cache.mkdir()
    written(cache / "0123456789abcdef-old.beton.999999999.part", BYTES)
    copied(source, cache, limit_bytes=len(BYTES))
    assert names(cache) == ["train.beton", "train.beton.sha256"]


class FullDisk(io.BytesIO):
    def write(self, _: object, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_is_said_in_words(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        file = real(path, mode, **options)
        if path.suffix != ".part":
            return file
        file.close()
        return FullDisk()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(Failure, match=r"cache cannot take .*train\.beton .*No space left on device: make"):
            copied(source, cache)
    assert names(cache) == []
    assert copied(source, cache).read_bytes() == BYTES


def test_a_cache_that_cannot_be_written_is_said_in_words(source: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"in-the-way cannot take .*train.beton"):
        copied(source, written(tmp_path / "in-the-way", b""))


def test_no_password_and_no_signature_is_ever_named() -> None:
    assert without_secrets("https://me:secret@host/a.beton?X-Sig=secret") == "https://host/a.beton"
    assert without_secrets("403, url='https://host/a?sig=secret' now") == "403, url='https://host/a' now"
    assert without_secrets("/a/b@c?d") == "/a/b@c?d"
    with pytest.raises(Failure) as refused:
        stage("http://me:secret@127.0.0.1:9/a.beton?sig=secret")
    assert "secret" not in str(refused.value)
    assert "127.0.0.1:9/a.beton" in str(refused.value)
