"""What a linear probe reads from an encoder, for each label of a set."""

from pathlib import Path

import torch

from mim_ray.evaluate.features import Features, Pool, evaluating, features_of, few_pictures
from mim_ray.evaluate.linear import linear_probe
from mim_ray.siamese import Siamese
from mim_ray.transforms.crop import CenterCrop

ALL = 1 << 40


def probed(
    model: Siamese, train: Path, val: Path, labels: list[str], crop: CenterCrop, pool: Pool
) -> dict[str, float]:
    """The share of `val` that is right, of each label, at the best learning rate."""
    found = {}
    for label in labels:
        seen, asked = (_features(model, path, label, crop, pool) for path in (train, val))
        assert seen.labels is not None
        assert asked.labels is not None
        scores = linear_probe(seen.pooled, seen.labels, asked.pooled, asked.labels)
        found[label] = max(score.top1 for score in scores.values())
    return found


def _features(model: Siamese, path: Path, label: str, crop: CenterCrop, pool: Pool) -> Features:
    loader = few_pictures(path, ALL, crop, device=torch.device("cpu"), label=label)
    with evaluating(model):
        return features_of(model.online.encoder, model.normalise, loader, pool)
