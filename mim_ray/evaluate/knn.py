"""The nearest neighbours' vote: exact, by cosine, each query's work done by one worker."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from mim_ray import world
from mim_ray.blocks import single_precision

QUERIES_AT_ONCE = 1024


class Score(NamedTuple):
    """Shares of the queries."""

    top1: float
    top5: float


class Votes(NamedTuple):
    scores: dict[tuple[int, float], Score]
    """For each number of neighbours and each temperature."""
    ranked: Tensor
    """(queries, 5) by the first number and temperature, the likeliest class first; of fewer classes, all."""


def knn(
    queries: Tensor,
    wanted: Tensor,
    bank: Tensor,
    labels: Tensor,
    *,
    neighbours: Sequence[int] = (20,),
    temperatures: Sequence[float] = (0.07,),
    leave_one_out: bool = False,
) -> Votes:
    """Votes of exp(cosine / temperature) of so many neighbours, for each number and each temperature.

    `leave_one_out`: query i is picture i of the bank and does not vote.
    """
    classes = int(max(labels.max(), wanted.max())) + 1
    votes_of = list(product(neighbours, temperatures))
    right = torch.zeros(len(votes_of), 2, dtype=torch.float64)
    guesses = []
    mine = torch.arange(world.rank(), len(queries), world.size())
    for rows in mine.split(QUERIES_AT_ONCE):
        with single_precision(queries):
            likeness = queries[rows] @ bank.T
        if leave_one_out:
            likeness[torch.arange(len(rows)), rows] = -torch.inf
        nearest, which = likeness.topk(min(max(neighbours), len(bank) - leave_one_out))
        for number, (count, temperature) in enumerate(votes_of):
            votes = nearest.new_zeros(len(rows), classes)
            weight = ((nearest[:, :count] - nearest[:, :1]) / temperature).exp()  # of the nearest: 1
            votes.scatter_add_(1, labels[which[:, :count]], weight)
            ranked = votes.topk(min(5, classes)).indices
            found = ranked == wanted[rows, None]
            right[number] += torch.stack([found[:, 0].sum(), found.sum()])
            if number == 0:
                guesses.append(ranked)
    every = world.gathered_objects((right, torch.cat(guesses)))
    shares = sum(part for part, _ in every) / len(queries)
    scores = {key: Score(*share) for key, share in zip(votes_of, shares.tolist(), strict=True)}
    first = torch.empty(len(queries), min(5, classes), dtype=torch.long)
    for worker, (_, part) in enumerate(every):
        first[worker :: len(every)] = part
    return Votes(scores, first)
