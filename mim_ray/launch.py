"""`train`: from a method's name to a finished run, in this process or on Ray; resumes what was begun."""

import logging
import os
import platform
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mim_ray.config import changed, flatten
from mim_ray.data.card import SetCard
from mim_ray.data.place import local_beton
from mim_ray.errors import Failure, Mistake, Overtaken
from mim_ray.fence import FENCE
from mim_ray.methods import METHODS, recipe, resolved
from mim_ray.models import DIGEST
from mim_ray.resume import absolute, refuse_secrets, resumed
from mim_ray.revision import revision
from mim_ray.run import Run
from mim_ray.storage import LOCK, PROOF, Folder
from mim_ray.tracking.registry import register
from mim_ray.tracking.run import Dataset, create_run, describe_again, end_run, reopen_run, resolved_uri, tag_run
from mim_ray.tracking.server import Away
from mim_ray.training.asked import asking
from mim_ray.training.job import CHECKPOINTS, JOB, START, Job
from mim_ray.training.live import Live
from mim_ray.training.pieces import check_sizes
from mim_ray.training.place import Notice, Place
from mim_ray.training.skips import SAMPLES
from mim_ray.training.worker import Task, work

logger = logging.getLogger("mim_ray")
LEARNT = "mim_ray.dataset_checksum"
"""The tag for the checksum of what a run learns from."""

OURS = (JOB, START, LOCK, PROOF, SAMPLES, FENCE, CHECKPOINTS, "journal", "ray")
"""What a run has in its folder."""

PACKAGES = ("torch", "timm", "ffcv", "ray", "mlflow", "numpy")
"""Whose versions a run's tags say."""


def train(
    method: str | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    resume: str | None = None,
    address: str | None = None,
    track: bool = True,
    tags: Mapping[str, str] | None = None,
    **words: object,
) -> dict[str, Any]:
    """`train("mae", data__train=…)` or `train("mae", {"data.train": …})`; what comes back is JSON.

    `resume`: the name or MLflow id of a run to go on with. `address`: a Ray cluster, by default RAY_ADDRESS or
    one of this machine. `tags`: others for MLflow.
    """
    given = {**(overrides or {}), **{path.replace("__", "."): value for path, value in words.items()}}
    if resume is not None:
        job = resumed(resume, method, given)
    elif method is None:
        raise Mistake(f"which method? choose from {', '.join(METHODS)}, or resume=RUN")
    else:
        job = begun(method, given, track, address)
    run = job.run
    check_sizes(run)
    engine, work_there = engine_for(run, address)
    busy = f"{run.name} is being trained by another process: wait for it, or stop it"
    with job.folder.held(busy), _entering(job, tags or {}, new=resume is None) as entering, engine:
        result = work_there(entering.result(), work)
        asked, finished = result.pop("asked"), result.pop("finished", False)
        if asked is not None and not finished:
            logger.info("stopped after a checkpoint: go on with mim-ray train --resume %s", run.name)
            raise SystemExit(128 + asked)
        job = entering.result()
    return {"run_id": job.run_id, "name": run.name, **closed(job, result)}


def engine_for(run: Run, address: str | None) -> tuple[AbstractContextManager[None], Callable[[Job, Task], Any]]:
    """This process or Ray, and how a job's task is done there."""
    if run.most_workers == 0:
        return nullcontext(), _here
    from mim_ray.ray_train import connected, on_ray

    return connected(address), on_ray


def begun(method: str, overrides: Mapping[str, object], track: bool, address: str | None) -> Job:
    """A new run, as far as it can be without MLflow."""
    run = resolved(method, overrides)
    if run.data.train is None:
        raise Mistake("data.train=none: expected a beton (mim-ray data import makes one), or a sample: set")
    refuse_secrets(overrides)
    fixed = {
        "name": run.name or f"{method}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
        "storage": absolute(run.storage),
        "data.train": absolute(run.data.train),
        **({} if run.data.val is None else {"data.val": absolute(run.data.val)}),
        **({} if run.start is None else {"start": absolute(run.start)}),
    }
    run = resolved(method, {**overrides, **fixed})
    job = Job(method, changed(recipe(method), run))
    if job.folder.has(JOB):
        raise Mistake(
            f"name={run.name}: {job.folder.url} has a run of that name: resume it with --resume {run.name}"
        )
    if others := [name for name in job.folder.names() if name not in OURS]:
        raise Mistake(
            f"name={run.name}: {job.folder.url} holds {others[0]}, which is no run's: expected another name"
        )
    here = run.most_workers == 0 or (address or os.environ.get("RAY_ADDRESS") or "local") == "local"
    for path, place in (("data.train", run.data.train), ("data.val", run.data.val)):
        if here and place is not None and ":" not in place and not Path(place).exists():
            raise Mistake(f"{path}={place}: no such file: expected a beton (mim-ray data import makes one)")
    job.folder.prove_writable()
    if not track:
        return job
    uri = resolved_uri(run.tracking.uri)
    if not here and uri.startswith(("sqlite:", "file:", "/")):
        logger.warning(
            "%s is a file, which every node of the cluster must see: or name a server, tracking.uri=", uri
        )
    return job._replace(tracking_uri=uri)


