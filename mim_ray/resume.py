"""A run found again: by its folder, by what MLflow knows of it, or laid out anew from its artifacts there."""

import json
import logging
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mim_ray.errors import Failure, Mistake, nearest, without_secrets
from mim_ray.phrases import as_text
from mim_ray.run import Run
from mim_ray.storage import Folder
from mim_ray.tracking.registry import fetch, has_artifact
from mim_ray.tracking.run import find_run, resolved_uri
from mim_ray.training.checkpoint import WHOLE, Checkpoints, name_of
from mim_ray.training.job import CHECKPOINTS, JOB, Job, job_of
from mim_ray.training.reporter import SLOTS

logger = logging.getLogger("mim_ray")
FREE = (
    "workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "resources",
    "checkpoint.",
    "eval.",
    "tracking.every_steps",
    "data.",
)
"""What a resumed run may change, since no result depends on it …"""

PLACES = ("storage", "tracking.uri")
"""Where a run is looked for."""

BOUND = ("data.few", "data.crop", "data.samples_per_epoch", "data.backend")
"""… but for these."""


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
    if kept.get("data.val", "none") != "none":
        kept["data.val"] = absolute(kept["data.val"])
    if "data.train" in kept:
        kept["data.train"] = absolute(kept["data.train"])
        newest = Checkpoints(job.folder.below(CHECKPOINTS), keep=1).newest()
        if newest is None or newest.state["dataset"] is None:
            raise Mistake(
                f"data.train={overrides['data.train']}: {name} has no checkpoint that knows whether these are its "
                "pictures: start a new run, or leave it out"
            )
    job = job._replace(overrides={**job.overrides, **kept})
    refuse_secrets(job.overrides)
    return job


def _known(name: str, overrides: Mapping[str, object]) -> Job:
    """From its folder below `storage`, from the folder that MLflow knows, or from its artifacts in MLflow."""
    storage = Folder(absolute(str(overrides.get("storage", Run().storage))))
    uri = resolved_uri(str(overrides["tracking.uri"]) if "tracking.uri" in overrides else None)
    if storage.below(name).has(JOB):
        return _found_in(storage, name, overrides, uri)
    known = None
    with suppress(Failure):  # MLflow need not be there for a run whose folder is
        known = find_run(uri, name)
    if known is not None:
        place, _, folder = known["tags"].get("mim_ray.folder", "").rpartition("/")
        if place and Folder(place).below(folder).has(JOB):
            return _found_in(Folder(place), folder, overrides, uri)
        if (begun_as := from_mlflow(uri, known["run_id"], storage)) is not None:
            return _found_in(storage, begun_as, {**overrides, "tracking.uri": uri}, uri)
    raise Mistake(f"no run {name!r} in {storage.url} or MLflow{nearest(name, storage.names())}")


def _found_in(storage: Folder, name: str, overrides: Mapping[str, object], uri: str) -> Job:
    """It goes on where it lies, though it may have begun in another place, and on the server that is named.

    Files hold no password, so the address of the environment is taken where it is the same but for that.
    """
    job = job_of(storage.below(name).read(JOB))
    job = job._replace(overrides={**job.overrides, "storage": storage.url})
    found, own = storage.below(name), job.run.name
    if found.root.rstrip("/") != job.folder.root.rstrip("/"):
        raise Mistake(
            f"{found.url} holds the run {own}, which goes on in a folder of its name alone: expected it to be "
            f"called {own}, in another storage= where it is a copy"
        )
    named = job.tracking_uri is not None and "tracking.uri" in overrides
    same = job.tracking_uri is not None and without_secrets(uri) == job.tracking_uri
    if named or same:
        job = job._replace(tracking_uri=uri)
    _mend(job)
    return job


def from_mlflow(uri: str, run_id: str, storage: Folder) -> str | None:
    """Lays out a run whose folder is lost anew below `storage`, if MLflow has its words; `_mend` does the rest.

    What comes back is the name that it began with: in MLflow it may have another by now.
    """
    if not has_artifact(uri, run_id, JOB):
        return None
    with tempfile.TemporaryDirectory() as aside:
        job = job_of(fetch(uri, run_id, JOB, Path(aside)).read_bytes())
    job = job._replace(overrides={**job.overrides, "storage": storage.url})
    job.folder.write(JOB, job.as_json().encode())
    logger.info("the run's folder is not here: it goes on in %s from what MLflow has", job.folder.url)
    return job.run.name


def _mend(job: Job) -> None:
    """MLflow may have a newer checkpoint than the newest that is whole here, in a folder that was restored from
    somewhere, say; without any the run begins again, and says so."""
    checkpoints = job.folder.below(CHECKPOINTS)
    if job.run.checkpoint.to_mlflow:
        newest = Checkpoints(checkpoints, keep=1).newest()
        with suppress(Failure):  # MLflow need not be there
            _take_checkpoints(job, checkpoints, after=-1 if newest is None else newest.step)
    if not checkpoints.names():
        logger.warning("%s has no checkpoint: the run begins at step 0", checkpoints.url)


def _take_checkpoints(job: Job, to: Folder, after: int) -> None:
    """Those of later steps."""
    if job.tracking_uri is None or job.run_id is None:
        return
    if to.local is not None:  # made on the same disk, to be moved in
        to.local.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=to.local) as aside:
        for slot in SLOTS:
            state = f"{slot}/state.json"
            if not all(has_artifact(job.tracking_uri, job.run_id, path) for path in (slot, state)):
                continue
            with suppress(OSError, ValueError, KeyError):  # a torn one is none
                known = fetch(job.tracking_uri, job.run_id, state, Path(aside, "known"))
                step = json.loads(known.read_text())["step"]
                if step > after:
                    files = fetch(job.tracking_uri, job.run_id, slot, Path(aside))
                    to.take_in(files, name_of(step), last=WHOLE)
                    logger.info("%s has come from MLflow", name_of(step))


def refuse_secrets(overrides: Mapping[str, object]) -> None:
    """Every word of a run is written down in many places."""
    for path in ("data.train", "data.val", "start", "storage", "tracking.uri"):
        word = str(overrides.get(path))
        if without_secrets(word) != word:
            raise Mistake(
                f"{path}: expected no password, token or signature in it, for a run's words are stored: set the "
                "variables of the service instead, such as MLFLOW_TRACKING_PASSWORD or AWS_SECRET_ACCESS_KEY"
            )


def absolute(place: str) -> str:
    """Of a local path, for a worker stands in another folder; URLs and sample sets stay."""
    return place if "://" in place or place.startswith("sample:") else str(Path(place).absolute())
