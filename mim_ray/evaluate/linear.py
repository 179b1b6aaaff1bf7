"""A linear classifier on frozen features: batch norm without weights, then one layer, at several rates at once."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mim_ray.draws import Purpose, permutation
from mim_ray.evaluate.knn import Score

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
EPSILON = 1e-6


def linear_probe(
    train: Tensor,
    labels: Tensor,
    val: Tensor,
    wanted: Tensor,
    *,
    rates: Sequence[float] = RATES,
    epochs: int = 60,
    batch: int = 256,
    seed: int = 0,
) -> dict[float, Score]:
    """Shares of `val` that are right, by learning rate: SGD with momentum, a half cosine to zero."""
    deviation, mean = torch.std_mean(train, dim=0)
    train, val = ((features - mean) / (deviation + EPSILON) for features in (train, val))
    classes = int(max(labels.max(), wanted.max())) + 1
    weight = torch.zeros(len(rates), classes, train.shape[1] + 1, requires_grad=True)
    scale = torch.tensor(rates)[:, None, None]
    momentum = torch.zeros_like(weight)
    steps = -(-len(train) // batch)
    for epoch in range(epochs):
        order = torch.from_numpy(permutation(len(train), Purpose.ORDER, seed, np.int64(epoch)))
        for number, rows in enumerate(order.split(batch)):
            share = (epoch * steps + number) / (epochs * steps)
            loss = _losses(weight, train[rows], labels[rows]).sum()
            (gradient,) = torch.autograd.grad(loss, weight)
            momentum = 0.9 * momentum + gradient
            with torch.no_grad():
                weight -= scale * 0.5 * (1 + np.cos(np.pi * share)) * momentum
    ranked = _logits(weight.detach(), val).topk(min(5, classes), dim=2).indices == wanted[:, None]
    return {
        rate: Score(float(right[:, 0].double().mean()), float(right.any(1).double().mean()))
        for rate, right in zip(rates, ranked, strict=True)
    }


def _logits(weight: Tensor, features: Tensor) -> Tensor:
    """(rates, pictures, classes)."""
    return features @ weight[:, :, :-1].mT + weight[:, None, :, -1]


def _losses(weight: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Of each rate."""
    logits = _logits(weight, features)
    return torch.stack([F.cross_entropy(one, labels) for one in logits])
