"""A run's checkpoints: each is whole or is not there, written beside the training, read with distrust."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from mim_ray.errors import Failure, Overtaken
from mim_ray.fence import OPEN, Fence
from mim_ray.storage import Folder

logger = logging.getLogger("mim_ray.training")
WHOLE = "whole.json"
"""Sizes and checksums of the other files; it is the last to be written."""


class Torn(Failure):
    """A checkpoint that is not as it was written."""


def name_of(step: int) -> str:
    return f"step-{step:09}"


class Snapshot(NamedTuple):
    step: int
    """How many steps are done."""
    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    state: dict[str, Any]
    """Everything else, as JSON."""

    @property
    def name(self) -> str:
        return name_of(self.step)


class Checkpoints:
    """Those of one run, in `folder`/step-…"""

    def __init__(self, folder: Folder, keep: int, fence: Fence = OPEN) -> None:
        self.folder, self.keep, self._fence = folder, keep, fence
        self._torn: dict[str, Torn] = {}
        """Those that were found so here, until others take their place."""

    def names(self) -> list[str]:
        """Newest first; not all of them need be whole."""
        return [name for name in reversed(self.folder.names()) if name.startswith("step-")]

    def write(self, snapshot: Snapshot) -> str:
        """Its name; older ones than are to be kept go afterwards."""
        name = snapshot.name
        if self.folder.local is not None:  # made on the same disk, to be moved in
            self.folder.local.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder.local))
        try:
            _refuse_what_is_not_finite(snapshot)
            save_file(snapshot.weights, aside / "weights.safetensors")
            save_file(snapshot.optimiser, aside / "optimiser.safetensors")
            (aside / "state.json").write_text(json.dumps({"step": snapshot.step, **snapshot.state}))
            sums = {path.name: described(path) for path in sorted(aside.iterdir())}
            (aside / WHOLE).write_text(json.dumps(sums, indent=1))
            for path in aside.iterdir():
                _keep_through_a_power_cut(path)
            self.folder.take_in(aside, name, last=WHOLE, ask=self._fence.ask)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        self._torn.pop(name, None)
        best = snapshot.state.get("best")
        self._remove_others(name, kept=None if best is None else name_of(best.step))
        return name

    def begin(self) -> Snapshot | None:
        """The newest that is whole, for a run that goes on as this process's; None: nothing is done yet."""
        self._fence.claim()
        self._sweep()
        self._torn.clear()
        newest = self.newest()
        if newest is None and (last := max(self._torn, default=name_of(0))) != name_of(0):
            raise Failure(
                f"{self.folder.url}: no checkpoint is whole (of {last}, {self._torn[last]}): bring one back, or "
                "remove them all and the run begins at step 0"
            )
        return newest

    def newest(self) -> Snapshot | None:
        """The newest that is whole; torn ones are passed over with a warning."""
        for name in self.names():
            try:
                return self.read(name)
            except Torn as torn:
                self._torn[name] = torn
                logger.warning("checkpoint %s is torn and passed over: %s", name, torn)
        return None

    def read(self, name: str) -> Snapshot:
        """Fetched once, and proven before it is believed."""
        with at_hand(self.folder.below(name)) as folder:
            if fault := fault_in(folder):
                raise Torn(fault)
            state = json.loads((folder / "state.json").read_text())
            weights = load_file(folder / "weights.safetensors")
            optimiser = load_file(folder / "optimiser.safetensors")
        return Snapshot(state.pop("step"), weights, optimiser, state)

    def checksum(self, name: str) -> str:
        """Of the weights."""
        return str(json.loads(self.folder.below(name).read(WHOLE))["weights.safetensors"]["sha256"])

    def _remove_others(self, name: str, kept: str | None) -> None:
        """All but the newest up to this one, and the best; of newer ones those alone that were found torn."""
        names = self.names()
        torn = [other for other in names if other in self._torn]
        older = [other for other in names if other < name and other not in torn]
        for other in torn + older[self.keep - 1 :]:
            if other != kept:
                self._fence.ask()
                self.folder.remove(other)

    def _sweep(self) -> None:
        """What a killed writer left behind."""
        if self.folder.local is not None and self.folder.local.exists():
            for part in self.folder.local.glob(".part-*"):
                shutil.rmtree(part, ignore_errors=True)


class Writer:
    """Writes in a thread of its own, one checkpoint at a time; a failure is told once and tried again later."""

    def __init__(self, checkpoints: Checkpoints, written: Callable[[Folder, Snapshot], None]) -> None:
        self._checkpoints, self._written = checkpoints, written
        self._thread: threading.Thread | None = None
        self.step = -1
        """That of the newest which is written."""
        self.error: Exception | None = None

    def write(self, snapshot: Snapshot) -> None:
        """Begins; waits only for the one before."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def insist(self, which: str) -> None:
        """That it is written, now."""
        self.wait()
        if isinstance(self.error, Overtaken):
            raise self.error
        if self.error is not None:
            raise Failure(f"the {which} checkpoint could not be written: {self.error}")

    def _write(self, snapshot: Snapshot) -> None:
        try:
            name = self._checkpoints.write(snapshot)
            self.step, self.error = snapshot.step, None
        except Exception as error:  # the run goes on, and the next checkpoint tries again
            self.error = error
            logger.warning("checkpoint of step %s could not be written: %s", snapshot.step, error)
            return
        try:
            self._written(self._checkpoints.folder.below(name), snapshot)
        except Exception as error:  # it is there all the same
            logger.warning("checkpoint of step %s is not sent on: %s", snapshot.step, error)


@contextmanager
def at_hand(folder: Folder) -> Iterator[Path]:
    """A checkpoint's folder on this machine: itself, or a copy for the time being."""
    if folder.local is not None:
        yield folder.local
        return
    with tempfile.TemporaryDirectory() as copy:
        for name in folder.names():
            folder.fs.get_file(f"{folder.root}/{name}", f"{copy}/{name}")
        yield Path(copy)


def fault_in(folder: Path) -> str | None:
    """What is wrong with a checkpoint's folder; None: it is whole. A disk or a network in trouble raises."""
    try:
        for file, expected in json.loads((folder / WHOLE).read_text()).items():
            if described(folder / file) != expected:
                return f"{file} is not as it was written"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{Path(error.filename).name} is missing"
    except ValueError:
        return f"{WHOLE} is not as it was written"
    return None


def _keep_through_a_power_cut(path: Path) -> None:
    """Older checkpoints go as soon as this one is there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _refuse_what_is_not_finite(snapshot: Snapshot) -> None:
    """An update can spoil the weights one step before the loss shows it."""
    for name, weight in snapshot.weights.items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise Failure(f"{name} is not finite after step {snapshot.step}")


def described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
