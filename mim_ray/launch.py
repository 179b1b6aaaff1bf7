"""`train`: from a method's name to a finished run, in this process or on Ray; resumes what was begun."""

import json
import logging
import os
import platform
import re
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
from mim_ray.tracking.registry import fetch, has_artifact, register
from mim_ray.tracking.run import Dataset, create_run, end_run, find_run, reopen_run, resolved_uri
from mim_ray.tracking.server import Away, without_secrets
from mim_ray.training.asked import asking
from mim_ray.training.checkpoint import WHOLE, name_of
from mim_ray.training.job import Job, job_of
from mim_ray.training.live import Live
from mim_ray.training.place import Notice, Place
from mim_ray.training.reporter import SLOTS

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

PLACES = ("storage", "tracking.uri")
"""Where a run is looked for."""

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
    with _ended_in_mlflow(job):
        if run.most_workers == 0:
            result = _here(job)
        else:
            from mim_ray.ray_train import on_ray

            result = on_ray(job, address)
        asked = result.pop("asked")
        if asked is not None:
            logger.info("stopped after a checkpoint: go on with mim-ray train --resume %s", run.name)
            raise SystemExit(128 + asked)
    return {"run_id": job.run_id, "name": run.name, **result, **_registered(job, result)}


def begun(method: str, overrides: Mapping[str, object], track: bool, address: str | None) -> Job:
    run = resolved(method, overrides)
    if run.data.train is None:
        raise Mistake("data.train=none: expected a beton (mim-ray data import makes one), or a sample: set")
    refuse_secrets(run)
    fixed = {
        "name": run.name or f"{method}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
        "storage": _absolute(run.storage),
        "data.train": _absolute(run.data.train),
        **({} if run.data.val is None else {"data.val": _absolute(run.data.val)}),
    }
    run = resolved(method, {**overrides, **fixed})
    job = Job(method, changed(METHODS[method](), run))
    if job.folder.has(JOB):
        raise Mistake(
            f"name={run.name}: {job.folder.url} has a run of that name: resume it with --resume {run.name}"
        )
    here = run.most_workers == 0 or (address or os.environ.get("RAY_ADDRESS") or "local") == "local"
    if here and ":" not in str(run.data.train) and not Path(str(run.data.train)).exists():
        raise Mistake(
            f"data.train={run.data.train}: no such file: expected a beton (mim-ray data import makes one)"
        )
    job.folder.prove_writable()
    if track:
        uri = resolved_uri(run.tracking.uri)
        run_id = create_run(uri, run.tracking.experiment, run.name, flatten(run), _tags(job, run), _dataset(run))
        job = job._replace(tracking_uri=uri, run_id=run_id)
    job.folder.write(JOB, job.as_json().encode())
    return job


def refuse_secrets(run: Run) -> None:
    """Every word of a run is written down in many places."""
    words = {"data.train": run.data.train, "data.val": run.data.val, "storage": run.storage}
    for path, word in (words | {"tracking.uri": run.tracking.uri}).items():
        if word is not None and re.search(r"://[^/@]*:[^/@]*@", word):
            raise Mistake(
                f"{path}: expected no password in it, for a run's words are stored: set the variables of the "
                "service instead, such as MLFLOW_TRACKING_PASSWORD or AWS_SECRET_ACCESS_KEY"
            )


def _absolute(place: str) -> str:
    """Of a local path, for a worker stands in another folder; URLs and sample sets stay."""
    return place if "://" in place or place.startswith("sample:") else str(Path(place).absolute())


def resumed(name: str, method: str | None, overrides: Mapping[str, object]) -> Job:
    job = _known(name, overrides)
    if method not in (None, job.method):
        raise Mistake(
            f"{name} is a run of {job.method}, not of {method}: expected --resume {name} without a method"
        )
    for path, value in overrides.items():
        free = path.startswith(FREE) and not path.startswith(BOUND)
        if not free and path not in PLACES:
            raise Mistake(f"{path}={value}: would change what {name} computes: start a new run, or leave it out")
    kept = {path: as_text(value) for path, value in overrides.items() if path not in PLACES}
    job = job._replace(overrides={**job.overrides, **kept})
    refuse_secrets(job.run)
    if job.tracking_uri is not None and job.run_id is not None:
        try:
            reopen_run(job.tracking_uri, job.run_id)
        except Away as away:
            logger.warning("%s; the run goes on, and what it logs is kept", away)
    return job


