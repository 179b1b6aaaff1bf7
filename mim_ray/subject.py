"""MODEL: what is judged. A run, a registered name, a checkpoint, a timm name, or `random:WORD`."""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mim_ray import models
from mim_ray.config import resolve
from mim_ray.encoders import timm_models
from mim_ray.encoders.encoder import Encoder
from mim_ray.encoders.vit import ViT
from mim_ray.errors import Failure, Mistake
from mim_ray.methods import recipe, resolved
from mim_ray.methods.sizes import encoder_overrides
from mim_ray.run import Run
from mim_ray.training.job import JOB, job_of
from mim_ray.weights.files import read_weights
from mim_ray.weights.names import encoder_in

RANDOM = "random:"
STATE, CHECKPOINT = "state.json", "weights.safetensors"


class Subject(NamedTuple):
    name: str
    """In short, for the names of runs."""
    run: Run
    """Whose encoder it is, and its pictures."""
    weights: dict[str, Tensor] | None
    """Of the encoder; None: as it is drawn."""
    run_id: str | None
    """Of the run that trained it."""
    part: str | None = None
    """Of that run, where these are not the weights that it ended with."""


def subject(where: str, weights: Path | None = None, uri: str | None = None) -> Subject:
    """`weights`: a file for a timm name; without one timm fetches its own."""
    known = None if _is_ours(where) else timm_models.encoder_of(where)
    if known is not None:
        state = timm_models.published_weights(where) if weights is None else read_weights(weights)
        return Subject(where, _of_timm(where, *known), state, None)
    if weights is not None:
        raise Mistake(f"weights={weights}: only a timm name takes a file: {where} is none")
    if where.startswith(RANDOM):
        return Subject(where.replace(":", "-"), _run_of(where.removeprefix(RANDOM)), None, None)
    if (Path(where) / STATE).exists():
        return _of_checkpoint(Path(where))
    if (Path(where) / models.CARD).exists():
        return _of_folder(Path(where))
    with tempfile.TemporaryDirectory() as folder:
        found = _of_folder(models.fetched(where, Path(folder), uri))
    return found._replace(part="best") if where.endswith("/best") else found


def encoder_words(run: Run) -> dict[str, object]:
    """What makes another run's encoder the same function of a whole picture."""
    spec = run.method.encoder
    kept = ("size",) if isinstance(spec, ViT) else ("name", "stem")
    words: dict[str, object] = {"method.encoder": spec.kind}
    words |= {f"method.encoder.{field}": getattr(spec, field) for field in (*kept, "patch", "channels", "depth")}
    return words | {"method.mean": run.method.mean, "method.std": run.method.std}


def _is_ours(where: str) -> bool:
    """By what can be seen without asking MLflow."""
    return where.startswith(RANDOM) or any((Path(where) / name).exists() for name in (STATE, models.CARD))


def _run_of(word: str) -> Run:
    return resolve(recipe("mae"), encoder_overrides(word, recipe("mae")))


def _of_checkpoint(folder: Path) -> Subject:
    try:
        state = json.loads((folder / STATE).read_text())
        weights = load_file(folder / CHECKPOINT)
        run = resolved(state["method"], state["overrides"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise Failure(f"{folder} is no checkpoint that can be read: {' '.join(str(error).split())}") from None
    job = folder.parent.parent / JOB
    run_id = job_of(job.read_bytes()).run_id if job.exists() else None
    return Subject(f"{run.name}-{folder.name}", run, encoder_in(weights), run_id, part=folder.name)


def _of_folder(folder: Path) -> Subject:
    pretrained = models.load(folder)
    return Subject(
        pretrained.card.run.name or pretrained.card.method,
        pretrained.card.run,
        pretrained.encoder.state_dict(),
        pretrained.card.run_id,
    )


def _of_timm(name: str, encoder: Encoder, side: int | None) -> Run:
    words: dict[str, object] = {"method.encoder": encoder}
    if (colours := timm_models.colours_of(name)) is not None:
        words |= {"method.mean": colours[0], "method.std": colours[1]}
    if side is not None:
        words["data.crop.size"] = (side, side)
    return resolve(recipe("supervised"), words)
