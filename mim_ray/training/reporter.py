"""What a run tells: whoever launched it, and MLflow through the journal. Only the first worker talks."""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from mim_ray import model_card, models
from mim_ray.data.beton import Beton
from mim_ray.data.card import SetCard
from mim_ray.data.place import local_beton
from mim_ray.errors import Overtaken
from mim_ray.evaluate.verdict import Verdict
from mim_ray.fence import Fence
from mim_ray.revision import revision
from mim_ray.run import Run
from mim_ray.storage import Folder
from mim_ray.tracking.journal import Journal
from mim_ray.tracking.package import package
from mim_ray.tracking.registry import BEST, ENCODER, METHOD
from mim_ray.tracking.run import End
from mim_ray.tracking.spool import Record
from mim_ray.tracking.system import System
from mim_ray.training.apart import Apart
from mim_ray.training.checkpoint import WHOLE, Snapshot, at_hand
from mim_ray.training.job import JOB, Job
from mim_ray.training.meters import Row
from mim_ray.training.place import Place
from mim_ray.weights.names import encoder_in

logger = logging.getLogger("mim_ray.training")
CHECKPOINTS = "checkpoints/"
SLOTS = (f"{CHECKPOINTS}a", f"{CHECKPOINTS}b")
"""Where checkpoints lie in MLflow, in turn: one is whole while the other is being sent."""

BESTS = "best/"
MODEL_STEP = "model/step"
"""The metric that says of which step the model is that MLflow has of a run's end."""


@contextmanager
def _or_without(words: str) -> Iterator[None]:
    """No run ends for what is only told of it, whatever a disk or a network does."""
    try:
        yield
    except Overtaken:
        raise
    except Exception as error:
        logger.warning("%s: %s", words, error)


