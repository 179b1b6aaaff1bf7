"""The training's part of the speed contract: R3, R4, R6, R7, R12 and R13.

Both sides of a ratio are runs in processes of their own that train by turns (`turns.py`): starting, the last
checkpoint and closing are outside what is measured.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from mim_ray.bench import Finding, paired
from mim_ray.config import changed
from mim_ray.data.loader import Loader
from mim_ray.data.order import Order
from mim_ray.errors import Failure
from mim_ray.methods import METHODS, resolved
from mim_ray.tracking.run import create_run, resolved_uri
from mim_ray.training.checkpoint import Checkpoints
from mim_ray.training.job import CHECKPOINTS, JOB, Job
from mim_ray.turns import FOLDER, STEPPED, STEPS, STOP, TAKEN

CORES = len(os.sched_getaffinity(0))
PATIENCE_SECONDS = 300.0
REST_SECONDS = 2.0
"""Between turns, for what a side still does beside its steps."""

PROCESS = "import sys; from mim_ray.turns import main; main(*sys.argv[1:])"
RATE = "images/s ÷ images/s"
Words = dict[str, object]
Row = dict[str, float | int | str]

SIZE: Words = {
    "encoder": "vit-tiny", "data.crop.size": (128, 128), "data.train": "sample:shapes:n=512", "batch": 16,
    "method.measure.head.width": 192, "method.measure.head.depth": 2,
    "precision": "fp32", "steps": 100_000, "checkpoint.every_minutes": None, "tracking.every_steps": 20,
    "eval.every_epochs": None,
}  # fmt: skip
KILLED_AFTER = (4, 11, 17)
"""Steps of R12's run, which takes a checkpoint every third."""


class Sort(NamedTuple):
    """Of a side: what `turns.main` is told, its words, in how many processes, and whether MLflow is told."""

    how: str
    words: Words
    processes: int = 1
    tracked: bool = False


