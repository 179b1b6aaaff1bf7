"""A beton on a node: copied once, proven, shared by every worker of the node, evicted by size.

In the cache it is `<key>-<name>`, beside it `.sha256` (for `sha256sum -c`; its mtime is the last use) and the
source's `.card.json`; `<key>.lock` is held by whoever touches them, so a `.part` whose lock is free is dead.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import AcquireReturnProxy, FileLock, Timeout
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from mim_ray.errors import Failure, Mistake, nearest, without_secrets

LOG = logging.getLogger("mim_ray.stage")
CHUNK = 8 * 2**20
PATIENCE = 1.0  # seconds another process may hold a lock before we say that we wait
MOUNTS = Path("/proc/self/mountinfo")
NETWORK = r"9p|afs|beegfs|ceph|cifs|fuse(\..+)?|glusterfs|gpfs|lustre|nfs4?|panfs|smb(3|fs)?|wekafs"
VERSIONS = ("ETag", "etag", "Last-Modified", "LastModified", "last_modified", "mtime", "created")
HASH = "[0-9a-f]" * 16
OURS = f"{HASH}-*"  # a user may keep other files in the same folder
Mode = Literal["auto", "always", "never"]
Progress = Callable[[int, int], None]


def stage(
    source: str,
    *,
    cache: Path | None = None,
    limit_bytes: int | None = None,
    mode: Mode = "auto",
    progress: Progress | None = None,
) -> Path:
    """A local path ready to be read: the file itself where it is near, else this node's copy of it."""
    if mode not in get_args(Mode):
        raise Mistake(f"no staging mode {mode!r}{nearest(mode, get_args(Mode))}")
    with reading(source):
        fs, path = url_to_fs(source)
    if isinstance(fs, LocalFileSystem):
        require(Path(path))
        mounts = MOUNTS.read_text(errors="surrogateescape") if MOUNTS.exists() else ""
        if mode == "never" or (mode == "auto" and not on_network(Path(path).resolve(), mounts)):
            return Path(path)
    elif mode == "never":
        raise Mistake(
            f"{without_secrets(source)} is not on this machine and mode 'never' copies nothing: use mode 'auto'"
        )
    folder = (cache or cache_folder("betons")).expanduser().absolute()
    return hold(examine(source, fs, path), folder, limit_bytes, progress)


def cache_folder(what: Literal["betons", "samples"]) -> Path:
    """Where this node keeps copies of betons, and betons of samples made on the spot."""
    return Path(os.environ.get("MIM_RAY_CACHE") or "~/.cache/mim_ray").expanduser().absolute() / what


def way_out(damaged: Path, otherwise: str) -> str:
    """The last words about a damaged beton: one that we put into the cache can go."""
    if damaged.match(f"{HASH}*") and damaged.parent in (cache_folder("betons"), cache_folder("samples")):
        return f"it is a staged copy: remove {damaged} and load again"
    return otherwise


@contextmanager
def reading(source: str) -> Iterator[None]:
    """One line for whatever a store raises: each vendor has exceptions of its own."""
    try:
        yield
    except Exception as error:
        reason = without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))
        raise Failure(
            f"{without_secrets(source)} cannot be read ({reason}): check its address and your access"
        ) from None


def require(path: Path) -> None:
    near: list[str] = []
    with suppress(OSError):
        if path.is_file():
            return
        files = [other.name for other in path.parent.iterdir() if other.is_file()]
        near = get_close_matches(path.name, files, n=1, cutoff=0)
    raise Mistake(f"{path} is not a file{nearest(path.name, near) or f': nor is any in {path.parent}'}")


def on_network(path: Path, mounts: str) -> bool:
    """Whether the mount point nearest above `path`, in the text of /proc/self/mountinfo, is a network's."""
    kinds = {}
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4])
        kinds[Path(point)] = right.split()[0]
    kind = next((kinds[place] for place in (path, *path.parents) if place in kinds), "")
    return re.fullmatch(NETWORK, kind) is not None


@dataclass(frozen=True)
class Origin:
    """A source as it was when we looked; its name in the cache changes with its address, size or version."""

    source: str
    fs: Any
    path: str
    size: int
    name: str

    def blocks(self) -> Iterator[bytes]:
        with reading(self.source), self.fs.open(self.path, "rb", **self.transport()) as file:
            while block := file.read(CHUNK):
                yield block

    def transport(self) -> dict[str, Any]:
        """HTTP comes as one stream, which every server can send, however long it takes, but never silent."""
        if "http" not in self.fs.protocol:
            return {"block_size": CHUNK}
        from aiohttp import ClientTimeout  # fsspec's own HTTP client

        patience = ClientTimeout(total=None, sock_connect=30, sock_read=60)
        return {"block_size": 0, "size": self.size, "timeout": patience}

    def card(self) -> tuple[bytes, str | None]:
        """The card beside the source and the digest it promises, where there are any."""
        path = f"{unsigned(self.path)}.card.json"
        with reading(path):
            card = self.fs.cat_file(path) if self.fs.exists(path) else b""
            return card, json.loads(card or b"{}").get("sha256")


