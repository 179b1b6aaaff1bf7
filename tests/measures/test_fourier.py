"""A²MIM's loss of spectra against numpy's full transform."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mim_ray.measures.fourier import BatchSpectrum, Spectrum
from mim_ray.methods import resolved

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
SHAPES = [(3, 4, 4), (3, 5, 5), (1, 4, 5), (2, 5, 4), (1, 1, 1), (1, 3, 2), (3, 6, 7)]


def drawn(images: int, shape: tuple[int, int, int], seed: int = 0) -> tuple[Array, Array, Mask]:
    """What was painted, the picture, and which pixels were hidden (B, 1, H, W)."""
    draw = np.random.default_rng(seed)
    painted, picture = draw.normal(size=(2, images, *shape))
    return painted, picture, draw.random((images, 1, *shape[1:])) < 0.6


def full(difference: Array) -> NDArray[np.complex128]:
    return np.fft.fft2(difference, norm="ortho")


def slow_spectrum(painted: Array, picture: Array, w: Callable[[Array], Array]) -> float:
    """The mean over images, channels and all frequencies of w · |Δ|."""
    total = 0.0
    for one, true in zip(painted, picture, strict=True):
        for channel in range(len(one)):
            apart: Array = np.abs(full(one[channel] - true[channel]))
            for u, v in np.ndindex(*apart.shape):
                total += float(w(apart)[u, v] * apart[u, v])
    return total / painted.size


def slow_batch(painted: Array, picture: Array, hidden: Mask, leak: float, seen: Array | None = None) -> Array:
    """The mean over the batch of what is scored, less the picture's; `seen`: the prediction held constant."""
    scored = np.where(hidden, 1.0, leak)
    elsewhere = 0.5 * (painted if seen is None else seen) + 0.5 * picture
    mixed = painted * scored + elsewhere * (1 - scored)
    found: Array = mixed.mean(0) - picture.mean(0)
    return found


def slopes(f: Callable[[Array], float], x: Array, step: float = 1e-5) -> Array:
    """The gradient by central differences."""
    found = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        found[place] = (f(up) - f(down)) / (2 * step)
    return found


def measured(spec: Any, painted: Array, picture: Array, hidden: Mask) -> tuple[float, Array]:
    """The value and its gradient in the prediction."""
    x = torch.from_numpy(painted).requires_grad_()
    loss = spec.loss(x, torch.from_numpy(picture), torch.from_numpy(hidden))
    loss.backward()
    assert x.grad is not None
    return loss.item(), x.grad.numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("focused", "alpha"), [(True, 1.0), (True, 2.0), (True, 0.5), (False, 1.0)])
def test_the_half_spectrum_is_numpys_full_one(shape: tuple[int, int, int], focused: bool, alpha: float) -> None:
    painted, picture, hidden = drawn(2, shape)
    value, _ = measured(Spectrum(focused=focused, alpha=alpha), painted, picture, hidden)
    wanted = slow_spectrum(painted, picture, lambda apart: apart**alpha if focused else np.ones_like(apart))
    assert value == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("focused", "alpha"), [(True, 1.0), (True, 2.0), (False, 1.0)])