def _known(name: str, overrides: Mapping[str, object]) -> Job:
    """From its folder below `storage`, from the folder that MLflow knows, or from its artifacts in MLflow."""
    storage = Folder(_absolute(str(overrides.get("storage", Run().storage))))
    uri = resolved_uri(str(overrides["tracking.uri"]) if "tracking.uri" in overrides else None)
    if storage.below(name).has(JOB):
        return _with_password(job_of(storage.below(name).read(JOB)), uri)
    known = None
    with suppress(Failure):  # MLflow need not be there for a run whose folder is
        known = find_run(uri, name)
    if known is not None:
        folder = known["tags"].get("mim_ray.folder")
        if folder is not None and Folder(folder).has(JOB):
            return _with_password(job_of(Folder(folder).read(JOB)), uri)
        job = from_mlflow(uri, known["run_id"], storage)
        if job is not None:
            return _with_password(job, uri)
    raise Mistake(f"no run {name!r} in {storage.url} or MLflow{nearest(name, storage.names())}")


def _with_password(job: Job, uri: str) -> Job:
    """Files hold none, so the address of the environment is taken where it is the same but for that."""
    same = job.tracking_uri is not None and without_secrets(uri) == job.tracking_uri
    return job._replace(tracking_uri=uri) if same else job


def from_mlflow(uri: str, run_id: str, storage: Folder) -> Job | None:
    """A run whose folder is lost, laid out anew below `storage` from its artifacts; None: it has none."""
    if not has_artifact(uri, run_id, JOB):
        return None
    if storage.local is not None:  # made on the same disk, to be moved in
        storage.local.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=storage.local) as aside:
        stored = job_of(fetch(uri, run_id, JOB, Path(aside)).read_bytes())
        job = stored._replace(overrides={**stored.overrides, "storage": storage.url})
        for slot in SLOTS:
            if has_artifact(uri, run_id, slot):
                files = fetch(uri, run_id, slot, Path(aside))
                with suppress(OSError, ValueError, KeyError):  # a torn one is none
                    step = json.loads((files / "state.json").read_text())["step"]
                    job.folder.below("checkpoints").take_in(files, name_of(step), last=WHOLE)
    job.folder.write(JOB, job.as_json().encode())
    logger.info("the run's folder is not here: it goes on in %s from what MLflow has", job.folder.url)
    return job


def _registered(job: Job, result: Mapping[str, Any]) -> dict[str, str]:
    """The encoder in MLflow's registry, if that was asked for and it has arrived there."""
    name = job.run.tracking.model
    if name is None or job.tracking_uri is None or job.run_id is None:
        return {}
    try:
        if result.get("unsent"):
            raise Failure("MLflow does not have all of the run yet")
        return {"model": register(job.tracking_uri, name, job.run_id)}
    except Failure as failure:
        logger.warning("the encoder is not registered as %s: %s", name, failure)
        return {}


def _here(job: Job) -> dict[str, Any]:
    """In this process, without Ray."""
    from mim_ray.training.worker import work

    with asking() as asked, Live(job.run.name) as live:
        place = Place(notice=lambda: Notice.STOP if asked else Notice.NONE, tell=live.tell)
        return work(job, place) | {"asked": asked.by}


@contextmanager
def _ended_in_mlflow(job: Job) -> Iterator[None]:
    """A run that did not end by itself is not left RUNNING, if MLflow can be told."""
    try:
        yield
    except BaseException as error:
        if job.tracking_uri is not None and job.run_id is not None:
            with suppress(Failure):
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
