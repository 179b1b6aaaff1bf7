"""A folder anywhere fsspec reaches (a disk, a shared mount, s3://…): files arrive whole."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from mim_ray.errors import Failure, Mistake

PROOF, PROOF_BYTES = ".proof", 1 << 16
LOCK = ".lock"


def nothing() -> None:
    pass


class Folder:
    """Paths are relative to it."""

    def __init__(self, url: str) -> None:
        try:
            self.fs, self.root = url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise Mistake(f"storage={url}: {' '.join(str(error).split())}: expected a folder or a URL") from None
        self.url = url
        self.local = Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def below(self, name: str) -> "Folder":
        return Folder(f"{self.url.rstrip('/')}/{name}")

    def names(self) -> list[str]:
        """Of what lies directly inside; nothing where the folder is not there."""
        with self.in_words("read"), suppress(FileNotFoundError, NotADirectoryError):
            return sorted(path.rstrip("/").rpartition("/")[2] for path in self.fs.ls(self.root, detail=False))
        return []

    def read(self, name: str) -> bytes:
        return self.fs.cat_file(f"{self.root}/{name}")  # type: ignore[no-any-return]

    def has(self, name: str) -> bool:
        with self.in_words("read"):
            return bool(self.fs.exists(f"{self.root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        if self.local is None:
            self.fs.pipe_file(f"{self.root}/{name}", content)
            return
        self.local.mkdir(parents=True, exist_ok=True)
        aside = self.local / f".{name}.part"
        try:
            aside.write_bytes(content)
            aside.replace(self.local / name)
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def take_in(self, source: Path, name: str, last: str, ask: Callable[[], None] = nothing) -> None:
        """A local folder under a name, `source` gone; elsewhere than on a disk the file `last` arrives last. `ask`
        may refuse by an exception whatever would be seen by others."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
            target = self.local / name
            ask()
            if target.exists():
                shutil.rmtree(target)
            source.replace(target)
            return
        for path in sorted(source.iterdir(), key=lambda path: path.name == last):
            ask()
            self.fs.put_file(str(path), f"{self.root}/{name}/{path.name}")
        shutil.rmtree(source)

    def remove(self, name: str) -> None:
        """`""` is the folder itself."""
        self.fs.rm(f"{self.root}/{name}".rstrip("/"), recursive=True)

    @contextmanager
    def held(self, words: str) -> Iterator[None]:
        """By one process at a time, where it is on a disk; the system lets go when the process ends, however.

        `words`: what whoever comes second reads.
        """
        if self.local is None:
            yield
            return
        self.local.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.local / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Mistake(words) from None
        except NotImplementedError:
            pass  # a mount without locks
        try:
            yield
        finally:
            lock.release()

    def prove_writable(self) -> None:
        """By some bytes, for a full disk still takes a name."""
        with self.in_words("written"):
            self.write(PROOF, bytes(PROOF_BYTES))
            self.fs.rm_file(f"{self.root}/{PROOF}")

    @contextmanager
    def in_words(self, done: str) -> Iterator[None]:
        """Whatever a file system of someone else's raises."""
        try:
            yield
        except Exception as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise Failure(f"storage={self.url}: cannot be {done} ({reason})") from None
