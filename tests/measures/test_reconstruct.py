"""Eq. 3 of Kong & Zhang and SimMIM's masked L1, pixel by pixel."""

from collections.abc import Mapping
from math import exp, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from mim_ray.errors import Mistake
from mim_ray.methods import resolved

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = (16, 16)
CELLS_OF_ANOTHER_SIZE = {
    "encoder": "resnet-micro", "method.encoder.patch": 16,
    "method.t1.mask.block": 16, "method.t1.mask.ratio": 0.25,
}  # fmt: skip
PATCHES_SMALLER_THAN_CELLS = CELLS_OF_ANOTHER_SIZE | {"method.encoder.stem": "standard", "method.encoder.at": 1}


def built(name: str, changes: Mapping[str, object], size: tuple[int, int] = SMALL) -> Any:
    """A model in double precision, its weights far from where they start, so that no term is small by accident."""
    torch.manual_seed(0)
    run = resolved(name, {"encoder": "micro", "data.crop.size": size, **changes})
    model = run.method.build(size, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.double()


def pictures(count: int, size: tuple[int, int] = SMALL) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 200, (count, 3, size[0] // 4, size[1] // 4), generator=draw)
    fine = torch.randint(0, 56, (count, 3, *size), generator=draw)
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
    assert largest > 0
    for name, gradient in wanted.items():
        apart = (got[name] - gradient).abs().max().item()
        assert apart <= 1e-4 * gradient.abs().max().item() + 1e-6 * largest, name


def target_patch(image: list[Any], top: int, left: int, side: int, normalise: bool, floor: float) -> list[float]:
    """The pixels of a patch, row by row, the channels of a pixel side by side."""
    found = [image[c][top + y][left + x] for y in range(side) for x in range(side) for c in range(3)]
    if not normalise:
        return found
    mean = sum(found) / len(found)
    variance = sum((value - mean) ** 2 for value in found) / (len(found) - 1)
    return [(value - mean) / sqrt(variance + floor) for value in found]


def penalty(difference: Tensor, error: str) -> Tensor:
    if error == "l2":
        return difference * difference
    size = difference if difference.item() > 0 else -difference
    if error == "l1":
        return size
    return size * (2 / (1 + (-0.2 * size).exp()) - 1)


def slow_error(
    painted: Tensor,
    cell: int,
    x: Tensor,
    scored: list[list[bool]],
    side: int,
    *,
    normalise: bool,
    error: str,
    floor: float = 1e-6,
) -> Tensor:
    """`painted` (B, cells, pixels of a cell), `scored` by picture and patch; a picture without any counts zero."""
    height, width = x.shape[2:]
    columns, values = width // cell, painted.flatten().unbind()
    terms = []
    for i, image in enumerate(x.tolist()):
        patches = []
        for n, counts in enumerate(scored[i]):
            if not counts:
                continue
            top, left = n // (width // side) * side, n % (width // side) * side
            total, true = (
                torch.zeros((), dtype=torch.float64),
                iter(target_patch(image, top, left, side, normalise, floor)),
            )
            for row in range(top, top + side):
                for column in range(left, left + side):
                    number = row // cell * columns + column // cell
                    place = (row % cell * cell + column % cell) * 3
                    start = (i * (height // cell) * columns + number) * cell * cell * 3 + place
                    for channel in range(3):
                        total = total + penalty(values[start + channel] - next(true), error)
            patches.append(total / (side * side * 3))
        terms.append(torch.stack(patches).mean() if patches else torch.zeros((), dtype=torch.float64))
    return torch.stack(terms).mean()


def scored_by(a: Any, b: Any, count: int, patches: int) -> list[list[bool]]:
    """Hidden in the first view and shown in the second; all, where the first hides nothing."""
    if a.hiding is None:
        return [[True] * patches for _ in range(count)]
    hidden = a.hiding.mask.tolist()
    missing = b.hiding.mask.tolist() if b.hiding else [[False] * patches for _ in range(count)]
    return [[hidden[i][n] and not missing[i][n] for n in range(patches)] for i in range(count)]


def slow_mae(model: Any, crops: Tensor, position: Tensor, normalise: bool, floor: float = 1e-6) -> Tensor:
    x = normalised(crops)
    a, b = model.views(x, x, position)
    painted = model.measure.head([model.online.encoder(a)], None)[0]
    scored = scored_by(a, b, len(x), 16)
    return slow_error(painted, 4, x, scored, 4, normalise=normalise, error="l2", floor=floor)


def slow_simmim(model: Any, crops: Tensor, position: Tensor, side: int, error: str = "l1") -> Tensor:
    x = normalised(crops)
    a, b = model.views(x, x, position)
    tokens, cells = model.online.encoder(a).patches, model.online.encoder.cells
    assert tokens.shape[1] == cells.rows * cells.columns
    scored = scored_by(a, b, len(x), (x.shape[2] // side) * (x.shape[3] // side))
    painted = model.measure.head.predict(tokens)
    return slow_error(painted, cells.patch, x, scored, side, normalise=False, error=error)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("ratio", [0.75, 0.5])
def test_eq_3_is_the_mean_over_hidden_patches_written_slowly(normalise: bool, ratio: float) -> None:
    model = built("mae", {"method.measure.normalise": normalise, "method.t1.mask.ratio": ratio})
    crops, position = pictures(2), torch.arange(5, 7)
    loss = model((crops,), position).loss
    assert_same(model, loss, slow_mae(model, crops, position, normalise))


@pytest.mark.parametrize(
    ("first", "second"),
    [(0.75, {"method.t2.mask": "none"}), (0.5, {"method.t2.mask": "random", "method.t2.mask.ratio": 0.25}),
     (1 / 16, {"method.t2.mask": "random", "method.t2.mask.ratio": 0.5})],
)  # fmt: skip
def test_what_the_second_view_hides_is_not_scored(first: float, second: Mapping[str, object]) -> None:
    model, crops, position = built("mae", {"method.t1.mask.ratio": first, **second}), pictures(4), torch.arange(4)
    a, b = model.views(normalised(crops), normalised(crops), position)
    counts = [sum(row) for row in scored_by(a, b, 4, 16)]
    assert (0 in counts) == (first < 0.1)
    assert_same(model, model((crops,), position).loss, slow_mae(model, crops, position, True))


def test_the_target_of_jittered_shown_patches_is_not_jittered() -> None:
    model, crops, position = built("mae_jitter_visible", {}), pictures(3), torch.arange(3)
    x = normalised(crops)
    assert not torch.allclose(model.views(x, x, position)[0].pixels, x, atol=0.1)
    assert_same(model, model((crops,), position).loss, slow_mae(model, crops, position, True))


@pytest.mark.parametrize("error", ["l1", "l2", "focal_l1"])
@pytest.mark.parametrize("hidden", ["replace", "add"])
def test_simmim_is_the_mean_over_hidden_pixels_written_slowly(error: str, hidden: str) -> None:
    changes = {"method.measure.error": error, "method.encoder.hidden": hidden}
    model, crops, position = built("simmim", changes, (16, 24)), pictures(2, (16, 24)), torch.arange(2)
    assert_same(model, model((crops,), position).loss, slow_simmim(model, crops, position, 4, error))


def test_focal_l1_is_as_published() -> None:
    for difference in (-3.0, -0.1, 0.2, 5.0):
        wanted = abs(difference) * (2 / (1 + exp(-0.2 * abs(difference))) - 1)
        assert penalty(torch.tensor(difference).double(), "focal_l1").item() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("changes", "size", "side", "cell"),
    [
        ({"encoder": "resnet-micro"}, (32, 32), 8, 8),
        ({"encoder": "resnet-micro", "method.encoder.at": 3, "method.encoder.hidden": "add"}, (32, 48), 8, 8),
        ({"encoder": "resnet-micro", "method.t1.fill": "mean"}, (32, 32), 8, 8),
        (CELLS_OF_ANOTHER_SIZE, (64, 64), 16, 8),
        (PATCHES_SMALLER_THAN_CELLS, (64, 64), 16, 32),
    ],
)
def test_simmim_of_a_cnn_paints_a_picture_cell_by_cell(
    changes: Mapping[str, object], size: tuple[int, int], side: int, cell: int
) -> None:
    model, crops, position = built("simmim", changes, size), pictures(2, size), torch.arange(2)
    assert model.online.encoder.cells.patch == cell
    assert_same(model, model((crops,), position).loss, slow_simmim(model, crops, position, side))


def test_a_decoder_on_a_cnn_paints_cells_of_another_size_too() -> None:
    model = built("mae", CELLS_OF_ANOTHER_SIZE | {"method.measure.normalise": False}, (64, 64))
    crops, position = pictures(2, (64, 64)), torch.arange(2)
    x = normalised(crops)
    a, b = model.views(x, x, position)
    head = model.measure.head
    tokens = model.online.encoder(a)
    sequence = head.embed(torch.cat([tokens.pooled[:, None], tokens.patches], dim=1)) + head.positions
    for block in head.blocks:
        sequence = block(sequence)
    painted = head.predict(head.norm(sequence[:, 1:]))
    oracle = slow_error(painted, 8, x, scored_by(a, b, 2, 16), 16, normalise=False, error="l2")
    assert_same(model, model((crops,), position).loss, oracle)


@pytest.mark.parametrize("ratio", [0, 1 / 16, 15 / 16])
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_hidden_or_one_patch_hidden_or_one_shown_is_still_eq_3(ratio: float, count: int) -> None:
    model, crops, position = built("mae", {"method.t1.mask.ratio": ratio}), pictures(count), torch.arange(count)
    loss = model((crops,), position).loss
    a, _ = model.views(normalised(crops), normalised(crops), position)
    assert (0 if a.hiding is None else a.hiding.hidden.shape[1]) == round(16 * ratio)
    assert_same(model, loss, slow_mae(model, crops, position, True))


@pytest.mark.parametrize("name", ["mae", "simmim", "a2mim"])
@pytest.mark.parametrize("ratio", [0.99, 0.9999999])
def test_a_ratio_that_leaves_nothing_to_see_is_refused(name: str, ratio: float) -> None:
    with pytest.raises(Mistake, match="ratio="):
        built(name, {"method.t1.mask.ratio": ratio})


@pytest.mark.parametrize("floor", [1e-6, 1e-2, 1.0])
def test_a_patch_s_variance_is_normalised_above_its_floor(floor: float) -> None:
    model, crops = built("mae", {"method.measure.floor": floor}), 100 + pictures(2) // 32  # nearly flat
    position = torch.arange(2)
    assert_same(model, model((crops,), position).loss, slow_mae(model, crops, position, True, floor))


def test_a_picture_of_one_colour_has_a_finite_normalised_target() -> None:
    model, crops = built("mae", {}), torch.full((2, 3, *SMALL), 77, dtype=torch.uint8)
    assert_same(model, model((crops,), torch.arange(2)).loss, slow_mae(model, crops, torch.arange(2), True))
