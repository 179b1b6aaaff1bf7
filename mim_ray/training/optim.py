"""Optimisers by their words; which weights decay is decided by one rule."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from mim_ray.run import Optim, Run
from mim_ray.siamese import Siamese
from mim_ray.training.schedule import base_lr

ENCODER = "online.encoder."
TOKENS = ("cls_token", "mask_token")


def groups(model: Siamese, optim: Optim) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors do not. `scale`: of the learning rate."""
    found: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, weight in trainable(model):
        decays = weight.ndim > 1 and (optim.tokens_decay or not name.endswith(TOKENS))
        found[scale_of(model, name, optim.layer_decay), decays].append(weight)
    return [
        {
            "params": found[scale, decays],
            "scale": scale,
            "decays": decays,
            "weight_decay": optim.weight_decay * decays,
        }
        for scale, decays in sorted(found, reverse=True)
    ]


def scale_of(model: Siamese, name: str, layer_decay: float) -> float:
    """A weight's share of the learning rate: by the layer it belongs to, or by the classifier's own rates."""
    encoder = model.online.encoder
    if name.startswith(ENCODER):
        return layer_decay ** (encoder.layers - 1 - encoder.layer_of(name.removeprefix(ENCODER)))
    return model.rate_of(name)


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def table(run: Run) -> list[dict[str, Any]]:
    """The groups of a run's weights, as a person reads them."""
    with torch.device("meta"):
        model = run.method.build(run.data.crop.size)
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [
        {
            "lr": float(f"{base_lr(run) * part['scale']:.6g}"),
            "scale": float(f"{part['scale']:.6g}"),
            "weight_decay": part["weight_decay"],
            "weights": len(part["params"]),
            "numbers": sum(weight.numel() for weight in part["params"]),
            "first": names[id(part["params"][0])],
            "last": names[id(part["params"][-1])],
        }
        for part in groups(model, run.optim)
    ]


def optimiser_for(parts: list[dict[str, Any]], optim: Optim) -> Optimizer:
    """Of `groups`; the learning rate is set before every step."""
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

            adapted = [part | {"always_adapt": part["params"][0].ndim > 1} for part in parts]
            return Lars(adapted, lr=0.0, momentum=optim.momentum)


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
