"""Supervised training's losses, class by class."""

from collections.abc import Mapping
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor

from mim_ray.errors import Mistake
from mim_ray.methods import resolved

CLASSES, SIDE = 5, 16
LABELS = torch.tensor([0, 3, 2, 2, 4, 1])
POSITIONS = torch.arange(6)


def built(changes: Mapping[str, object]) -> Any:
    """A classifier in double precision whose answers are far from alike."""
    torch.manual_seed(0)
    settings = {"encoder": "micro", "data.crop.size": (SIDE, SIDE), "method.measure.classes": CLASSES, **changes}
    model = resolved("supervised", settings).method.build((SIDE, SIDE), seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.double()


def colours() -> Tensor:
    """A picture of one grey for each label, no two of them the same."""
    greys = torch.arange(10, 10 + 40 * len(LABELS), 40, dtype=torch.uint8)
    return greys[:, None, None, None].expand(-1, 3, SIDE, SIDE).contiguous()


def own_shares(model: Any, crops: Tensor) -> tuple[Tensor, list[float], list[int]]:
    """The mixed pictures, the share of each that is its own, and the class of the pixels that are not."""
    if model.method.shared.cutmix is None:
        return crops, [1.0] * len(crops), LABELS.tolist()
    mixed = model.method.shared.mixed((crops,), POSITIONS, model.seed).crops[0]
    greys, shares, others = [int(crop[0, 0, 0]) for crop in crops], [], []
    for i, picture in enumerate(mixed[:, 0].tolist()):
        pixels = [pixel for row in picture for pixel in row]
        shares.append(sum(pixel == greys[i] for pixel in pixels) / len(pixels))
        foreign = {pixel for pixel in pixels if pixel != greys[i]}
        assert foreign <= {greys[i ^ 1]}
        others.append(int(LABELS[i ^ 1]))
    return mixed, shares, others


def slow_loss(model: Any, crops: Tensor) -> Tensor:
    spec = model.method.measure
    mixed, shares, others = own_shares(model, crops)
    x = model.normalise(mixed)
    tokens = model.online.encoder(model.views(x, x, POSITIONS)[0])
    weight, bias = model.measure.head.weight, model.measure.head.bias
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(crops)):
        feature = tokens.pooled[i] if spec.pool == "class" else sum(tokens.patches[i]) / len(tokens.patches[i])
        logits = [weight[c] @ feature + bias[c] for c in range(CLASSES)]
        wanted = [spec.smoothing / CLASSES for _ in range(CLASSES)]
        wanted[int(LABELS[i])] += (1 - spec.smoothing) * shares[i]
        wanted[others[i]] += (1 - spec.smoothing) * (1 - shares[i])
        assert sum(wanted) == pytest.approx(1)
        everything = sum(logit.exp() for logit in logits)
        for c in range(CLASSES):
            if spec.loss == "ce":
                total = total - wanted[c] * (logits[c].exp() / everything).log()
            else:
                chance = 1 / (1 + (-logits[c]).exp())
                total = total - (wanted[c] * chance.log() + (1 - wanted[c]) * (1 - chance).log()) / CLASSES
    return total / len(crops)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cutmix", ["none", "on"])
@pytest.mark.parametrize("pool", ["mean", "class"])
def test_the_cross_entropy_is_written_slowly(loss: str, smoothing: float, cutmix: str, pool: str) -> None:
    model = built({
        "method.measure.loss": loss, "method.measure.smoothing": smoothing,
        "method.shared.cutmix": cutmix, "method.measure.pool": pool,
    })  # fmt: skip
    crops = colours()
    measured, oracle = model((crops,), POSITIONS, LABELS), slow_loss(model, crops)
    assert measured.loss.item() == pytest.approx(oracle.item(), rel=2e-6)
    got, wanted = gradients(model, measured.loss), gradients(model, oracle)
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    assert largest > 0
    for name, gradient in wanted.items():
        assert (got[name] - gradient).abs().max().item() <= 2e-6 * largest, name


def test_some_pictures_are_mixed_and_their_shares_differ() -> None:
    _, shares, _ = own_shares(built({"method.shared.cutmix.chance": 1.0}), colours())
    assert min(shares) < 1
    assert len(set(shares)) > 1


def test_a_classifier_that_knows_nothing_pays_the_logarithm_of_the_classes() -> None:
    for loss, wanted in (("ce", log(CLASSES)), ("bce", log(1 + exp(0)))):
        model = built({"method.measure.loss": loss})
        with torch.no_grad():
            model.measure.head.weight.zero_()
            model.measure.head.bias.zero_()
        assert model((colours(),), POSITIONS, LABELS).loss.item() == pytest.approx(wanted)


def test_top1_counts_the_pictures_own_labels() -> None:
    model = built({"method.shared.cutmix": "none"})
    with torch.no_grad():
        model.measure.head.weight.zero_()
        model.measure.head.bias.copy_(torch.eye(CLASSES)[2])
    assert model((colours(),), POSITIONS, LABELS).parts["top1"].item() == pytest.approx(2 / 6)


def test_a_picture_alone_is_classified_and_cannot_be_mixed() -> None:
    one = (colours()[:1],)
    loss = built({"method.shared.cutmix": "none"})(one, POSITIONS[:1], LABELS[:1]).loss
    assert loss.isfinite()
    with pytest.raises(Mistake, match="cutmix pairs the pictures"):
        built({})(one, POSITIONS[:1], LABELS[:1])


def test_data_without_labels_are_refused() -> None:
    with pytest.raises(Mistake, match="have no labels"):
        built({})((colours(),), POSITIONS)
