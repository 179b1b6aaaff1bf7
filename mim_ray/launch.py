"""`train`: from a method's name to a finished run, in this process or on Ray; resumes what was begun."""

import logging
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mim_ray.config import changed, flatten
from mim_ray.data.card import Card
from mim_ray.errors import Failure, Mistake, nearest
from mim_ray.methods import METHODS, resolved
from mim_ray.phrases import as_text
from mim_ray.run import Run
from mim_ray.storage import Folder
from mim_ray.tracking.run import Dataset, create_run, end_run, find_run, reopen_run, resolved_uri
from mim_ray.training.asked import asking
from mim_ray.training.job import Job, job_of
from mim_ray.training.live import Live
from mim_ray.training.place import Notice, Place

logger = logging.getLogger("mim_ray")
JOB = "run.json"
FREE = (
    "workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "resources",
    "checkpoint.",
    "tracking.every_steps",
    "data.",
)
"""What a resumed run may change, since no result depends on it …"""

BOUND = ("data.train", "data.crop", "data.samples_per_epoch")
"""… but for these."""


def train(
    method: str | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    resume: str | None = None,
    address: str | None = None,
    track: bool = True,
    **words: object,
) -> dict[str, Any]:
    """`train("mae", data__train=…)` or `train("mae", {"data.train": …})`; what comes back is JSON.

    `resume`: the name or MLflow id of a run to go on with. `address`: a Ray cluster, by default RAY_ADDRESS or
    one of this machine.
    """
    given = {**(overrides or {}), **{path.replace("__", "."): value for path, value in words.items()}}
    if resume is not None:
        job = resumed(resume, method, given)
    elif method is None:
        raise Mistake(f"which method? choose from {', '.join(METHODS)}, or resume=RUN")
    else:
        job = begun(method, given, track, address)
    run = job.run
    if run.most_workers == 0:
        engine: AbstractContextManager[None] = nullcontext()
        train_there = _here
    else:
        from mim_ray.ray_train import connected, on_ray

        engine, train_there = connected(address), on_ray
    with _entering(job) as entering, engine:
        result = train_there(entering.result())
        asked = result.pop("asked")
        if asked is not None:
            logger.info("stopped after a checkpoint: go on with mim-ray train --resume %s", run.name)
            raise SystemExit(128 + asked)
        return {"run_id": entering.result().run_id, "name": run.name, **result}


def begun(method: str, overrides: Mapping[str, object], track: bool, address: str | None) -> Job:
    """A new run, as far as it can be without MLflow."""
    run = resolved(method, overrides)
    if run.data.train is None:
        raise Mistake("data.train=none: expected a beton (mim-ray data import makes one), or a sample: set")
    fixed = {
        "name": run.name or f"{method}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
        "storage": _absolute(run.storage),
        "data.train": _absolute(run.data.train),
    }
    run = resolved(method, {**overrides, **fixed})
    job = Job(method, changed(METHODS[method](), run))
    if job.folder.has(JOB):
        raise Mistake(
            f"name={run.name}: {job.folder.url} has a run of that name: resume it with --resume {run.name}"
        )
    if address is None and ":" not in str(run.data.train) and not Path(str(run.data.train)).exists():
        raise Mistake(
            f"data.train={run.data.train}: no such file: expected a beton (mim-ray data import makes one)"
        )
    job.folder.prove_writable()
    return job._replace(tracking_uri=resolved_uri(run.tracking.uri)) if track else job


def _absolute(place: str) -> str:
    """Of a local path, for a worker stands in another folder; URLs and sample sets stay."""
    return place if "://" in place or place.startswith("sample:") else str(Path(place).absolute())


def resumed(name: str, method: str | None, overrides: Mapping[str, object]) -> Job:
    storage = Folder(str(overrides.get("storage", Run().storage)))
    folder = storage.below(name)
    if not folder.has(JOB):
        uri = resolved_uri(str(overrides["tracking.uri"]) if "tracking.uri" in overrides else None)
        with suppress(Failure):  # MLflow need not be there for a run whose folder is
            known = find_run(uri, name)
            folder = (
                Folder(known["tags"]["mim_ray.folder"]) if known and "mim_ray.folder" in known["tags"] else folder
            )
    if not folder.has(JOB):
        raise Mistake(f"no run {name!r} in {storage.url} or MLflow{nearest(name, storage.names())}")
    job = job_of(folder.read(JOB))
    if method not in (None, job.method):
        raise Mistake(
            f"{name} is a run of {job.method}, not of {method}: expected --resume {name} without a method"
        )
    for path, value in overrides.items():
        free = path.startswith(FREE) and not path.startswith(BOUND)
        if not free and path not in ("storage", "tracking.uri"):
            raise Mistake(f"{path}={value}: would change what {name} computes: start a new run, or leave it out")
    kept = {path: as_text(value) for path, value in overrides.items() if path not in ("storage", "tracking.uri")}
    job = job._replace(overrides={**job.overrides, **kept})
    resolved(job.method, job.overrides)
    return job


def entered(job: Job) -> Job:
    """A new run gets its id from MLflow and its folder; one that goes on is RUNNING there again."""
    if job.tracking_uri is not None and job.run_id is not None:
        reopen_run(job.tracking_uri, job.run_id)
    elif not job.folder.has(JOB):
        if job.tracking_uri is not None:
            run = job.run
            tags, experiment = _tags(job, run), run.tracking.experiment
            run_id = create_run(job.tracking_uri, experiment, run.name, flatten(run), tags, _dataset(run))
            job = job._replace(run_id=run_id)
        job.folder.write(JOB, job.as_json().encode())
    return job


def _here(job: Job) -> dict[str, Any]:
    """In this process, without Ray."""
    from mim_ray.training.worker import work

    with asking() as asked, Live(job.run.name) as live:
        place = Place(notice=lambda: Notice.STOP if asked else Notice.NONE, tell=live.tell)
        return work(job, place) | {"asked": asked.by}


@contextmanager
def _entering(job: Job) -> Iterator[Future[Job]]:
    """`entered` in a thread, while Ray starts. A run that does not end by itself is not left RUNNING in MLflow,
    if MLflow can be told."""
    with ThreadPoolExecutor(1) as beside:
        entering = beside.submit(entered, job)
        try:
            yield entering
        except BaseException as error:
            with suppress(Exception):
                job = entering.result()
                if job.tracking_uri is not None and job.run_id is not None:
                    by_hand = isinstance(error, KeyboardInterrupt | SystemExit)
                    end_run(job.tracking_uri, job.run_id, "KILLED" if by_hand else "FAILED")
            raise


def _tags(job: Job, run: Run) -> dict[str, str]:
    folder = job.folder
    return {
        "mim_ray.method": job.method,
        "mim_ray.folder": folder.url if folder.local is None else str(folder.local.absolute()),
        "mim_ray.version": version("mim_ray"),
        "mim_ray.torch": version("torch"),
        "mim_ray.python": platform.python_version(),
        "mim_ray.host": platform.node(),
        "mim_ray.dataset": str(run.data.train),
        "mim_ray.replay": " ".join(["mim-ray train", job.method, *(f"{k}={v}" for k, v in job.overrides.items())]),
    }


def _dataset(run: Run) -> Dataset | None:
    """As far as its card lies here."""
    with suppress(OSError, ValueError, Mistake, Failure):
        return Dataset(str(run.data.train), Card.read(Path(str(run.data.train))).checksum)
    return None
