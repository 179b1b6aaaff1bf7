"""Crops: torchvision's distribution, drawn from hashes."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from mim_ray.transforms.crop import CenterCrop, RandomCrop

N = 20_000


def windows(crop: RandomCrop | CenterCrop, h: int, w: int, n: int = N, view: int = 0, seed: int = 0) -> np.ndarray:
    return crop.windows(seed, view, np.arange(n), np.full(n, h), np.full(n, w))


@pytest.mark.parametrize(("h", "w"), [(375, 500), (256, 170), (224, 224), (40, 200)])
def test_windows_are_distributed_as_torchvisions(h: int, w: int) -> None:
    crop = RandomCrop(scale=(0.2, 1.0))
    ours = windows(crop, h, w).astype(float)
    torch.manual_seed(0)
    picture = torch.empty(3, h, w)
    theirs = np.array(
        [RandomResizedCrop.get_params(picture, list(crop.scale), list(crop.ratio)) for _ in range(N // 5)],
        float,
    )
    for name, a, b in (
        ("top", ours[:, 0], theirs[:, 0]),
        ("left", ours[:, 1], theirs[:, 1]),
        ("area", ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]),
        ("aspect", ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]),
    ):
        assert largest_gap(a, b) < 1.95 * np.sqrt(1 / len(a) + 1 / len(b)), name  # Kolmogorov–Smirnov, p = 0.001


def largest_gap(a: np.ndarray, b: np.ndarray) -> float:
    at = np.concatenate([a, b])
    cumulative = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return float(np.abs(cumulative[0] - cumulative[1]).max())


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 500), (30_000, 7), (2, 3)])
def test_every_window_lies_inside_its_picture(h: int, w: int) -> None:
    for crop in (RandomCrop(), CenterCrop(), CenterCrop(size=(10, 30), share=1.0)):
        top, left, high, wide, _ = windows(crop, h, w, 500).T
        assert (high > 0).all()
        assert (wide > 0).all()
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + high <= h).all()
        assert (left + wide <= w).all()


def test_views_seeds_and_visits_draw_apart() -> None:
    crop = RandomCrop()
    base = windows(crop, 300, 300, 100)
    assert (base == windows(crop, 300, 300, 100)).all()
    assert (base != windows(crop, 300, 300, 100, view=1)).any(axis=1).mean() > 0.95
    assert (base != windows(crop, 300, 300, 100, seed=1)).any(axis=1).mean() > 0.95
    assert len(np.unique(base[:, :4], axis=0)) > 95


def test_half_of_the_crops_are_mirrored() -> None:
    assert abs(windows(RandomCrop(), 300, 300)[:, 4].mean() - 0.5) < 0.02
    assert not windows(RandomCrop(flip=0.0), 300, 300)[:, 4].any()


@pytest.mark.parametrize("ratio", [(0.0, 1.0), (-1.0, 1.0), (1.0, float("inf"))])
def test_shapes_that_are_none_are_refused(ratio: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="ratio"):
        RandomCrop(ratio=ratio)


def test_the_centre_crop_is_the_224_of_256() -> None:
    assert windows(CenterCrop(), 256, 341, 1).tolist() == [[16, 58, 224, 224, 0]]


def test_draws_are_the_same_for_ever() -> None:
    """A promise, as in the sample order: resuming must give the same crops under any later version."""
    assert windows(RandomCrop(), 300, 400, 2, seed=7).tolist() == PROMISED


PROMISED = [[87, 54, 175, 219, 1], [43, 65, 257, 289, 1]]