def examine(source: str, fs: Any, path: str) -> Origin:
    with reading(source):
        fs.invalidate_cache()
        info = fs.info(path)
        version = next((info[field] for field in VERSIONS if info.get(field)), None) or fs.ukey(path)
        identity = f"{fs.unstrip_protocol(path)}\n{info['size']}\n{version}"
    if info["size"] is None:
        raise Failure(
            f"{without_secrets(source)} does not tell its size, so no copy can be checked: download it by hand"
        )
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return Origin(without_secrets(source), fs, path, info["size"], f"{key}-{unsigned(path).rpartition('/')[2]}")


def unsigned(path: str) -> str:
    """The path without the signature that a presigned URL carries in its query."""
    return path.partition("?")[0]


def hold(origin: Origin, folder: Path, limit_bytes: int | None, progress: Progress | None) -> Path:
    target = folder / origin.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(target):
            if not target.exists() or target.stat().st_size != origin.size:
                discard(target)
                make_room(origin, folder, allowance(folder) if limit_bytes is None else limit_bytes)
                copy(origin, target, progress)
            Path(f"{target}.sha256").touch()
        return target
    except OSError as error:
        reason = f"{folder} cannot take {origin.source} ({gb(origin.size)}): {error.strerror or error}"
        raise Failure(f"{reason}: make room, or point MIM_RAY_CACHE at a disk you can write") from error


def lock_of(path: Path) -> FileLock:
    return FileLock(path.with_name(f"{path.name.partition('-')[0]}.lock"))


def locked(target: Path) -> AcquireReturnProxy[Any]:
    lock = lock_of(target)
    try:
        return lock.acquire(timeout=PATIENCE)
    except Timeout:
        LOG.warning("waiting for another process of this node to stage %s", target.name)
        return lock.acquire()


def discard(target: Path) -> None:
    # Safe on POSIX while another process reads the copy: it holds the inode until it closes the file.
    for file in target.parent.iterdir():
        if file.name.startswith(target.name):
            file.unlink(missing_ok=True)


def occupants(folder: Path) -> list[tuple[float, int, Path]]:
    """(last use, bytes, path) of every beton and part in the cache, the least recently used first."""
    found = []
    for file in (*folder.glob(f"{OURS}.sha256"), *folder.glob(f"{OURS}.part")):
        with suppress(FileNotFoundError):  # another process removed it meanwhile
            path = folder / file.name.removesuffix(".sha256")
            found.append((file.stat().st_mtime, path.stat().st_size, path))
    return sorted(found)


def allowance(folder: Path) -> int:
    gigabytes = os.environ.get("MIM_RAY_CACHE_GB")
    try:
        return int(float(gigabytes) * 1e9) if gigabytes else shutil.disk_usage(folder).total * 4 // 5
    except (ValueError, OverflowError) as error:
        raise Mistake(f"MIM_RAY_CACHE_GB is {gigabytes!r}: expected a number of GB, such as 200") from error


def make_room(origin: Origin, folder: Path, limit: int) -> None:
    kept = occupants(folder)
    while True:
        held, free = sum(size for _, size, _ in kept), shutil.disk_usage(folder).free
        room = min(limit, free + held)
        if origin.size > room:
            raise Failure(
                f"{origin.source} is {gb(origin.size)}; the cache at {folder} may hold {gb(room)} "
                f"(limit {gb(limit)}; disk: {gb(free)} free, {gb(held)} to evict): "
                "raise MIM_RAY_CACHE_GB, or point MIM_RAY_CACHE at a larger disk"
            )
        if origin.size <= min(limit - held, free):
            return
        evict(kept.pop(0)[2])


def evict(path: Path) -> None:
    with suppress(Timeout), lock_of(path).acquire(timeout=0):  # one that is being copied stays
        discard(path)


def gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def copy(origin: Origin, target: Path, progress: Progress | None) -> None:
    part = Path(f"{target}.{os.getpid()}.part")
    card, promised = origin.card()
    try:
        digest = write(origin, part, progress)
        if reread(part) != digest:
            raise Failure(f"{part.parent} gave back other bytes than it was given: check its disk")
        if promised not in (None, digest):
            raise Failure(f"{origin.source} is {digest[:12]}, its card says {promised[:12]}: write it anew")
        if card:
            Path(f"{target}.card.json").write_bytes(card)
        Path(f"{target}.sha256").write_text(f"{digest} *{target.name}\n")
        part.rename(target)
    except BaseException:
        discard(target)
        raise


def write(origin: Origin, part: Path, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    with part.open("wb") as file:
        for block in origin.blocks():
            file.write(block)
            digest.update(block)
            if progress:
                progress(file.tell(), origin.size)
        file.flush()
        os.fsync(file.fileno())
    if (size := part.stat().st_size) != origin.size:
        raise Failure(f"{origin.source} advertised {origin.size} bytes and gave {size}: try again")
    if examine(origin.source, origin.fs, origin.path) != origin:
        raise Failure(f"{origin.source} changed while it was copied: try again when it is written")
    return digest.hexdigest()


def reread(part: Path) -> str:
    with part.open("rb") as file:
        if hasattr(os, "posix_fadvise"):  # forget the pages just written, so that the disk answers
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()
