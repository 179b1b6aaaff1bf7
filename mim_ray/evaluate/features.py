"""What an encoder makes of whole pictures; the workers share them and all get the result."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mim_ray import world
from mim_ray.data.beton import Beton
from mim_ray.data.loader import Backend, Loader
from mim_ray.data.place import local_beton
from mim_ray.encoders.encoder import EncoderModule
from mim_ray.transforms.crop import CenterCrop
from mim_ray.views import Tokens, View

Pool = Literal["class", "mean"]


class Features(NamedTuple):
    """Of n pictures, in the order of the set."""

    pooled: Tensor
    """(n, D)."""
    labels: Tensor | None
    """(n,)."""
    similarity: float
    """Mean cosine between two patches of a picture."""


def few_pictures(
    path: str | Path,
    most: int | None,
    crop: CenterCrop,
    *,
    device: torch.device,
    backend: Backend = "auto",
    stage: Literal["auto", "always", "never"] = "auto",
    batch: int = 256,
    label: str = "auto",
) -> Loader:
    """At most so many of a set, always the same ones, drawn at random since sets are often sorted by class."""
    return Loader(
        path,
        batch=batch,
        crop=crop,
        rank=world.rank(),
        world=world.size(),
        samples_per_epoch=None if most is None else min(most, len(Beton.open(local_beton(path, stage)))),
        keep_tail=True,
        device=device,
        backend=backend,
        stage=stage,
        label=label,
        ahead=1,
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Batch norms keep what they know, and afterwards go on as before."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


@torch.no_grad()
def features_of(encoder: EncoderModule, normalise: nn.Module, loader: Loader, pool: Pool) -> Features:
    """The encoder must be in evaluation mode."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
    for batch in loader.epoch():
        if len(batch.samples):
            tokens = encoder(View(normalise(batch.crops[0]), None))
            row = batch.samples, pooled(tokens, pool).float(), likeness(tokens.patches), batch.labels
            parts.append(tuple(part if part is None else part.cpu() for part in row))  # type: ignore[arg-type]
    every = [part for parts_of_one in world.gathered_objects(parts) for part in parts_of_one]
    order = torch.cat([part[0] for part in every]).argsort()
    labels = [part[3] for part in every if part[3] is not None]
    return Features(
        pooled=torch.cat([part[1] for part in every])[order],
        labels=torch.cat(labels)[order] if labels else None,
        similarity=float(torch.cat([part[2] for part in every]).mean()),
    )


def pooled(tokens: Tokens, pool: Pool) -> Tensor:
    return tokens.pooled if pool == "class" else tokens.patches.mean(1)


def likeness(patches: Tensor) -> Tensor:
    """(B, N, D) → (B,) mean cosine between different patches."""
    count = patches.shape[1]
    if count == 1:
        return patches.new_ones(len(patches), dtype=torch.float32)
    total = F.normalize(patches.float(), dim=2).sum(1).square().sum(1)
    return (total - count) / (count * (count - 1))
