"""InfoNCE over the pictures of all workers, a few positions at a time."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LIMIT = 1 << 24
"""How many similarities may exist at once; one position's are the least."""

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
    step = min(positions, max(1, LIMIT // (rows * candidates)))
    terms = []
    for start in range(0, positions, step):
        part = slice(start, min(start + step, positions))
        one = _same_position if same_position else _all_positions
        terms.append(checkpoint(one, q, k, offered, part, temperature, first, use_reentrant=False))
    return torch.cat(terms, dim=1)


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
