"""InfoNCE over the pictures of all workers, as many positions and pictures at a time as LIMIT allows."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LIMIT = 1 << 24
"""How many similarities may exist at once; those of one token are the least."""

ABSENT = -1e9
"""Minus infinity that has a gradient."""


def info_nce(
    q: Tensor,
    k: Tensor,
    offered: Tensor | None,
    *,
    temperature: float,
    first: int,
    same_position: bool,
) -> Tensor:
    """−log softmax for each of q's (B, P) tokens, of unit length (B, P, D), against k's (all pictures, P, D).

    The right answer to picture i is picture `first + i` at the same position. `offered` (all pictures, P): which
    candidates there are. Similarities are made again for the backward pass rather than kept.
    """
    rows, positions, _ = q.shape
    candidates = len(k) if same_position else len(k) * positions
    together = min(rows, max(1, LIMIT // candidates))
    step = min(positions, max(1, LIMIT // (together * candidates)))
    one = _same_position if same_position else _all_positions
    terms = []
    for top in range(0, rows, together):
        some, mine = q[top : top + together], first + top
        parts = [slice(start, min(start + step, positions)) for start in range(0, positions, step)]
        chunks = [
            checkpoint(one, some, k, offered, part, temperature, mine, use_reentrant=False) for part in parts
        ]
        terms.append(torch.cat(chunks, dim=1))
    return torch.cat(terms)


def _same_position(
    q: Tensor, k: Tensor, offered: Tensor | None, part: slice, temperature: float, first: int
) -> Tensor:
    logits = torch.einsum("bpd,cpd->pbc", q[:, part], k[:, part]) / temperature
    if offered is not None:
        logits = logits.masked_fill(~offered[:, part].T[:, None], ABSENT)
    return logits.logsumexp(2).T - _mine(q, k, part, temperature, first)


def _all_positions(
    q: Tensor, k: Tensor, offered: Tensor | None, part: slice, temperature: float, first: int
) -> Tensor:
    logits = torch.einsum("bpd,cnd->bpcn", q[:, part], k) / temperature
    if offered is not None:
        logits = logits.masked_fill(~offered, ABSENT)
    return logits.flatten(2).logsumexp(2) - _mine(q, k, part, temperature, first)


def _mine(q: Tensor, k: Tensor, part: slice, temperature: float, first: int) -> Tensor:
    return torch.einsum("bpd,bpd->bp", q[:, part], k[first : first + len(q), part]) / temperature
