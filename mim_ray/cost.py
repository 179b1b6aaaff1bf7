"""What a training step costs for each picture, from the shapes of its layers: nothing is computed for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mim_ray.blocks import Attention, whole
from mim_ray.encoders.target import Labels
from mim_ray.measures.contrast import Contrasting
from mim_ray.run import Run
from mim_ray.siamese import Siamese
from mim_ray.transforms.view import Shared

PICTURES = 2
"""Batch norm needs two."""


class Cost(NamedTuple):
    parameters: int
    """Trainable."""
    encoder_parameters: int
    flops: int
    """Forward and backward, for one picture; a multiplication and an addition are two."""
    activation_bytes: int
    """Kept for the backward pass, for one picture, in single precision and without compilation."""


def cost(run: Run) -> Cost:
    with torch.device("meta"):
        method = run.method.model_copy(update={"shared": Shared()})  # what happens to pixels before costs little
        model = method.build(run.data.crop.size).to("meta")
        height, width = run.data.crop.size
        crop = torch.zeros(PICTURES, model.method.encoder.channels, height, width, dtype=torch.uint8)
        position, labels = torch.arange(PICTURES), None
        if isinstance(run.method.target, Labels):
            labels = torch.zeros(PICTURES, dtype=torch.long)
    kept: dict[int, int] = {}
    constant = {storage_of(tensor) for tensor in [*model.parameters(), *model.buffers()]}

    def keep(tensor: Tensor) -> Tensor:
        if storage_of(tensor) not in constant:
            kept[storage_of(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with counted(model, run.batch) as flops, saved_tensors_hooks(keep, lambda tensor: tensor):
        measured = model((crop,) * run.method.crops, position, labels)
    del measured
    return Cost(
        parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        encoder_parameters=sum(weight.numel() for weight in model.online.encoder.parameters()),
        flops=sum(flops) // PICTURES,
        activation_bytes=sum(kept.values()) // PICTURES,
    )


def storage_of(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def counted(model: Siamese, batch: int) -> Iterator[list[int]]:
    """Collects the FLOPs of every matrix product, convolution, attention and contrast while the model runs."""
    flops: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        flops.append(flops_of(module, inputs, output, batch))

    kinds = (nn.Linear, nn.Conv2d, Attention, Contrasting)
    hooks = [part.register_forward_hook(count) for part in model.modules() if isinstance(part, kinds)]
    try:
        yield flops
    finally:
        for hook in hooks:
            hook.remove()


def flops_of(module: nn.Module, inputs: tuple[Any, ...], output: Any, batch: int) -> int:
    """Forward and backward; the backward pass takes one more product for each side that wants a gradient."""
    if isinstance(module, Contrasting):
        return _contrast_flops(module, inputs, batch)
    grad = torch.is_grad_enabled()
    if isinstance(module, Attention):
        images, tokens, width = whole(inputs[0]).shape
        lengths, asked = (*inputs[1:], None, None)[:2]
        once = int(sum(4 * images * length**2 * width for length in lengths or (tokens,)))
        if asked is not None:  # with the projections, which are no modules there
            few = asked.shape[1]
            once = images * (4 * few * tokens * width + 2 * few * width**2 + 4 * tokens * width**2)
        return once * (3 if grad else 1)
    assert isinstance(module, nn.Linear | nn.Conv2d)
    once = 2 * int(output.numel()) * module.weight[0].numel()
    if len(output) == 1:  # of the whole batch
        once = once * PICTURES // batch
    return once * (1 + (grad and inputs[0].requires_grad) + (grad and module.weight.requires_grad))


def _contrast_flops(module: Contrasting, inputs: tuple[Any, ...], batch: int) -> int:
    """Similarities with a whole batch, made once forward, once again backward, and the gradients of both sides."""
    if module.spec.loss != "infonce":
        return 0
    seen = inputs[0]
    pooled = 1 if seen.pooled.shape[1] else 0
    positions = (seen.patches.shape[1] if seen.kept is None else module.given.cells.patches) + pooled
    candidates = batch if module.spec.negatives == "position" else batch * positions
    learnt = inputs[1].patches.requires_grad and not module.given.stop_gradient
    products = 4 if learnt else 3
    return products * 2 * len(seen.patches) * positions * candidates * module.spec.projector.out
