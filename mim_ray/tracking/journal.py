"""The only way a training loop logs to MLflow: everything lands in a folder at once, and is sent from there."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mim_ray.errors import Failure, Overtaken
from mim_ray.fence import OPEN, Fence
from mim_ray.tracking.run import End
from mim_ray.tracking.sender import Sender, log
from mim_ray.tracking.spool import Artifact, Record, Spool


class Journal:
    """Logs every (metric, step) once, however often the run is killed and goes on from an earlier step.

    A resumed run trains the steps since its checkpoint again and gets the very same numbers, so whatever is not
    above the highest step that its metric already has (in the folder, in `carried`, on the server) is dropped.
    The steps of one metric must therefore never go down. `carried` are the `pending()` of the checkpoint that the
    run goes on from, for a machine that does not have the folder. Where the `fence` says that another process goes
    on with the run nothing more is written or sent.
    """

    def __init__(
        self, folder: Path, uri: str, run_id: str, carried: Sequence[Record] = (), fence: Fence = OPEN
    ) -> None:
        self._spool = Spool(folder, run_id, fence)
        self._highest: dict[str, int] = {}
        self._files: set[str] = set()
        for entry, _ in self._spool.entries():
            if isinstance(entry, Artifact):
                self._files.add(entry.target)
            else:
                self._remember(entry["step"], entry["metrics"])
        self._sender = Sender(self._spool, uri, run_id, fence)
        for record in carried:
            self._keep(record["step"], record["time"], record["metrics"])
        for artifact in self._spool.given_up():
            self._spool.append(artifact)
        if self._spool.unsent():
            self._sender.wake()
        self._sender.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Costs a write to a file. NaN and infinities are numbers too."""
        self._keep(step, int(time.time() * 1000), {key: float(value) for key, value in metrics.items()})

    def picture(self, step: int, path: Path, name: str) -> None:
        """Seen in MLflow as `pictures/NAME/STEP`; one that was logged before is dropped, like a metric."""
        number = f"{step:09}{path.suffix}"
        if Artifact(number, f"pictures/{name}").target not in self._files:
            try:
                self._keep_file(path, number, f"pictures/{name}")
            except Overtaken:
                raise
            except Failure as failure:  # no run ends for a picture
                log.warning("%s: left out", failure)

    def file(self, path: Path, artifact_folder: str = "") -> None:
        """A file as it is now; a later one of the same name takes its place."""
        self._keep_file(path, path.name, artifact_folder)

    def highest(self, metric: str) -> int:
        """The highest step that it was logged for, here; −1 for none."""
        return self._highest.get(metric, -1)

    def pending(self) -> list[Record]:
        """Metrics that the server has not confirmed, for a checkpoint. Pictures and files stay in the folder."""
        return [entry for entry in self._spool.unsent() if not isinstance(entry, Artifact)]

    def has_unsent_files(self, below: str) -> bool:
        return any(isinstance(entry, Artifact) and entry.to.startswith(below) for entry in self._spool.unsent())

    def close(self, status: End | None = "FINISHED", patience_seconds: float = 60.0) -> int:
        """Sends the rest and ends the run, if it is to have a status; returns how many records the server does not
        have."""
        self._spool.settle()
        self._sender.wake()
        self._sender.end(status, patience_seconds)
        left = len(self._spool.unsent()) + self._sender.set_aside
        folder = self._spool.folder
        if left:
            log.warning("MLflow lacks %d records of the run: they stay in %s until it goes on", left, folder)
        elif status is not None and not self._sender.ended:
            log.warning("all of the run is in MLflow but its status %s: end it there by hand", status)
        return left

    def leave(self) -> None:
        """Nothing more is sent from here; what is left stays in the folder for whoever goes on with the run."""
        self._sender.leave()

    def _keep(self, step: int, time_ms: int, metrics: Mapping[str, float]) -> None:
        new = {key: value for key, value in metrics.items() if step > self._highest.get(key, -1)}
        if new:
            self._spool.append(Record(step=step, time=time_ms, metrics=new))
            self._remember(step, new)
            self._sender.wake()

    def _keep_file(self, path: Path, name: str, to: str) -> None:
        self._spool.add_file(path, name, to)
        self._files.add(Artifact(name, to).target)
        self._sender.wake()

    def _remember(self, step: int, metrics: Mapping[str, float]) -> None:
        for key in metrics:
            self._highest[key] = max(step, self._highest.get(key, -1))