class Reporter:
    def __init__(self, job: Job, run: Run, place: Place, beton: Beton, fence: Fence) -> None:
        self.job, self.run, self.place, self.beton, self.fence = job, run, place, beton, fence
        self.journal: Journal | None = None
        self._system: System | None = None
        self.copies = self.bests = 0
        """How many checkpoints and best models were sent, which tells where the next one goes."""
        self._best: Folder | None = None
        """The checkpoint of the best model, until that is sent."""
        self._late: Folder | None = None
        """The newest checkpoint, where it was not sent because the one before was still on its way."""
        self._best_name: str | None = None
        """Of the checkpoint whose model was sent last."""
        self._lacking = 0
        self.digest: str | None = None
        """Of the files of the encoder that the run ends with."""
        self._digest_file = Path()
        """Where it lies for whoever goes on with the run, and perhaps has to tell MLflow of it."""

    def open(self, carried: list[Record]) -> None:
        """`carried`: what MLflow had not confirmed when the checkpoint was made."""
        job = self.job
        if self.place.rank or self.journal is not None or job.tracking_uri is None or job.run_id is None:
            return
        local = job.folder.local
        folder = (Path(tempfile.mkdtemp(prefix="mim-ray-")) if local is None else local) / "journal"
        self.journal = Journal(folder, job.tracking_uri, job.run_id, carried, self.fence)
        self._system = System(folder)
        self._digest_file = folder / "encoder.sha256"
        if self.run.checkpoint.to_mlflow:
            self.document(JOB, job.as_json())

    def progress(self, step: int, steps: int, saved: int, row: Row) -> None:
        """`saved`: the step of the newest checkpoint."""
        self.place.tell({"step": step, "steps": steps, "saved": saved, **row})

    def numbers(self, step: int, row: Row) -> None:
        self.fence.look()
        if self.journal is not None:
            self.journal.log(step, row)

    def system(self) -> Row:
        """How busy the machine was since the last time."""
        if self._system is not None:
            with _or_without("how busy the machine is is not known"):
                return self._system.read()
        return {}

    def picture(self, step: int, name: str, draw: Callable[[Path], object]) -> None:
        if self.journal is None:
            return
        with _or_without("a picture is left out"), tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.png")
            draw(path)
            self.journal.picture(step, path, name)

    def document(self, name: str, text: str) -> None:
        """A later one of the same name takes its place."""
        if self.journal is not None:
            with _or_without(f"{name} is not sent to MLflow"):
                self._file(name, "", lambda path: path.write_text(text))

    def verdict(self, verdict: Verdict, run: Run) -> None:
        """The last one stays: a table of the classes, and which is taken for which. A set that is judged by itself
        is data.train."""
        if self.journal is None:
            return
        names: Sequence[str] = ()
        with suppress(Exception):  # a set need not have a card
            names = SetCard.read(local_beton(str(run.data.val or run.data.train), run.data.stage)).classes
        rows = verdict.by_class(names)
        with _or_without("the table of classes is left out"):
            self._file("classes.json", "evaluation", lambda path: path.write_text(json.dumps(rows)))
            self._file("confusions.png", "evaluation", verdict.draw)

    def checkpoint(self, folder: Folder, snapshot: Snapshot) -> None:
        """One is written; called beside the training, which waits for it only with the next one."""
        if self.journal is None:
            return
        if self.run.checkpoint.to_mlflow:
            if self.journal.has_unsent_files(CHECKPOINTS):
                logger.warning("a checkpoint is not sent to MLflow: the one before has not arrived")
                self._late = folder
            else:
                self._copy(folder)
        best = snapshot.state["best"]
        if best is not None and best.step == snapshot.step:
            self._best = folder
        if not self.journal.has_unsent_files(BESTS):
            self._send_best()

    def sent(self) -> dict[str, Any]:
        """For a checkpoint: what has come to MLflow, and where the next goes."""
        return {"copies": self.copies, "bests": self.bests, "best": self.best_there()}

    def go_on(self, sent: dict[str, Any], best: Folder | None) -> None:
        """After a checkpoint, of which a copy was perhaps on its way; the best may not have come to MLflow."""
        self.copies, self.bests, self._best_name = sent["copies"] + 1, sent["bests"], sent["best"]
        if best is not None and best.url.rpartition("/")[2] != self._best_name:
            self._best = best

    def best_there(self) -> str | None:
        """The name of the best checkpoint whose model MLflow has; None: it is not known."""
        on_its_way = self.journal is None or self.journal.has_unsent_files(BESTS)
        return None if on_its_way else self._best_name

    def _send_best(self) -> None:
        """The best model so far to MLflow; where the disk is full, say, the next checkpoint tries again."""
        if self._best is None:
            return
        with _or_without("the best model so far is not sent to MLflow"):
            self._model(self._best, f"{BEST[self.bests % 2]}/")
            self.bests, self._best_name = self.bests + 1, self._best.url.rpartition("/")[2]
            self._best = None

    def _copy(self, checkpoint: Folder) -> None:
        assert self.journal is not None
        slot = SLOTS[self.copies % 2]
        self.copies += 1
        with at_hand(checkpoint) as files:
            for path in sorted(files.iterdir(), key=lambda path: path.name == WHOLE):
                self.journal.file(path, slot)
        self._late = None

    def catch_up(self) -> None:
        """The newest checkpoint to MLflow before the run ends: nothing comes after it."""
        if self._late is not None:
            with _or_without("the last checkpoint is not sent to MLflow"):
                self._copy(self._late)

    def last(self, checkpoint: Folder, step: int) -> None:
        """The model that the run ends with, once; it may have ended before, at an earlier step."""
        if self.journal is None:
            return
        if self.journal.highest(MODEL_STEP) >= step:
            with suppress(OSError):
                self.digest = self._digest_file.read_text()
            return
        self._send_best()
        self._lacking = 1
        with _or_without("the model that the run ends with is not sent to MLflow"):
            self._model(checkpoint, "")
            self._digest_file.write_text(str(self.digest))
            self.journal.log(step, {MODEL_STEP: step})
            self._lacking = 0

    def _model(self, checkpoint: Folder, below: str) -> None:
        """The encoder with its card, and the whole method as it was checkpointed."""
        assert self.journal is not None
        job = self.job
        with at_hand(checkpoint) as files, tempfile.TemporaryDirectory() as aside, Apart():
            state = json.loads((files / "state.json").read_text())
            weights = load_file(files / "weights.safetensors")
            card = model_card.ModelCard(
                method=job.method,
                overrides=dict(job.overrides),
                steps=state["step"],
                dataset=str(self.run.data.train),
                run_id=job.run_id,
                metrics=state["last"],
                mim_ray=version("mim_ray"),
                dataset_checksum=str(self.beton.checksum),
                licence=_licence(self.beton),
                commit=revision(),
            )
            encoder, method = Path(aside, ENCODER), Path(aside, METHOD)
            model = models.save_encoder(encoder_in(weights), card, encoder)
            package(encoder, model.encoder.width, self.run.data.crop.size[0])
            if not below:
                self.digest = models.digest_of(encoder)
            for path in sorted(encoder.iterdir(), key=lambda path: path.name == models.CARD):
                self.journal.file(path, f"{below}{ENCODER}")
            models.describe_method(encoder, files / models.ALL_WEIGHTS, method)
            (method / JOB).write_text(job.as_json())
            for path in (*sorted(method.iterdir()), files / models.ALL_WEIGHTS):
                self.journal.file(path, f"{below}{METHOD}")

    def pending(self) -> list[Record]:
        return self.journal.pending() if self.journal else []

    def close(self, status: End | None, patience_seconds: float) -> int:
        """How many records MLflow could not be given. Without a status, whoever waits for the run says it."""
        unsent = self._lacking + self.journal.close(status, patience_seconds) if self.journal else 0
        self.fence.look()
        return unsent

    def leave(self) -> None:
        if self.journal is not None:
            self.journal.leave()

    def _file(self, name: str, to: str, write: Callable[[Path], object]) -> None:
        assert self.journal is not None
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder, name))
            self.journal.file(Path(folder, name), to)


def _licence(beton: Beton) -> str | None:
    """Of the data, as far as its card knows."""
    with suppress(Exception):  # a set need not have a card
        return SetCard.read(beton.path).licence
    return None
