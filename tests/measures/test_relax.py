"""Eq. 8 of Kong & Zhang, patch by patch."""

from collections.abc import Mapping
from math import isfinite, sqrt
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mim_ray.errors import Mistake
from mim_ray.methods import resolved

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, PATCH, ACROSS = 16, 4, 4


def built(name: str, changes: Mapping[str, object]) -> Any:
    """A model in double precision, its weights far from where they start, so that no term is small by accident."""
    torch.manual_seed(0)
    run = resolved(name, {"encoder": "micro", "data.crop.size": (SIDE, SIDE), **changes})
    model = run.method.build((SIDE, SIDE), seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.double()


def pictures(count: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 200, (count, 3, SIDE // 4, SIDE // 4), generator=draw)
    fine = torch.randint(0, 56, (count, 3, SIDE, SIDE), generator=draw)
    return (coarse.repeat_interleave(4, 2).repeat_interleave(4, 3) + fine).byte()


def normalised(crops: Tensor) -> Tensor:
    channels = [(crops[:, c].double() / 255 - MEAN[c]) / STD[c] for c in range(3)]
    return torch.stack(channels, dim=1)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def assert_same(model: Any, measured: Tensor, oracle: Tensor) -> None:
    """The same value and the same gradient of every weight."""
    assert measured.item() == pytest.approx(oracle.item(), rel=1e-5, abs=1e-7)
    got, wanted = gradients(model, measured), gradients(model, oracle)
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    assert (largest > 0) == (oracle.item() > 0)
    for name, gradient in wanted.items():
        apart = (got[name] - gradient).abs().max().item()
        assert apart <= 1e-4 * gradient.abs().max().item() + 1e-6 * largest, name


def target_patch(image: list[Any], n: int, normalise: bool) -> Tensor:
    """The pixels of patch n, row by row, the channels of a pixel side by side."""
    top, left = n // ACROSS * PATCH, n % ACROSS * PATCH
    found = [image[c][top + y][left + x] for y in range(PATCH) for x in range(PATCH) for c in range(3)]
    if normalise:
        mean = sum(found) / len(found)
        variance = sum((value - mean) ** 2 for value in found) / (len(found) - 1)
        found = [(value - mean) / sqrt(variance + 1e-6) for value in found]
    return torch.tensor(found, dtype=torch.float64)


class Terms(NamedTuple):
    distance: Tensor
    autoencoder: Tensor


def slow_terms(
    first: Tensor,
    second: Tensor,
    x: Tensor,
    scored: list[list[bool]],
    *,
    normalise: bool = True,
    fixed: bool = False,
) -> Terms:
    """Both terms of Eq. 8 from the two decodings (B, N, pixels); a picture that scores nothing counts zero."""
    nothing = 0 * (first.sum() + second.sum())
    distances, autoencoders = [], []
    for i, image in enumerate(x.tolist()):
        apart, kept, patches = nothing, nothing, sum(scored[i])
        for n in range(ACROSS * ACROSS):
            if not scored[i][n]:
                continue
            one, two, true = first[i, n], second[i, n], target_patch(image, n, normalise)
            apart = apart + ((one - (two.detach() if fixed else two)) ** 2).sum() / (PATCH * PATCH * 3)
            kept = kept + ((two - true) ** 2).sum() / (PATCH * PATCH * 3)
        distances.append(apart / patches if patches else nothing)
        autoencoders.append(kept / patches if patches else nothing)
    return Terms(sum(distances, nothing) / len(x), sum(autoencoders, nothing) / len(x))


def scored_by(a: Any, b: Any, count: int) -> list[list[bool]]:
    """Hidden in the first view and shown in the second; all, where the first hides nothing."""
    patches = range(ACROSS * ACROSS)
    if a.hiding is None:
        return [[True for _ in patches] for _ in range(count)]
    hidden = a.hiding.mask.tolist()
    missing = b.hiding.mask.tolist() if b.hiding else [[False for _ in patches] for _ in range(count)]
    return [[hidden[i][n] and not missing[i][n] for n in patches] for i in range(count)]


def decoded(model: Any, view: Any, second: bool = False) -> Tensor:
    """Every patch of a view by a pass of its own through f and d, or d' where it is another."""
    head = model.measure.second if second and model.measure.second is not None else model.measure.head
    painted: Tensor = head([model.online.encoder(view)], None)[0]
    return painted


def slow_eq_8(model: Any, crops: Tensor, position: Tensor, λ: float, **how: bool) -> Tensor:
    x = normalised(crops)
    a, b = model.views(x, x, position)
    scored = scored_by(a, b, len(x))
    terms = slow_terms(decoded(model, a), decoded(model, b, second=True), x, scored, **how)
    return terms.distance + λ * terms.autoencoder


@pytest.mark.parametrize("λ", [0, 0.5, 1])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("name", ["rmae", "rmae_25", "rmae_0"])
def test_eq_8_is_written_slowly(name: str, separate: bool, λ: float) -> None:
    model = built(name, {"method.measure.penalty": λ, "method.measure.separate": separate})
    assert (model.measure.second is None) == (not separate)
    crops, position = pictures(2), torch.arange(3, 5)
    measured = model((crops,), position)
    assert_same(model, measured.loss, slow_eq_8(model, crops, position, λ))
    parts = measured.parts
    assert measured.loss.item() == pytest.approx((parts["distance"] + λ * parts["autoencoder"]).item())


def test_a_picture_that_scores_nothing_counts_zero_and_the_others_by_their_own_number() -> None:
    changes = {"method.t1.mask.ratio": 2 / 16, "method.t2.mask.ratio": 0.75}
    model, crops, position = built("rmae_25", changes), pictures(6), torch.arange(6)
    x = normalised(crops)
    a, b = model.views(x, x, position)
    assert {sum(row) for row in scored_by(a, b, 6)} >= {0, 1}
    assert_same(model, model((crops,), position).loss, slow_eq_8(model, crops, position, 1))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("separate", [False, True])
def test_a_stopped_second_decoding_is_a_constant_in_the_distance_alone(normalise: bool, separate: bool) -> None:
    model = built("rmae", {
        "method.target.stop_gradient": True, "method.measure.penalty": 0.5,
        "method.measure.normalise": normalise, "method.measure.separate": separate,
    })  # fmt: skip
    crops, position = pictures(2), torch.arange(2)
    oracle = slow_eq_8(model, crops, position, 0.5, fixed=True, normalise=normalise)
    assert_same(model, model((crops,), position).loss, oracle)


def test_an_averaged_target_gets_no_gradient_and_its_decoding_does() -> None:
    model, crops, position = built("rmae", {"method.target": "ema"}), pictures(2), torch.arange(2)
    x = normalised(crops)
    a, b = model.views(x, x, position)
    with torch.no_grad():
        tokens = model.target.encoder(b)
    terms = slow_terms(decoded(model, a), model.measure.head([tokens], None)[0], x, scored_by(a, b, 2))
    assert_same(model, model((crops,), position).loss, terms.distance + terms.autoencoder)
    assert not any(weight.requires_grad for weight in model.target.parameters())


@pytest.mark.parametrize("name", ["rmae", "rmae_25"])
@pytest.mark.parametrize("separate", [False, True])
def test_a_symmetric_loss_adds_the_one_with_the_views_exchanged(name: str, separate: bool) -> None:
    model = built(name, {"method.symmetric": True, "method.measure.separate": separate})
    crops, position = pictures(2), torch.arange(2)
    x = normalised(crops)
    a, b = model.views(x, x, position)
    there = slow_terms(decoded(model, a), decoded(model, b, second=True), x, scored_by(a, b, 2))
    back = slow_terms(decoded(model, b), decoded(model, a, second=True), x, scored_by(b, a, 2))
    assert_same(model, model((crops,), position).loss, sum(there) + sum(back))  # type: ignore[arg-type]


@pytest.mark.parametrize("hidden", ["replace", "add"])
def test_mask_tokens_and_a_linear_head_are_compared_alike(hidden: str) -> None:
    micro = {"encoder": None, "method.encoder.size": "micro", "method.encoder.patch": 4}
    model = built("rmae", micro | {"method.encoder.hidden": hidden, "method.measure.head": "linear"})
    crops, position = pictures(2), torch.arange(2)
    assert_same(model, model((crops,), position).loss, slow_eq_8(model, crops, position, 1))


@pytest.mark.parametrize(
    ("name", "ratio"),
    [("rmae_25", 0), *((name, ratio) for name in ("rmae", "rmae_25", "rmae_0") for ratio in (1 / 16, 15 / 16))],
)
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_hidden_or_one_patch_hidden_or_one_shown_is_still_eq_8(
    name: str, ratio: float, count: int
) -> None:
    model, crops, position = built(name, {"method.t1.mask.ratio": ratio}), pictures(count), torch.arange(count)
    loss = model((crops,), position).loss
    assert isfinite(loss.item())
    assert_same(model, loss, slow_eq_8(model, crops, position, 1))


@pytest.mark.parametrize("ratio", [0.99, 0.9999999])
@pytest.mark.parametrize("view", ["t1", "t2"])
def test_a_ratio_that_leaves_nothing_to_see_is_refused(view: str, ratio: float) -> None:
    with pytest.raises(Mistake, match=f"{view}.mask.ratio="):
        built("rmae_25", {f"method.{view}.mask.ratio": ratio})


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_first_view_that_hides_nothing_beside_a_second_that_does_is_eq_8_or_refused(symmetric: bool) -> None:
    changes = {"method.t1.mask": "none", "method.symmetric": symmetric}
    try:
        model = built("rmae_25", changes)
    except Mistake:
        return
    crops, position = pictures(2), torch.arange(2)
    assert isfinite(model((crops,), position).loss.item())
    if not symmetric:
        assert_same(model, model((crops,), position).loss, slow_eq_8(model, crops, position, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"method.t2.colour": "on", "method.t2.colour.chance": 1.0},
        {"method.encoder.hidden": "replace", "method.t1.fill": "mean", "method.t2.fill": "mean"},
    ],
)
def test_the_second_decoding_is_held_to_the_picture_itself(changes: Mapping[str, object]) -> None:
    """Not to what a transformation made of it: x in Eq. 8 is the picture."""
    model = built("rmae", {"method.measure.normalise": False, **changes})
    crops, position = pictures(2), torch.arange(2)
    a, b, _ = model.prepared((crops,), position)
    assert not torch.equal(b.pixels, b.picture)
    torch.testing.assert_close(b.picture, normalised(crops).to(b.picture.dtype), rtol=1e-5, atol=1e-5)
    plain = model.measure(*model.online.pair(a, b), a, b).parts["autoencoder"]
    moved = b._replace(source=b.picture + 0.5)
    assert model.measure(*model.online.pair(a, b), a, moved).parts["autoencoder"] != plain
    same = b._replace(pixels=b.pixels + 0.5)
    assert model.measure(*model.online.pair(a, b), a, same).parts["autoencoder"] == plain
