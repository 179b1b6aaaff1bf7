"""What a linear probe reads from an encoder, for each label of a set."""

from pathlib import Path

import torch
from torch import Tensor

from mim_ray.evaluate.features import Pool, evaluating, features_of, few_pictures
from mim_ray.evaluate.linear import linear_probe
from mim_ray.siamese import Siamese
from mim_ray.transforms.crop import CenterCrop


def probed(model: Siamese, train: Path, val: Path, crop: CenterCrop, pool: Pool) -> dict[str, float]:
    """The share of `val` that is right, of each label that the sets have, at the best learning rate."""
    seen, labels = _features(model, train, crop, pool)
    asked, wanted = _features(model, val, crop, pool)
    found = {}
    for label in labels:
        scores = linear_probe(seen, labels[label], asked, wanted[label])
        found[label] = max(score.top1 for score in scores.values())
    return found


def _features(model: Siamese, path: Path, crop: CenterCrop, pool: Pool) -> tuple[Tensor, dict[str, Tensor]]:
    """Of every picture, in the order of the set, and all its labels."""
    loader = few_pictures(path, None, crop, device=torch.device("cpu"))
    with evaluating(model):
        features = features_of(model.online.encoder, model.normalise, loader, pool)
    labels = {name: torch.from_numpy(column.copy()) for name, column in loader.beton.labels.items()}
    return features.pooled, labels