def entered(job: Job, more_tags: Mapping[str, str]) -> Job:
    """A new run gets its id from MLflow and its folder; one that goes on is RUNNING there again."""
    if job.tracking_uri is not None and job.run_id is not None:
        try:
            reopen_run(job.tracking_uri, job.run_id)
        except Away as away:
            logger.warning("%s; the run goes on, and what it logs is kept", away)
        else:
            with suppress(Failure):  # no run ends for what is only told of it
                describe_again(job.tracking_uri, job.run_id, flatten(job.run), _words_and_places(job, job.run))
    if not job.folder.has(JOB):
        if job.tracking_uri is not None and job.run_id is None:
            run = job.run
            sets = _datasets(run)
            tags = {**_tags(job, run), **_checksums(sets), **more_tags}
            experiment, dataset = run.tracking.experiment, sets.get(LEARNT)
            run_id = create_run(job.tracking_uri, experiment, run.name, flatten(run), tags, dataset)
            job = job._replace(run_id=run_id)
        job.folder.write(JOB, job.as_json().encode())
    return job


def closed(job: Job, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a run ended with, after MLflow was told of it as a whole."""
    rest = {name: value for name, value in result.items() if name != "digest"}
    return rest | _registered(job, rest, result.get("digest"))


def _registered(job: Job, result: Mapping[str, Any], digest: str | None) -> dict[str, str]:
    """The encoder in MLflow's registry, if that was asked for and it has arrived there; `digest`: of its files."""
    name = job.run.tracking.model
    if job.tracking_uri is None or job.run_id is None:
        return {}
    if digest is not None:
        with suppress(Failure):  # a run ends without an MLflow, too
            tag_run(job.tracking_uri, job.run_id, {DIGEST: digest})
    if name is None:
        return {}
    try:
        if result.get("unsent"):
            raise Failure("MLflow does not have all of the run yet")
        return {"model": register(job.tracking_uri, name, job.run_id)}
    except Failure as failure:
        logger.warning("the encoder is not registered as %s: %s", name, failure)
        return {}


def _here(job: Job, task: Task) -> dict[str, Any]:
    """In this process, without Ray."""
    with asking() as asked, Live(job.run.name) as live:
        place = Place(
            notice=lambda: Notice.STOP if asked else Notice.NONE, tell=live.tell, is_over=lambda: bool(asked)
        )
        return task(job, place) | {"asked": asked.by}


@contextmanager
def _entering(job: Job, tags: Mapping[str, str], *, new: bool) -> Iterator[Future[Job]]:
    """`entered` in a thread, while Ray starts. A run that does not end by itself is not left RUNNING in MLflow,
    if MLflow can be told and it is not another's by now."""
    with ThreadPoolExecutor(1) as beside:
        entering = beside.submit(entered, job, tags)
        try:
            yield entering
        except BaseException as error:
            with suppress(Exception):
                job = entering.result()
                is_ours = not isinstance(error, Overtaken)
                if is_ours and job.tracking_uri is not None and job.run_id is not None:
                    by_hand = isinstance(error, KeyboardInterrupt | SystemExit)
                    end_run(job.tracking_uri, job.run_id, "KILLED" if by_hand else "FAILED")
            if new and isinstance(error, Mistake) and not job.folder.below(CHECKPOINTS).names():
                with suppress(OSError):  # so that the corrected words may have its name
                    _removed(job.folder)
            raise


def _removed(folder: Folder) -> None:
    for name in set(OURS) & set(folder.names()):
        folder.remove(name)
    if folder.local is not None:
        folder.local.rmdir()


def _tags(job: Job, run: Run) -> dict[str, str]:
    commit = revision()
    return {
        **({} if commit is None else {"mim_ray.commit": commit}),
        "mim_ray.method": job.method,
        "mim_ray.version": version("mim_ray"),
        **{f"mim_ray.{name}": version(name) for name in PACKAGES if find_spec(name) is not None},
        "mim_ray.python": platform.python_version(),
        "mim_ray.host": platform.node(),
        **_words_and_places(job, run),
    }


def _words_and_places(job: Job, run: Run) -> dict[str, str]:
    """Tags of what a resume may change."""
    folder = job.folder
    return {
        "mim_ray.folder": folder.url if folder.local is None else str(folder.local.absolute()),
        "mim_ray.dataset": str(run.data.train),
        "mim_ray.replay": replay(job),
    }


def replay(job: Job) -> str:
    """A command that does it again, under a name of its own."""
    words = (f"{path}={value}" for path, value in job.overrides.items() if path != "name")
    return shlex.join(["mim-ray", "train", job.method, *words])


def checksums(run: Run) -> dict[str, str]:
    """Tags of a run: of what is learnt from and of what it is judged by, as far as they are known."""
    return _checksums(_datasets(run))


def _checksums(sets: Mapping[str, Dataset]) -> dict[str, str]:
    return {tag: dataset.checksum for tag, dataset in sets.items()}


def _datasets(run: Run) -> dict[str, Dataset]:
    """By the tag for their checksum."""
    sets = {LEARNT: run.data.train, "mim_ray.val_checksum": run.data.val}
    return {tag: found for tag, path in sets.items() if (found := _dataset(path)) is not None}


def _dataset(path: str | None) -> Dataset | None:
    """As far as it has a card; a sample set is made for it, of a URL the card alone is read."""
    if path is None:
        return None
    with suppress(Exception):  # of any file system; a run does without
        if "://" in path:
            folder, _, name = path.rpartition("/")
            content = Folder(folder).read(SetCard.path_beside(Path(name)).name)
            return Dataset(path, SetCard.model_validate_json(content).checksum)
        beton = local_beton(path) if path.startswith("sample:") else Path(path)
        return Dataset(path, SetCard.read(beton).checksum)
    return None