def test_the_gradient_holds_w_constant_and_stays_in_what_was_hidden(
    shape: tuple[int, int, int], focused: bool, alpha: float
) -> None:
    painted, picture, hidden = drawn(2, shape, seed=3)
    held = np.abs(full(painted - picture)) ** (alpha if focused else 0.0)

    def with_w_held(x: Array) -> float:
        return float((held * np.abs(full(x - picture))).sum() / x.size)

    _, gradient = measured(Spectrum(focused=focused, alpha=alpha), painted, picture, hidden)
    assert gradient == pytest.approx(slopes(with_w_held, painted) * hidden, abs=1e-8)
    assert (gradient[~np.broadcast_to(hidden, gradient.shape)] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_with_w_the_loss_is_the_mean_square_over_all_pixels_by_parseval(shape: tuple[int, int, int]) -> None:
    painted, picture, hidden = drawn(3, shape)
    value, _ = measured(Spectrum(), painted, picture, hidden)
    assert value == pytest.approx(((painted - picture) ** 2).mean(), rel=1e-12)


@pytest.mark.parametrize("focused", [False, True])
def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_images(focused: bool) -> None:
    spec = Spectrum(focused=focused)
    painted, picture, hidden = drawn(5, (3, 6, 7))
    value, gradient = measured(spec, painted, picture, hidden)
    each = [measured(spec, painted[i : i + 1], picture[i : i + 1], hidden[i : i + 1]) for i in range(5)]
    assert value == pytest.approx(np.mean([one for one, _ in each]), rel=1e-12)
    assert gradient * 5 == pytest.approx(np.concatenate([one for _, one in each]), abs=1e-12)


@pytest.mark.parametrize("spec", [Spectrum(), Spectrum(focused=False), Spectrum(alpha=0.5), BatchSpectrum()])
def test_a_perfect_painting_costs_nothing_and_has_a_finite_gradient(spec: Spectrum | BatchSpectrum) -> None:
    painted, _, hidden = drawn(2, (3, 4, 5))
    value, gradient = measured(spec, painted, painted, hidden)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("leak", [0.0, 1e-3, 0.5, 1.0])
def test_the_published_loss_is_of_the_batchs_mean_with_w_held_constant(
    shape: tuple[int, int, int], leak: float
) -> None:
    painted, picture, hidden = drawn(3, shape, seed=5)
    power = np.abs(full(slow_batch(painted, picture, hidden, leak))) ** 2
    w = np.log(1 + np.sqrt(power))
    w = w / w.max()

    def with_w_held(x: Array) -> float:
        now = np.abs(full(slow_batch(x, picture, hidden, leak, seen=painted))) ** 2
        return float((w * now).mean())

    value, gradient = measured(BatchSpectrum(leak=leak), painted, picture, hidden)
    assert value == pytest.approx((w * power).mean(), rel=1e-6)
    assert gradient == pytest.approx(slopes(with_w_held, painted), abs=1e-8)


def painted_picture(cells: Tensor, side: int, rows: int, columns: int) -> Array:
    """(B, cells, pixels of a cell) → (B, 3, H, W), pixel by pixel."""
    found = np.zeros((len(cells), 3, rows * side, columns * side))
    for i, c, y, x in np.ndindex(*found.shape):
        cell = y // side * columns + x // side
        found[i, c, y, x] = cells[i, cell, (y % side * side + x % side) * 3 + c]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method.measure.fourier.weight": 0.0},
        {"method.measure.fourier.focused": False},
        {"method.measure.fourier": "code", "method.measure.fourier.leak": 0.01},
        {"encoder": "resnet-micro"},
        {
            "encoder": "resnet-micro",
            "method.encoder.patch": 16,
            "method.t1.mask.block": 16,
            "method.encoder.at": 2,
        },
    ],
    ids=str,
)
@pytest.mark.parametrize("second", [{}, {"method.t2.mask": "random", "method.t2.mask.ratio": 0.25}], ids=str)
def test_a2mim_adds_the_spectrum_of_the_whole_painting(
    changes: Mapping[str, object], second: Mapping[str, object]
) -> None:
    torch.manual_seed(0)
    model: Any = (
        resolved("a2mim", {"encoder": "micro", **changes, **second}).method.build((32, 32), seed=0).double()
    )
    crops = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    x, position = model.normalise(crops), torch.arange(2)
    a, b = model.views(x, x, position)
    cells, side = model.online.encoder.cells, model.online.encoder.grid.patch
    cells_painted = model.measure.head.predict(model.online.encoder(a).patches).detach()
    painted, picture = painted_picture(cells_painted, *(cells.patch, cells.rows, cells.columns)), x.numpy()
    scored = a.hiding.mask & ~b.hiding.mask if second else a.hiding.mask
    across = 32 // side
    hidden = np.kron(scored.numpy().reshape(2, 1, across, across), np.ones((side, side))).astype(bool)
    spatial = [np.abs(p - t)[:, h[0]].mean() for p, t, h in zip(painted, picture, hidden, strict=True)]
    spec = model.method.measure.fourier
    if isinstance(spec, BatchSpectrum):
        power = np.abs(full(slow_batch(painted, picture, hidden, spec.leak))) ** 2
        w = np.log(1 + np.sqrt(power))
        spectral = float((w / w.max() * power).mean())
    else:
        spectral = slow_spectrum(painted, picture, lambda apart: apart if spec.focused else np.ones_like(apart))
    found = model((crops,), position)
    assert found.parts["reconstruction"].item() == pytest.approx(np.mean(spatial), rel=1e-5)
    assert found.parts["fourier"].item() == pytest.approx(spectral, rel=1e-5)
    assert found.loss.item() == pytest.approx(np.mean(spatial) + spec.weight * spectral, rel=1e-5)