class Side:
    """One side: its folder, its processes, its turns."""

    def __init__(self, folder: Path, sort: Sort) -> None:
        self.folder, self._sort, self._turn = folder, sort, 0
        run = resolved("mae", {**SIZE, "name": "run", "storage": str(folder), **sort.words})
        self.batch, self.job = run.batch, folder / "job.json"
        job = Job("mae", changed(METHODS["mae"](), run))
        if sort.tracked:
            uri = resolved_uri(f"sqlite:///{folder / 'mlflow.db'}")
            job = job._replace(tracking_uri=uri, run_id=create_run(uri, "bench", "run", {}, {}))
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self.job.write_text(job.as_json())
        job.folder.write(JOB, job.as_json().encode())
        self.checkpoints = Checkpoints(job.folder.below(CHECKPOINTS), keep=1)

    @contextmanager
    def started(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        how, _, processes, _ = self._sort
        port, threads = str(_free_port()), str(max(1, CORES // processes))
        with ExitStack() as ends, (self.folder / "said").open("wb") as said:
            running = []
            for rank in range(processes if how == "processes" else 1):
                group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
                environment = os.environ | {"OMP_NUM_THREADS": threads}
                running.append(
                    subprocess.Popen(
                        [sys.executable, "-c", PROCESS, str(self.job), how],
                        env=environment | (group if how == "processes" else {}),
                        cwd=self.folder, stdout=said, stderr=said,
                    )
                )  # fmt: skip
            for process in running:
                ends.callback(process.wait)
                ends.callback(process.kill)
            yield running
            (self.folder / FOLDER / STOP).touch()
            for process in running:
                process.wait(PATIENCE_SECONDS)

    def ready(self, running: list[subprocess.Popen[bytes]]) -> Callable[[], float]:
        """When it has come to its first turn; then what a turn's rate is."""
        self._wait_for_seconds(running)

        def rate() -> float:
            self._turn += 1
            time.sleep(REST_SECONDS)
            (self.folder / FOLDER / f"go-{self._turn}").touch()
            return self.batch * STEPS / self._wait_for_seconds(running)

        return rate

    def _wait_for_seconds(self, running: list[subprocess.Popen[bytes]]) -> float:
        found, deadline = self.folder / FOLDER / f"seconds-{self._turn}", time.monotonic() + PATIENCE_SECONDS
        while not found.exists():
            if any(process.poll() is not None for process in running) or time.monotonic() > deadline:
                raise Failure(f"a side of a benchmark ended or hangs: {(self.folder / 'said').read_text()[-500:]}")
            time.sleep(0.01)
        return float(found.read_text())


def r3(pairs: int) -> Finding:
    """Ray Train with one worker, with loader and logging to MLflow / a bare loop over one batch in memory."""
    on_ray: Words = {"workers": 1, "cpus_per_worker": CORES}
    return _compared("R3", pairs, Sort("ray", on_ray, tracked=True), Sort("bare", {}))


def r4(pairs: int) -> Finding:
    """Ray Train with two workers / the same loop in two processes as torchrun makes them, both over gloo."""
    workers: Words = {"workers": 2, "cpus_per_worker": max(1, CORES // 2)}
    return _compared("R4", pairs, Sort("ray", workers, 2), Sort("processes", {}, 2))


def r6(pairs: int) -> Finding:
    """Losses logged and sent to MLflow (SQLite) every 20 steps, as by default / read and not logged. A turn begins
    with the logging, so its steps are made beside the sending."""
    return _compared("R6", pairs, Sort("process", {}, tracked=True), Sort("process", {}))


def r7(pairs: int) -> Finding:
    """One checkpoint a turn, far more often than anyone would / none."""
    often: Words = {"checkpoint.every_steps": STEPS}
    return _compared("R7", pairs, Sort("process", often), Sort("process", {}))


def r12() -> list[Row]:
    """A run is killed three times and goes on: what its last weights were trained on, against the order."""
    with tempfile.TemporaryDirectory() as name:
        words: Words = {
            "encoder": "micro", "data.crop.size": (32, 32), "data.train": "sample:shapes:n=80", "batch": 16,
            "steps": 22, "checkpoint.every_steps": 3, "tracking.every_steps": 1,
        }  # fmt: skip
        side = Side(Path(name), Sort("recorded", words))
        stepped = Path(name) / STEPPED
        for step in KILLED_AFTER:
            with side.started() as (process,):
                while not (lines := _lines(stepped)) or int(lines[-1]) < step:
                    if process.poll() is not None:
                        raise Failure((Path(name) / "said").read_text()[-500:])
                    time.sleep(0.005)
                process.kill()
        with side.started() as (process,):
            process.wait(PATIENCE_SECONDS)
        newest = side.checkpoints.newest()
        taken = [] if newest is None else newest.weights[TAKEN].tolist()
        lost, repeated = lost_and_repeated(taken, Loader("sample:shapes:n=80", batch=16).order, 22)
        return [
            {"kills": len(KILLED_AFTER), "steps": len(taken), "samples lost": lost, "samples repeated": repeated}
        ]


def lost_and_repeated(taken: Sequence[Sequence[int]], order: Order, steps: int) -> tuple[int, int]:
    """Of weights that have taken these steps, each with its samples behind its number: how many samples of the
    order they were not trained on, and on how many that it did not ask for."""
    expected = Counter((step, int(sample)) for step in range(steps) for sample in order.share(step)[1])
    found = Counter((step, sample) for step, *samples in taken for sample in samples)
    return (expected - found).total(), (found - expected).total()


def r13() -> list[Row]:
    """Seconds of `mim-ray train … workers=2`, by what appears in the run's folder."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "runs" / "run"
        words = "train mae name=run encoder=micro data.train=sample:shapes:n=64 batch=32 steps=2 workers=2"
        parts: dict[str, Callable[[], bool]] = {
            "launch and imports": run.exists,
            "MLflow, while Ray starts": (run / "run.json").exists,
            "Ray, its controller": (run / "ray").exists,
            "Ray Train's workers, the model, the first checkpoint": lambda: any(run.glob("checkpoints/step-*")),
            "the first batch, the first step": lambda: any(_lines(run / "journal" / "metrics.jsonl")),
        }
        command = [sys.executable, "-m", "mim_ray", *words.split(), "tracking.every_steps=1", "cpus_per_worker=1"]
        rows: list[Row] = []
        with (Path(name) / "said").open("wb") as said:
            began = last = time.perf_counter()
            process = subprocess.Popen(command, cwd=name, stdout=said, stderr=said)
            try:
                for part, is_over in parts.items():
                    while not is_over():
                        if process.poll() is not None:
                            raise Failure((Path(name) / "said").read_text()[-500:])
                        time.sleep(0.02)
                    now = time.perf_counter()
                    rows.append({"part": part, "seconds": round(now - last, 1)})
                    last = now
                rows.append({"part": "all", "seconds": round(last - began, 1)})
                process.wait(PATIENCE_SECONDS)
            finally:
                process.kill()
                process.wait()
        return rows


RATIOS: dict[str, Callable[[int], Finding]] = {"R3": r3, "R4": r4, "R6": r6, "R7": r7}
TABLES: dict[str, Callable[[], list[Row]]] = {"R12": r12, "R13": r13}


def _compared(what: str, pairs: int, *sorts: Sort) -> Finding:
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        rates = []
        for number, sort in enumerate(sorts):
            side = Side(Path(name) / str(number), sort)
            rates.append(side.ready(ends.enter_context(side.started())))
        return paired(what, *rates, pairs=pairs, unit=RATE)


def _lines(path: Path) -> list[str]:
    """Those that are whole."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def _free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])
