"""The nearest neighbours' vote: exact, by cosine, each query's work done by one worker."""

from typing import NamedTuple

import torch
from torch import Tensor

from mim_ray import world

QUERIES_AT_ONCE = 1024


class Score(NamedTuple):
    """Shares of the queries."""

    top1: float
    top5: float


def knn(
    queries: Tensor,
    wanted: Tensor,
    bank: Tensor,
    labels: Tensor,
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
    leave_one_out: bool = False,
) -> Score:
    """Votes of exp(cosine / temperature); `leave_one_out`: query i is picture i of the bank and does not vote."""
    classes = int(max(labels.max(), wanted.max())) + 1
    right = torch.zeros(2, dtype=torch.float64)
    mine = torch.arange(world.rank(), len(queries), world.size())
    for rows in mine.split(QUERIES_AT_ONCE):
        likeness = queries[rows] @ bank.T
        if leave_one_out:
            likeness[torch.arange(len(rows)), rows] = -torch.inf
        nearest, which = likeness.topk(min(neighbours, len(bank) - leave_one_out))
        votes = nearest.new_zeros(len(rows), classes).scatter_add(1, labels[which], (nearest / temperature).exp())
        ranked = votes.topk(min(5, classes)).indices == wanted[rows, None]
        right += torch.stack([ranked[:, 0].sum(), ranked.sum()])
    top1, top5 = (sum(world.gathered_objects(right)) / len(queries)).tolist()
    return Score(top1, top5)
