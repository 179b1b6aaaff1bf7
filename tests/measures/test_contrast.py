"""Eq. 9–11 of Kong & Zhang and MoCo v3, token by token."""

from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mim_ray.errors import Mistake
from mim_ray.measures import infonce
from mim_ray.methods import resolved

CLASS = -1
"""The place of the class token, or of the mean, beside those of the patches."""
Rows = list[dict[int, Tensor]]  # for each picture the vectors that it has, by place
DRAWN_APART = {
    "method.encoder.hidden": "drop", "method.t1.mask.ratio": 0.75,
    "method.t2.mask": "random", "method.t2.mask.ratio": 0.75,
}  # fmt: skip

SMALL_MOCO = {
    "method.t1.colour.blur": 0, "method.t2.colour.blur": 0,
    "method.measure.projector.hidden": 64, "method.measure.predictor.hidden": 64,
}  # fmt: skip
"""Without the blur, which single precision draws and pixels in double precision do not take."""


def built(name: str, changes: Mapping[str, object], side: int = 16) -> Any:
    """A model in double precision, its weights far from where they start, and the target's from the encoder's."""
    torch.manual_seed(0)
    run = resolved(name, {"encoder": "micro", "data.crop.size": (side, side), **changes})
    model = run.method.build((side, side), seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.double()


def pictures(count: int, side: int = 16, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 200, (count, 3, side // 4, side // 4), generator=draw)
    fine = torch.randint(0, 56, (count, 3, side, side), generator=draw)
    return (coarse.repeat_interleave(4, 2).repeat_interleave(4, 3) + fine).byte()


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def assert_same(model: Any, measured: Tensor, oracle: Tensor) -> None:
    """The same value and the same gradient of every weight."""
    assert measured.item() == pytest.approx(oracle.item(), rel=2e-6, abs=1e-6)
    assert_same_gradients(gradients(model, measured), gradients(model, oracle))


def assert_same_gradients(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    assert largest > 0
    for name, gradient in wanted.items():
        apart = (got[name] - gradient).abs().max().item()
        assert apart <= 1e-4 * gradient.abs().max().item() + 2e-6 * largest, name


def through(mlp: Any, rows: Tensor) -> Tensor:
    """Rows through a projector or predictor, batch norms written out: they are in training."""
    for layer in mlp if isinstance(mlp, nn.Sequential) else []:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            mean = sum(rows) / len(rows)
            variance = sum((row - mean) ** 2 for row in rows) / len(rows)
            rows = (rows - mean) / (variance + 1e-5).sqrt()
            rows = rows if layer.weight is None else rows * layer.weight + layer.bias
        else:
            rows = layer(rows)
    return rows


def rows_of(mlp: Any, features: Rows) -> Rows:
    """Each vector through an MLP; those of all pictures together, for the batch norms' sake."""
    places = [(i, place) for i, row in enumerate(features) for place in row]
    made = through(mlp, torch.stack([features[i][place] for i, place in places]))
    found: Rows = [{} for _ in features]
    for (i, place), vector in zip(places, made, strict=True):
        found[i][place] = vector
    return found


def projected(branch: Any, view: Any, by: str) -> Rows:
    """p(f(view)): what is compared, by picture and place."""
    tokens = branch.encoder(view)
    features: Rows = []
    for i in range(len(view.pixels)):
        numbers = range(tokens.patches.shape[1]) if tokens.kept is None else tokens.kept[i].tolist()
        row = dict(zip(numbers, tokens.patches[i], strict=True)) if "token" in by else {}
        if by == "mean":
            row[CLASS] = sum(tokens.patches[i]) / len(tokens.patches[i])
        if "class" in by:
            row[CLASS] = tokens.pooled[i]
        features.append(row)
    return rows_of(branch.projection.mlp, features)


def unit(rows: Rows) -> Rows:
    """Vectors of length 1, whose products are cosines."""
    return [{place: v / (v * v).sum().sqrt() for place, v in row.items()} for row in rows]


def slow_loss(q: Rows, k: Rows, loss: str, τ: float, negatives: str) -> Tensor:
    """The mean over the places that both views of a picture have, then over pictures; none counts zero."""
    q, k = unit(q), unit(k)
    total = torch.stack([0 * vector.sum() for row in q for vector in row.values()]).sum()
    for i, row in enumerate(q):
        terms = []
        for place, query in row.items():
            if place not in k[i]:
                continue
            right = query @ k[i][place]
            if loss == "byol":
                terms.append(2 - 2 * right)
                continue
            candidates = [other[p] for other in k for p in other if p == place or negatives == "all"]
            odds = sum((query @ candidate / τ).exp() for candidate in candidates)
            terms.append(-((right / τ).exp() / odds).log())
        total = total + (torch.stack(terms).mean() if terms else 0)
    return total / len(q)


def one_way(model: Any, a: Any, b: Any) -> Tensor:
    """Eq. 11: the first view, projected and predicted, against the target's projection of the second."""
    spec = model.method.measure
    q = rows_of(model.measure.predictor, projected(model.online, a, spec.by))
    if model.target is None:
        k = projected(model.online, b, spec.by)
        if model.method.target.stop_gradient:
            k = [{place: vector.detach() for place, vector in row.items()} for row in k]
    else:
        with torch.no_grad():
            k = projected(model.target, b, spec.by)
    return slow_loss(q, k, spec.loss, spec.temperature, spec.negatives)


def slow_eq_11(model: Any, crops: Tensor, position: Tensor) -> Tensor:
    x = model.normalise(crops)
    a, b = model.views(x, x, position)
    there = one_way(model, a, b)
    return there + one_way(model, b, a) if model.method.symmetric else there


def check(name: str, changes: Mapping[str, object], count: int = 3, side: int = 16) -> Any:
    model, crops, position = built(name, changes, side), pictures(count, side), torch.arange(4, 4 + count)
    assert_same(model, model((crops,), position).loss, slow_eq_11(model, crops, position))
    return model


HOW: list[tuple[dict[str, object], str]] = [({}, by) for by in ("token", "class", "mean", "token+class")]
HOW += [({"method.measure.loss": "byol"}, by) for _, by in HOW]
HOW += [({"method.measure.negatives": "all"}, by) for by in ("token", "token+class")]


@pytest.mark.parametrize(("how", "by"), HOW, ids=str)
def test_eq_11_is_written_slowly(by: str, how: Mapping[str, object]) -> None:
    check("cmae", {"method.measure.by": by, **how})


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("negatives", ["position", "all"])
def test_similarities_are_divided_by_the_temperature(temperature: float, negatives: str) -> None:
    check("cmae", {"method.measure.temperature": temperature, "method.measure.negatives": negatives})


@pytest.mark.parametrize(("how", "by"), [each for each in HOW if each[1] != "class"], ids=str)
def test_dropped_patches_are_neither_asked_nor_averaged(by: str, how: Mapping[str, object]) -> None:
    check("cmae_no_mask_token", {"method.measure.by": by, **how})


@pytest.mark.parametrize("by", ["token", "token+class"])
@pytest.mark.parametrize(
    "how", [{}, {"method.measure.negatives": "all"}, {"method.measure.loss": "byol"}], ids=str
)
def test_places_that_one_view_lacks_are_neither_asked_nor_offered(by: str, how: Mapping[str, object]) -> None:
    model = check("cmae", {**DRAWN_APART, "method.measure.by": by, **how}, count=6)
    x = model.normalise(pictures(6))
    a, b = model.views(x, x, torch.arange(4, 10))
    common = (~a.hiding.mask & ~b.hiding.mask).sum(1).tolist()
    assert 0 in common
    assert max(common) > 1


@pytest.mark.parametrize(
    "changes", [{}, {"method.measure.by": "class"}, DRAWN_APART], ids=["token", "class", "apart"]
)
@pytest.mark.parametrize("loss", ["infonce", "byol"])
def test_a_symmetric_loss_adds_the_one_with_the_views_exchanged(changes: Mapping[str, object], loss: str) -> None:
    check("cmae", {**changes, "method.symmetric": True, "method.measure.loss": loss}, count=4)


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_twin_is_trained_from_both_sides_unless_it_is_stopped(stop: bool, symmetric: bool) -> None:
    check("cmae", {"method.target": "twin", "method.target.stop_gradient": stop, "method.symmetric": symmetric})


@pytest.mark.parametrize("stop", [False, True])
def test_a_stopped_twin_keeps_nothing_of_its_second_view(stop: bool) -> None:
    kept: list[bool] = []
    model = built("cmae", {"method.target": "twin", "method.target.stop_gradient": stop})
    model.online.projection.register_forward_hook(lambda *said: kept.append(said[2].patches.requires_grad))
    model((pictures(3),), torch.arange(3))
    assert kept == [not stop, True]


def test_the_cells_of_a_cnn_are_its_tokens() -> None:
    check("cmae", {"encoder": "resnet-micro", "method.measure.by": "token+class"}, side=32)


def test_without_a_predictor_the_projection_itself_is_compared() -> None:
    micro = {"encoder": None, "method.encoder.size": "micro", "method.encoder.patch": 4}
    assert check("cmae", {**micro, "method.measure.predictor": "none"}).method.measure.predictor is None


@pytest.mark.parametrize("loss", ["infonce", "byol"])
def test_a_batch_norm_sees_only_the_patches_that_are_there(loss: str) -> None:
    norms = {"method.measure.projector.norm": "hidden", "method.measure.predictor.norm": "hidden"}
    check("cmae_no_mask_token", {**norms, "method.measure.loss": loss})


@pytest.mark.parametrize("negatives", ["position", "all"])
@pytest.mark.parametrize("changes", [{}, {**DRAWN_APART, "method.measure.by": "token+class"}], ids=["all", "some"])
@pytest.mark.parametrize("positions", [1, 3])
def test_a_few_positions_at_a_time_are_the_same_as_all_at_once(
    negatives: str, changes: Mapping[str, object], positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built("cmae", {**changes, "method.measure.negatives": negatives})
    crops, position = pictures(5), torch.arange(5)
    at_once, places = model((crops,), position).loss, 17 if changes else 16
    wanted = gradients(model, at_once)
    name = "_same_position" if negatives == "position" else "_all_positions"
    inner, calls = getattr(infonce, name), []

    def counted(*given: Any) -> Any:
        calls.append(given)
        return inner(*given)

    monkeypatch.setattr(infonce, "LIMIT", positions * 25 * (1 if negatives == "position" else places) + 1)
    monkeypatch.setattr(infonce, name, counted)
    chunked = model((crops,), position).loss
    assert len(calls) == -(-places // positions)
    assert chunked.item() == pytest.approx(at_once.item(), rel=1e-6)
    assert_same_gradients(gradients(model, chunked), wanted)


class Largest(TorchDispatchMode):
    """Remembers how many similarities were ever looked at together."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.similarities = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.logsumexp.default:
            self.similarities = max(self.similarities, args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("negatives", ["position", "all"])
@pytest.mark.parametrize("changes", [{}, {**DRAWN_APART, "method.measure.by": "token+class"}], ids=["all", "some"])
@pytest.mark.parametrize("pictures_at_once", [1, 2])
def test_no_more_similarities_than_the_limit_exist_at_once(
    negatives: str, changes: Mapping[str, object], pictures_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even those of one position of all pictures, forward or backward, and the loss is still Eq. 11."""
    candidates = 5 if negatives == "position" else 5 * (17 if changes else 16)
    limit = candidates * pictures_at_once + 1
    monkeypatch.setattr(infonce, "LIMIT", limit)
    with Largest() as largest:
        check("cmae", {**changes, "method.measure.negatives": negatives}, count=5)
    assert largest.similarities == candidates * pictures_at_once


@pytest.mark.parametrize("encoder", ["micro", "resnet-micro"])
@pytest.mark.parametrize("name", ["mocov3", "byol"])
def test_moco_v3_sums_both_directions_times_twice_the_temperature(encoder: str, name: str) -> None:
    τ = 0.3
    sharply = {"method.measure.temperature": τ} if name == "mocov3" else {}
    model = built(name, {"encoder": encoder, **sharply, **SMALL_MOCO}, 32)
    crops, position = (pictures(4, 32), pictures(4, 32, seed=2)), torch.arange(4)
    a, b = model.views(model.normalise(crops[0]), model.normalise(crops[1]), position)
    assert any("BatchNorm" in type(layer).__name__ for layer in model.measure.predictor)
    oracle = one_way(model, a, b) + one_way(model, b, a)
    oracle = oracle * 2 * τ if name == "mocov3" else oracle
    assert_same(model, model(crops, position).loss, oracle)
    assert all(p.grad is None or not n.startswith("target") for n, p in model.named_parameters())


@pytest.mark.parametrize("name", ["cmae", "cmae_no_mask_token", "cmae_byol", "cmae_mean", "cmae_class"])
@pytest.mark.parametrize("ratio", [0, 1 / 16, 15 / 16])
def test_nothing_hidden_or_one_patch_hidden_or_one_shown_is_still_eq_11(name: str, ratio: float) -> None:
    check(name, {"method.t1.mask.ratio": ratio}, count=2)


@pytest.mark.parametrize("name", ["cmae", "cmae_no_mask_token", "cmae_byol"])
def test_a_picture_alone_has_only_the_right_answer_or_is_refused(name: str) -> None:
    model = built(name, {})
    loss = model((pictures(1),), torch.arange(1)).loss.item()
    assert isfinite(loss)
    assert (abs(loss) < 1e-6) == (name != "cmae_byol")


@pytest.mark.parametrize("together", [False, True])
def test_a_worker_finds_its_own_pictures_among_all(together: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k = nn.functional.normalize(torch.randn(2, 6, 3, 4, generator=draw), dim=3)
    offered = torch.rand(6, 3, generator=draw) < 0.8
    all_of_them = infonce.info_nce(q, k, offered, temperature=0.2, first=0, same_position=not together)
    mine = infonce.info_nce(q[2:4], k, offered, temperature=0.2, first=2, same_position=not together)
    assert torch.allclose(mine, all_of_them[2:4])


def test_a_batch_of_one_under_batch_norm_is_finite_or_refused_in_words() -> None:
    model = built("mocov3", SMALL_MOCO, 32)
    crops = (pictures(1, 32),) * 2
    with suppress(Mistake):
        assert isfinite(model(crops, torch.arange(1)).loss.item())


@pytest.mark.parametrize("name", ["cmae", "cmae_no_mask_token"])
def test_a_first_view_that_hides_nothing_beside_a_second_that_does_is_eq_11_or_refused(name: str) -> None:
    changes = {"method.t1.mask": "none", "method.t2.mask": "random"}
    try:
        built(name, changes)
    except Mistake:
        return
    check(name, changes)
