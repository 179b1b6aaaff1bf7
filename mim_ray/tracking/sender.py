"""What carries a spool to the server, in order, in a thread of its own that no step ever waits for."""

import logging
import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from mim_ray.errors import Failure, Overtaken, without_secrets
from mim_ray.fence import OPEN, Fence
from mim_ray.tracking.run import End, restore
from mim_ray.tracking.server import connected, reason, status_of, time_for_a_file
from mim_ray.tracking.spool import Artifact, Entry, Record, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

LARGEST_BATCH = 1000
"""Metrics that MLflow takes at once; it takes all of them or none."""

GATHERING_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE_AT_THE_END = 0.5, 30.0, 2.0
PAUSE_AFTER_REFUSAL = 120.0
NOT_LET_IN = (401, 403)
TRIES_OF_A_FILE = 5
SLOWEST = 1 << 20
"""Bytes a second."""

LOOK_SECONDS = 1.0

SAYS_IT_AT_EVERY_TRY = ("urllib3.connectionpool", "mlflow.exceptions", "mlflow.store.db.utils")

log = logging.getLogger("mim_ray.tracking")


class Sender(Thread):
    """Sends until it is told to end. Nothing that happens to it reaches the loop; it says its troubles once."""

    NAME = "mim_ray-sender"

    def __init__(self, spool: Spool, uri: str, run_id: str, fence: Fence = OPEN) -> None:
        super().__init__(name=self.NAME, daemon=True)
        self.ended = False
        self.set_aside = 0
        self._spool, self._uri, self._run_id, self._fence = spool, uri, run_id, fence
        self._place = without_secrets(uri)
        self._news, self._closing, self._over = Event(), Event(), Event()
        self._status: End | None = None
        self._trouble, self._pause = "", FIRST_PAUSE
        self._tries_of_a_file = 0
        self._bytes_under_way = 0
        self._client: MlflowClient | None = None
        self._known_keys: set[str] | None = None
        self._highest_there: dict[str, int] = {}

    def wake(self) -> None:
        self._news.set()

    def end(self, status: End | None, patience_seconds: float) -> None:
        """Returns when all is sent and the run has its status, or when nothing more has arrived for so long; at a
        run's end a large file has the time that it takes."""
        self._status = status
        self._closing.set()
        self._news.set()
        before, began = self._spool.sent, time.monotonic()
        while self.is_alive():
            if before != self._spool.sent:
                before, began = self._spool.sent, time.monotonic()
            seconds_of_a_file = self._bytes_under_way / SLOWEST if status == "FINISHED" else 0
            left = began + patience_seconds + seconds_of_a_file - time.monotonic()
            if left <= 0:
                break
            self.join(min(left, LOOK_SECONDS))
        self._over.set()

    def leave(self) -> None:
        self._over.set()
        self._closing.set()
        self._news.set()

    def run(self) -> None:
        for name in SAYS_IT_AT_EVERY_TRY:
            logging.getLogger(name).addFilter(_not_of_a_sender)
        while not self._over.is_set():
            self._news.wait()
            self._rest(GATHERING_SECONDS)
            self._news.clear()
            try:
                self._send_all()
                if self._closing.is_set():
                    self._end_run()
                    return
            except Overtaken:  # the loop learns of it where it writes
                return
            except Exception as error:  # whatever it is, the loop goes on and the records stay
                refused = isinstance(error, Failure) or status_of(error) is not None
                self._say_trouble(error, refused)
                if refused and self._closing.is_set():
                    return
                self._rest(self._next_pause(refused))
                self._news.set()

    def _rest(self, seconds: float) -> None:
        """Until then, or until something is more urgent."""
        (self._over if self._closing.is_set() else self._closing).wait(seconds)

    # Sending

    def _send_all(self) -> None:
        while not self._over.is_set():
            batch, end = self._next_batch()
            if not batch:
                return
            self._fence.ask()
            if isinstance(first := batch[0], Artifact):
                sent = self._send_artifact(first)
            else:
                sent = self._send_metrics([entry for entry in batch if not isinstance(entry, Artifact)])
            self._spool.confirm(end)
            if sent and isinstance(first, Artifact):
                self._spool.remove(first)
            self._say_all_is_well()

    def _next_batch(self) -> tuple[list[Entry], int]:
        """The records before the next artifact, as many as go together; or that artifact."""
        batch: list[Entry] = []
        end, metrics = self._spool.sent, 0
        for entry, behind in self._spool.entries(end):
            if isinstance(entry, Artifact):
                return (batch, end) if batch else ([entry], behind)
            metrics += len(entry["metrics"])
            if batch and metrics > LARGEST_BATCH:
                break
            batch.append(entry)
            end = behind
        return batch, end

    def _send_metrics(self, records: list[Record]) -> bool:
        client = self._in_contact()
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, record["time"], record["step"])
            for record in records
            for key, value in record["metrics"].items()
            if record["step"] > self._highest_step_there(client, key)
        ]
        if metrics:
            client.log_batch(self._run_id, metrics=metrics, synchronous=True)
        return True

    def _send_artifact(self, artifact: Artifact) -> bool:
        """A file that is never taken must not stand in the way of what comes after it: it is set aside.

        Files may go to another place than the server, with rights of its own; so one that fails again and again
        while the server answers is given up as well.
        """
        client = self._in_contact()
        copy = self._spool.folder / artifact.copy
        self._tries_of_a_file += 1
        try:
            self._bytes_under_way = copy.stat().st_size
            with time_for_a_file():
                client.log_artifact(self._run_id, str(copy), artifact.to or None)
        except Exception as error:
            refused = hasattr(error, "response") and status_of(error) not in (None, *NOT_LET_IN)
            if copy.exists() and not refused and self._tries_of_a_file < TRIES_OF_A_FILE:
                raise
            self.set_aside += 1
            log.warning("MLflow at %s does not take %s (%s): it stays there", self._place, copy, reason(error))
            sent = False
        else:
            sent = True
        finally:
            self._bytes_under_way = 0
        self._tries_of_a_file = 0
        return sent

    def _in_contact(self) -> "MlflowClient":
        """The client; after every loss of contact the server is asked anew what it has."""
        if self._client is None:
            self._client = connected(self._uri)
        if self._known_keys is None:
            run = self._client.get_run(self._run_id)
            if run.info.lifecycle_stage == "deleted":
                raise Failure(f"the run was deleted there: {restore(self._run_id)}")
            self._known_keys = set(run.data.metrics)
        return self._client

    def _highest_step_there(self, client: "MlflowClient", key: str) -> int:
        """All before it is there too, for everything is sent in order."""
        if key not in self._highest_there:
            known = self._known_keys is not None and key in self._known_keys
            history = client.get_metric_history(self._run_id, key) if known else []
            self._highest_there[key] = max((metric.step for metric in history), default=-1)
        return self._highest_there[key]

    def _end_run(self) -> None:
        if self._status is not None and not self._over.is_set():
            self._fence.ask()
            self._in_contact().set_terminated(self._run_id, self._status)
            self.ended = True

    # Troubles

    def _say_trouble(self, error: Exception, refused: bool) -> None:
        self._known_keys = None
        self._highest_there.clear()
        trouble = "refuses" if refused else "does not answer"
        if trouble != self._trouble:
            said, run, folder = reason(error), self._run_id, self._spool.folder
            log.warning("MLflow at %s %s (%s): run %s is kept in %s", self._place, trouble, said, run, folder)
        self._trouble = trouble

    def _say_all_is_well(self) -> None:
        if self._trouble:
            log.warning("MLflow at %s answers again: what was kept is sent", self._place)
        self._trouble, self._pause = "", FIRST_PAUSE

    def _next_pause(self, refused: bool) -> float:
        if refused:
            return PAUSE_AFTER_REFUSAL
        pause = self._pause
        self._pause = min(2 * pause, LONGEST_PAUSE)
        return min(pause, LONGEST_PAUSE_AT_THE_END) if self._closing.is_set() else pause


def _not_of_a_sender(record: logging.LogRecord, *_: Any) -> bool:
    """The sender says its troubles for itself, once."""
    return record.threadName != Sender.NAME
