"""Optimisers by their words; which weights decay is decided by one rule."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from mim_ray.run import Optim

DECAYS = 0
"""The group whose weights decay."""


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and tokens decay; biases, norms and other vectors do not."""
    trained = [weight for _, weight in trainable(model)]
    return [
        {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
    ]


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def optimiser_for(model: nn.Module, optim: Optim) -> Optimizer:
    """Its learning rate is set before every step."""
    parts = groups(model, optim.weight_decay)
    match optim.algorithm:
        case "adamw":
            return AdamW(parts, lr=0.0, betas=optim.betas, fused=True)
        case "sgd":
            return SGD(parts, lr=0.0, momentum=optim.momentum, fused=True)
        case "lamb":
            from timm.optim.lamb import Lamb  # here, for timm takes seconds to import

            return Lamb(parts, lr=0.0, betas=optim.betas, max_grad_norm=None)
        case "lars":
            from timm.optim.lars import Lars

            return Lars(parts, lr=0.0, momentum=optim.momentum)


def optimiser_tensors(model: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """Its state as `weight/what`, and what a group counts as `/group/what`."""
    state, names = optimiser.state_dict(), _names(model, optimiser)
    tensors = {
        f"{names[number]}/{what}": torch.as_tensor(value)
        for number, kept in state["state"].items()
        for what, value in kept.items()
        if value is not None
    }
    for number, group in enumerate(state["param_groups"]):
        tensors |= {f"/{number}/{what}": value for what, value in group.items() if isinstance(value, Tensor)}
    return tensors


def load_optimiser_tensors(model: nn.Module, optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    """What `optimiser_tensors` gave, back in place."""
    state, numbers = optimiser.state_dict(), {}
    for number, name in enumerate(_names(model, optimiser)):
        numbers[name] = number
    weights = dict(trainable(model))
    state["state"] = {}
    for path, value in tensors.items():
        name, _, what = path.rpartition("/")
        if name.startswith("/"):
            state["param_groups"][int(name[1:])][what] = value
        else:
            state["state"].setdefault(numbers[name], {})[what] = laid_out(value, weights[name])
    optimiser.load_state_dict(state)


def laid_out(value: Tensor, weight: Tensor) -> Tensor:
    """In memory as its weight is, for a fused step takes both as they lie (a CNN's are channels last)."""
    if value.shape != weight.shape:
        return value
    return torch.empty_like(weight, dtype=value.dtype, device=value.device).copy_(value)


def _names(model: nn.Module, optimiser: Optimizer) -> list[str]:
    """Of the weights, in the order in which the optimiser numbers them."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names[id(weight)] for group in optimiser.param_groups for weight in group["params"]]
