"""A run's log as a folder: everything ever logged, in order, and how much of it the server has.

`metrics.jsonl` is only ever appended to, so a killed process loses nothing that it handed to the system, and what
is still to be sent is the rest of the file behind the offset in `sent.json`. There is no other queue; only while
the disk takes nothing, entries wait in memory. A kill loses none of these either: a checkpoint holds them, or the
run goes on from an earlier one and logs them again.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypedDict

from mim_ray.errors import Failure, Overtaken
from mim_ray.fence import OPEN, Fence

BLOCK = 1 << 16

log = logging.getLogger("mim_ray.tracking")


class Record(TypedDict):
    """Metrics of one step, plain so that a checkpoint can hold it; its time makes sending it twice harmless."""

    step: int
    time: int
    metrics: dict[str, float]


class Artifact(NamedTuple):
    """A file to be sent: where its copy lies in the folder, and the folder of the run it goes to."""

    copy: str
    to: str

    @property
    def target(self) -> str:
        return f"{self.to}/{Path(self.copy).name}"


Entry = Record | Artifact


class Spool:
    """Appended to by the training loop, read and confirmed by the sender; by the process that the `fence` lets."""

    def __init__(self, folder: Path, run_id: str, fence: Fence = OPEN) -> None:
        self.folder = folder
        self._run_id, self._fence = run_id, fence
        self._log, self._mark = folder / "metrics.jsonl", folder / "sent.json"
        self._appending = Lock()
        self._waiting: list[Entry] = []
        self._is_full = False
        fence.look()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._log.touch()
            self._end = _without_torn_line(self._log)
            if not self._mark.exists():
                self.confirm(0)
        except OSError as error:
            raise Failure(f"{folder} cannot be written ({error.strerror}): choose another folder") from None
        self.sent = self._read_mark()

    def append(self, entry: Entry) -> None:
        with self._appending:
            self._waiting.append(entry)
            self._write_what_waits()

    def settle(self) -> None:
        """What waits in memory goes to the disk, if there is room again."""
        with self._appending:
            self._write_what_waits()

    def add_file(self, path: Path, name: str, to: str) -> None:
        """Copies a file into a folder of its own; what is logged meanwhile does not wait for it."""
        self._fence.look()
        self.settle()
        if self._waiting:
            raise Failure(f"{path} cannot be copied to {self.folder}: it takes nothing more")
        home = self.folder / "artifacts"
        try:
            home.mkdir(exist_ok=True)
            copy = Path(tempfile.mkdtemp(dir=home), name)
        except OSError as error:
            raise Failure(f"{path} cannot be copied to {self.folder} ({error.strerror})") from None
        try:
            shutil.copyfile(path, copy)
        except OSError as error:
            shutil.rmtree(copy.parent, ignore_errors=True)
            raise Failure(f"{path} cannot be copied to {self.folder} ({error.strerror})") from None
        self.append(Artifact(str(copy.relative_to(self.folder)), to))

    def confirm(self, end: int) -> None:
        """The server has everything before this offset. Where the disk cannot hold that, a later process offers
        more than it need, and asks the server first."""
        self._fence.look()
        self.sent = end
        aside = self._mark.with_suffix(".part")
        with suppress(OSError):
            aside.write_text(json.dumps({"run_id": self._run_id, "bytes": end}))
            aside.replace(self._mark)

    def remove(self, artifact: Artifact) -> None:
        with suppress(OSError):
            (self.folder / artifact.copy).unlink()
            (self.folder / artifact.copy).parent.rmdir()

    def entries(self, start: int = 0) -> Iterator[tuple[Entry, int]]:
        """What was logged from an offset on, each with the offset behind it; damaged lines are passed over, and so
        is what another process wrote in the moment in which this one took the run over."""
        with self._log.open("rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                if start > self._end:  # it is just being written: what follows is read the next time
                    return
                with suppress(ValueError, KeyError, TypeError):
                    yield _parsed(line), start

    def unsent(self) -> list[Entry]:
        with self._appending:
            kept: list[Entry] = []
            with suppress(OSError):  # a disk that is gone for now
                kept += [entry for entry, _ in self.entries(self.sent)]
            return kept + self._waiting

    def given_up(self) -> list[Artifact]:
        """Files that were not taken though what came after them was; of those that took each other's place the
        newest. One that was taken in the moment of a kill may be among them."""
        newest: dict[str, tuple[Artifact, int]] = {}
        for entry, end in self.entries():
            if isinstance(entry, Artifact):
                newest[entry.target] = entry, end
        return [
            artifact
            for artifact, end in newest.values()
            if end <= self.sent and (self.folder / artifact.copy).exists()
        ]

    def _write_what_waits(self) -> None:
        """Says when the disk begins to take nothing, and when it does again."""
        try:
            while self._waiting:
                self._write(self._waiting[0])
                del self._waiting[0]
        except Overtaken:
            raise
        except Failure as failure:
            if not self._is_full:
                log.warning("%s: what is logged waits in memory and in the run's checkpoints", failure)
            self._is_full = True
            return
        if self._is_full:
            log.warning("%s can be written again: nothing was lost", self._log)
        self._is_full = False

    def _write(self, entry: Entry) -> None:
        """One line, whole or not at all."""
        fields = entry._asdict() if isinstance(entry, Artifact) else entry
        line = json.dumps(fields).encode() + b"\n"
        try:
            found = self._log.stat().st_size
            self._fence.look()  # only after that it is known whose the rest is
            if found > self._end:  # what is left of a line that could not be written
                os.truncate(self._log, self._end)
            with self._log.open("ab", buffering=0) as file:
                written = file.write(line)
                end = file.tell()
        except OSError as error:
            raise Failure(f"{self._log} cannot be written: {error.strerror}") from None
        if written != len(line):
            raise Failure(f"{self._log} cannot be written: the disk is full")
        self._end = end

    def _read_mark(self) -> int:
        """Where it is damaged everything is offered again; the sender asks the server what it has."""
        try:
            mark = json.loads(self._mark.read_text())
            run_id, sent = mark["run_id"], int(mark["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        if run_id != self._run_id:
            raise Failure(f"{self.folder} holds the log of run {run_id}: choose another folder for {self._run_id}")
        return min(sent, self._end)


def _without_torn_line(path: Path) -> int:
    """Cuts off what a kill left of a line being written; returns the size."""
    size = path.stat().st_size
    with path.open("rb+") as file:
        for start in range(max(0, size - 1) // BLOCK * BLOCK, -1, -BLOCK):
            file.seek(start)
            whole = file.read(BLOCK).rfind(b"\n") + 1
            if whole or start == 0:
                file.truncate(start + whole)
                return start + whole
    return 0


def _parsed(line: bytes) -> Entry:
    fields = json.loads(line)
    if "copy" in fields:
        return Artifact(fields["copy"], fields["to"])
    return Record(step=fields["step"], time=fields["time"], metrics=fields["metrics"])
