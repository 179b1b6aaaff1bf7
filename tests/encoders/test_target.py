"""Targets: what follows the encoder, how fast, and what no gradient reaches."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from mim_ray.encoders.target import Ema, follow, shadow_of
from mim_ray.measures.contrast import Contrasting
from mim_ray.measures.relax import Relaxation
from mim_ray.methods import resolved
from mim_ray.siamese import Siamese
from mim_ray.views import Measured

IMAGES = 4
POSITION = torch.arange(IMAGES)
CROPS = torch.randint(
    0, 256, (2, IMAGES, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def built(name: str, **overrides: object) -> Siamese:
    torch.manual_seed(0)
    return resolved(name, {"encoder": "micro"} | overrides).method.build((32, 32), seed=0)


def loss_of(model: Siamese) -> Tensor:
    measured: Measured = model(tuple(CROPS[: model.method.crops]), POSITION)
    return measured.loss


def drift(model: nn.Module) -> None:
    """A step of any optimiser."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=draw))


# The schedule.


def test_the_momentum_stays_where_no_end_is_set() -> None:
    assert [Ema(momentum=0.996).momentum_at(share) for share in (0, 0.3, 1)] == [0.996] * 3


@pytest.mark.parametrize(("momentum", "final"), [(0.99, 1.0), (0.996, 1.0), (0.5, 0.0)])
def test_the_momentum_follows_half_a_cosine_to_its_end(momentum: float, final: float) -> None:
    ema = Ema(momentum=momentum, final=final)
    assert ema.momentum_at(0) == pytest.approx(momentum, abs=1e-12)
    assert ema.momentum_at(0.5) == pytest.approx((momentum + final) / 2)
    assert ema.momentum_at(1) == final
    done = [ema.momentum_at(step / 100) for step in range(101)]
    assert done == sorted(done, reverse=final < momentum)


def test_moco_follows_its_published_schedule() -> None:
    """`adjust_moco_momentum` of the published code, which starts at 0.99."""
    target = resolved("mocov3", {}).method.target
    assert isinstance(target, Ema)
    for epoch in (0, 0.25, 17, 150, 299.99):
        published = 1 - 0.5 * (1 + math.cos(math.pi * epoch / 300)) * (1 - 0.99)
        assert target.momentum_at(epoch / 300) == pytest.approx(published, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "momentum", "final"), [("cmae", 0.996, None), ("mocov3", 0.99, 1.0), ("mocov3_r50", 0.99, 1.0)]
)
def test_recipes_have_the_published_momentum(name: str, momentum: float, final: float | None) -> None:
    assert resolved(name, {}).method.target == Ema(momentum=momentum, final=final)


# The shadow.


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.996, 1.0])
def test_the_shadow_is_a_running_average(momentum: float) -> None:
    online = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 2))
    shadow = shadow_of(online)
    wanted = [weight.detach().double() for weight in shadow.parameters()]
    for _ in range(20):
        drift(online)
        follow(shadow, online, momentum)
        pairs = zip(wanted, online.parameters(), strict=True)
        wanted = [momentum * old + (1 - momentum) * new.detach().double() for old, new in pairs]
    for got, one in zip(shadow.parameters(), wanted, strict=True):
        assert torch.allclose(got.double(), one, atol=1e-5)


def test_the_ends_of_the_average_are_exact() -> None:
    online = nn.Linear(50, 50)
    still, copied, before = shadow_of(online), shadow_of(online), copy.deepcopy(online)
    drift(online)
    follow(still, online, 1.0)
    follow(copied, online, 0.0)
    assert torch.equal(still.weight, before.weight)
    assert torch.equal(copied.weight, online.weight)


@pytest.mark.parametrize("encoder", ["micro", "resnet-micro"])
@pytest.mark.parametrize("name", ["cmae", "mocov3", "byol"])
def test_no_gradient_reaches_the_shadow_and_it_follows_when_told(name: str, encoder: str) -> None:
    model = built(name, encoder=encoder)
    assert model.target is not None
    assert isinstance(model.method.target, Ema)
    online, shadow = dict(model.online.named_parameters()), dict(model.target.named_parameters())
    assert online.keys() == shadow.keys()
    assert all(torch.equal(online[name], shadow[name]) for name in shadow)
    assert not {weight.data_ptr() for weight in online.values()} & {
        weight.data_ptr() for weight in shadow.values()
    }
    loss_of(model).backward()
    assert not any(weight.requires_grad or weight.grad is not None for weight in shadow.values())
    before = {name: weight.clone() for name, weight in shadow.items()}
    drift(model.online)
    assert all(torch.equal(before[name], shadow[name]) for name in shadow)
    momentum = 0.25
    model.follow(momentum)
    for name, weight in shadow.items():
        assert torch.allclose(weight, momentum * before[name] + (1 - momentum) * online[name], atol=1e-6)


def test_following_without_a_shadow_does_nothing() -> None:
    model = built("rmae")
    assert model.target is None
    model.follow(0.5)


def test_the_comparison_is_with_the_shadow_and_not_with_the_encoder() -> None:
    """Once they differ, a loss made by hand from the shadow's features is the model's."""
    model = built("cmae", **{"method.measure.loss": "byol"})
    assert model.target is not None
    drift(model.target)
    pixels = model.normalise(CROPS[0])
    a, b = model.views(pixels, pixels, POSITION)
    assert isinstance(model.measure, Contrasting)
    predicted = model.measure.predictor(model.online(a).patches)
    cosine = torch.cosine_similarity(predicted, model.target(b).patches, dim=2)
    assert torch.allclose(loss_of(model), (2 - 2 * cosine).mean(), atol=1e-5)


@pytest.mark.parametrize("stop", [False, True])
def test_a_twins_gradient_flows_through_both_views_unless_stopped(stop: bool) -> None:
    """Without the autoencoder's term, a stopped twin gives the gradient of the first view alone."""
    twin = {"method.target.stop_gradient": stop, "method.measure.penalty": 0.0}
    model = built("rmae", **twin)
    loss_of(model).backward()
    weight = model.online.get_parameter("encoder.blocks.0.mlp.fc1.weight")
    assert weight.grad is not None
    got = weight.grad.clone()
    model.zero_grad()
    pixels = model.normalise(CROPS[0])
    a, b = model.views(pixels, pixels, POSITION)
    assert a.hiding is not None
    assert isinstance(model.measure, Relaxation)
    decode, hidden = model.measure.head, a.hiding.hidden
    first, second = decode([model.online(a)], hidden)[0], decode([model.online(b)], hidden)[0]
    (first - (second.detach() if stop else second)).square().mean().backward()
    assert torch.allclose(got, weight.grad, atol=1e-6)
