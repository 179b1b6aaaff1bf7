"""Optimisers: who decays, and a state that survives as tensors."""

from typing import Any

import pytest
import torch
from torch import nn

from mim_ray.methods import resolved
from mim_ray.run import Optim
from mim_ray.training.optim import groups, load_optimiser_tensors, optimiser_for, optimiser_tensors


def test_matrices_and_tokens_decay_and_vectors_do_not() -> None:
    model = resolved("mae", {"encoder": "micro"}).method.build((32, 32))
    decayed, not_decayed = groups(model, Optim(weight_decay=0.05))
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (0.05, 0.0)
    assert {"online.encoder.cls_token", "measure.head.mask_token"} <= {names[id(one)] for one in decayed["params"]}
    assert all(
        names[id(one)].endswith(("bias", "norm.weight")) or "norm" in names[id(one)]
        for one in not_decayed["params"]
    )
    assert len(decayed["params"]) + len(not_decayed["params"]) == sum(p.requires_grad for p in model.parameters())


def stepped(model: nn.Module, optimiser: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        torch.manual_seed(step)
        for group in optimiser.param_groups:
            group["lr"] = 0.01
        model(torch.randn(8, 5)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()


def built() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 2))


def parts(model: nn.Module) -> list[dict[str, Any]]:
    weights = list(model.parameters())
    return [
        {"params": [one for one in weights if (one.ndim > 1) == decays], "weight_decay": 0.05 * decays}
        for decays in (True, False)
    ]


@pytest.mark.parametrize("algorithm", ["adamw", "lars", "lamb", "sgd"])
def test_a_resumed_optimiser_ends_where_an_uninterrupted_one_does(algorithm: str) -> None:
    optim = Optim.model_validate({"algorithm": algorithm})
    whole = built()
    stepped(whole, optimiser_for(parts(whole), optim), 6)
    begun = built()
    first = optimiser_for(parts(begun), optim)
    stepped(begun, first, 3)
    tensors = {name: tensor.clone() for name, tensor in optimiser_tensors(begun, first).items()}
    resumed = built()
    resumed.load_state_dict(begun.state_dict())
    second = optimiser_for(parts(resumed), optim)
    load_optimiser_tensors(resumed, second, tensors)
    stepped(resumed, second, 3, first=3)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
