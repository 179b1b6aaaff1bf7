"""`mim-ray embed`: the feature of every picture of a set in one parquet file, made by workers, part by part."""

import hashlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from mim_ray.config import changed
from mim_ray.data.beton import Beton
from mim_ray.data.importer import Import, import_set
from mim_ray.data.loader import Batch, Loader
from mim_ray.data.sources import open_source
from mim_ray.errors import Failure, Mistake
from mim_ray.evaluate.features import evaluating, pooled
from mim_ray.launch import engine_for
from mim_ray.methods import recipe, resolved
from mim_ray.resume import absolute, refuse_secrets
from mim_ray.storage import Folder
from mim_ray.subject import Subject, encoder_words, subject
from mim_ray.training.job import JOB, Job, job_of
from mim_ray.training.place import Place
from mim_ray.training.schedule import planned
from mim_ray.training.step import Stepper
from mim_ray.transforms.crop import CenterCrop
from mim_ray.views import View
from mim_ray.weights.names import from_others

PICTURES = 1024
"""Of a part."""

PLACES_OF_WORK = ("workers", "cpus_per_worker", "gpus_per_worker", "resources", "storage", "tracking.")
"""How the words begin that change no feature."""


def embed(
    model: str,
    pictures: str,
    out: Path,
    *,
    weights: Path | None = None,
    words: Mapping[str, object] | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Parts that are there are not made again, so a run that was stopped goes on; the file appears whole.

    `weights`: a file for a timm name.
    """
    if out.exists():
        raise Mistake(f"{out} exists: name a new file")
    if not out.absolute().parent.is_dir():
        raise Mistake(f"{out}: there is no folder {out.absolute().parent}")
    given = dict(words or {})
    refuse_secrets(given)
    uri = str(given["tracking.uri"]) if "tracking.uri" in given else None
    parts = out.absolute().with_name(f".{out.name}.parts")
    beton = _beton_of(pictures, parts)
    job, files = _job(subject(model, weights, uri), {"storage": str(parts), "data.train": beton, **given})
    _refuse_parts_of_another(job)
    with _nothing_left_of_a_mistake(job.folder, files, parts):
        if Path(pictures).is_dir() and not Path(beton).exists():
            _import(pictures, Path(beton))
        for name, content in files.items():
            job.folder.write(name, content)
        engine, work_there = engine_for(job.run, address)
        with engine:
            asked = work_there(job, embed_parts)["asked"]
    if asked is not None:
        print(f"stopped: the same command goes on from {parts}", file=sys.stderr)
        raise SystemExit(128 + asked)
    count = _joined(job.folder, out)
    shutil.rmtree(parts)
    return {"path": str(out), "samples": count, "model": model}


def _job(given: Subject, words: Mapping[str, object]) -> tuple[Job, dict[str, bytes]]:
    """What is to be done, and what its folder must hold before."""
    run = given.run
    words = {
        **encoder_words(run), "data.crop.size": run.data.crop.size, "eval.pool": run.pool, "name": "parts", **words
    }  # fmt: skip
    job, files = Job("knn", changed(recipe("knn"), resolved("knn", words))), {}
    if given.weights is not None:
        content = save({name: weight.contiguous() for name, weight in from_others(given.weights).items()})
        name = f"start-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"  # so that the job names the weights
        job = Job("knn", {**job.overrides, "start": f"{job.folder.url}/{name}"})
        files[name] = content
    return job, files | {JOB: job.as_json().encode()}


def embed_parts(job: Job, place: Place) -> dict[str, Any]:
    """What each worker does: the parts that are its own and not there yet."""
    run = job.run
    loader = Loader(
        str(run.data.train), batch=PICTURES, crop=CenterCrop(size=run.looked_at, share=run.eval.share),
        shuffle=False, keep_tail=True, device=place.device, backend=run.data.backend, ahead=1,
    )  # fmt: skip
    stepper = Stepper(run, Place(device=place.device), planned(run, 1), pieces=1)
    stepper.begin()
    steps = loader.steps_per_epoch
    mine = range(steps * place.rank // place.world, steps * (place.rank + 1) // place.world)
    missing = [step for step in mine if not job.folder.has(part_name(step))]
    with evaluating(stepper.model), torch.no_grad(), stepper.precision():
        for first, stop in _stretches(missing):
            for batch in loader.batches(first, stop):
                tokens = stepper.model.online.encoder(View(stepper.model.normalise(batch.crops[0]), None))
                table = _table(loader.beton, batch, pooled(tokens, run.pool).float().cpu())
                job.folder.write(part_name(batch.step), _as_bytes(table))
                place.tell({"step": batch.step - mine.start + 1, "steps": len(mine)})
                if place.is_over():
                    return {}
    return {}


def part_name(step: int) -> str:
    return f"part-{step:06}.parquet"


def _beton_of(pictures: str, parts: Path) -> str:
    """Itself, or where a folder of pictures is imported."""
    if not Path(pictures).is_dir():
        return absolute(pictures)
    where = hashlib.sha256(str(Path(pictures).absolute()).encode()).hexdigest()[:16]
    return str(parts / f"pictures-{where}.beton")


def _import(pictures: str, beton: Path) -> None:
    source = open_source(pictures)
    beton.parent.mkdir(exist_ok=True)
    import_set(source, beton, Import())


def _refuse_parts_of_another(job: Job) -> None:
    """By whom and how many they are made is all that may change."""
    if job.folder.has(JOB) and _what_is_made(job_of(job.folder.read(JOB))) != _what_is_made(job):
        raise Mistake(f"{job.folder.url} has parts of another model or set: remove it, or name another file")


@contextmanager
def _nothing_left_of_a_mistake(folder: Folder, files: Iterable[str], parts: Path) -> Iterator[None]:
    """Where no part is made yet, or what is there would stand in the way of the corrected command."""
    new = not folder.has(JOB)
    try:
        yield
    except (Mistake, Failure):
        there = folder.names()
        if new and not any(name.startswith("part-") for name in there):
            for name in {*files, "ray"} & set(there):  # Ray has a folder there, too
                folder.remove(name)
        for empty in filter(None, (folder.local, parts)):
            with suppress(OSError):  # what holds more stays, such as an imported set
                empty.rmdir()
        raise


def _what_is_made(job: Job) -> dict[str, str]:
    kept = {path: word for path, word in job.overrides.items() if not path.startswith(PLACES_OF_WORK)}
    return kept | {"start": Path(kept.get("start", "")).name}  # which says what weights it holds


def _stretches(steps: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of neighbours, as (first, one past the last)."""
    first = 0
    for at in range(1, len(steps) + 1):
        if at == len(steps) or steps[at] != steps[at - 1] + 1:
            yield steps[first], steps[at - 1] + 1
            first = at


def _table(beton: Beton, batch: Batch, features: torch.Tensor) -> pa.Table:
    samples, names = batch.samples.cpu().numpy(), beton.proof.names if beton.proof else None
    columns = {
        "sample": pa.array(samples),
        "name": pa.array([names[sample] if names else "" for sample in samples]),
        **{label: pa.array(values[samples]) for label, values in beton.labels.items()},
        "feature": pa.FixedSizeListArray.from_arrays(pa.array(features.numpy().reshape(-1)), features.shape[1]),
    }
    return pa.table(columns)


def _as_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _joined(folder: Folder, out: Path) -> int:
    """The parts in their order, as one file that appears whole."""
    names = sorted(name for name in folder.names() if name.startswith("part-"))
    aside, count = out.with_name(f".{out.name}.part"), 0
    writer: Any = None
    try:
        for name in names:
            table = pq.read_table(pa.BufferReader(folder.read(name)))
            writer = writer or pq.ParquetWriter(aside, table.schema)
            writer.write_table(table)
            count += len(table)
    finally:
        if writer is not None:
            writer.close()
    aside.replace(out)
    return count
