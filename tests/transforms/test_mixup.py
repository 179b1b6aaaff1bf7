"""Mixup's shares and means; erasing's rectangles and noise; and how they go together with cutmix."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Beta

from mim_ray.draws import Purpose
from mim_ray.errors import Mistake
from mim_ray.transforms.cutmix import CutMix, neighbours
from mim_ray.transforms.erase import Erase, normals
from mim_ray.transforms.keyed import keys
from mim_ray.transforms.mixup import MixUp, beta
from mim_ray.transforms.pixels import Normalise
from mim_ray.transforms.view import Shared

N = 4000


def key_of(count: int, seed: int = 0) -> Tensor:
    return keys(Purpose.MIXUP, seed, 0, torch.arange(count))


def crops(count: int, side: int = 8) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw)


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 2.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    ours = beta(alpha, key_of(N)).double().round(decimals=5)
    torch.manual_seed(0)
    theirs = Beta(torch.tensor(alpha), torch.tensor(alpha)).sample((N,)).double().round(decimals=5)
    at = torch.cat([ours, theirs])
    cumulative = [torch.searchsorted(x.sort().values, at, right=True) / N for x in (ours, theirs)]
    assert (cumulative[0] - cumulative[1]).abs().max() < 1.95 * (2 / N) ** 0.5  # Kolmogorov–Smirnov, p = 0.001


def test_a_mixed_picture_is_the_mean_of_its_pair() -> None:
    x = crops(6)
    (mixed,), share = MixUp()((x,), key_of(6))
    for row in range(6):
        wanted = share[row] * x[row] + (1 - share[row]) * x[row ^ 1]
        assert torch.allclose(mixed[row], wanted)
    assert torch.equal(share[2:4], MixUp()((x[2:4],), key_of(6)[2:4]).share)
    with pytest.raises(Mistake, match="which has 3: expected an even number"):
        MixUp()((crops(3),), key_of(3))


def test_with_both_each_picture_has_one_of_them() -> None:
    x, position = crops(400), torch.arange(400)
    both = Shared(cutmix=CutMix(), mixup=MixUp()).mixed((x,), position, 0)
    cut = Shared(cutmix=CutMix()).mixed((x,), position, 0)
    mean = Shared(mixup=MixUp()).mixed((x,), position, 0)
    assert both
    assert cut
    assert mean
    is_cut = (both.crops[0] == cut.crops[0]).flatten(1).all(1) & (both.share == cut.share)
    is_mean = (both.crops[0] == mean.crops[0]).flatten(1).all(1) & (both.share == mean.share)
    assert (is_cut | is_mean).all()
    assert 0.4 < is_cut.float().mean() < 0.6
    assert Shared().mixed((x,), position, 0) is None
    assert torch.equal(neighbours(position)[:4], torch.tensor([1, 0, 3, 2]))


def test_a_rectangle_of_some_pictures_is_noise() -> None:
    x, normalise = crops(N, 24), Normalise()
    erased = Erase()(x, key_of(N), normalise)
    gone = (erased != x.float()).any(1)
    has = gone.flatten(1).any(1)
    assert has.float().mean().item() == pytest.approx(0.25, abs=0.03)
    area = gone[has].float().mean((1, 2))
    assert 0.01 < area.min() < 0.04
    assert 0.28 < area.max() < 0.37
    for window in gone[has][:200]:
        rows, columns = window.any(1), window.any(0)
        assert torch.equal(window, rows[:, None] & columns)
        assert 0.2 < rows.sum() / columns.sum() < 5
    noise = normalise(erased).permute(0, 2, 3, 1)[gone]
    assert noise.mean(0).abs().max() < 0.02
    assert (noise.std(0) - 1).abs().max() < 0.02
    assert torch.equal(erased[7:9], Erase()(x[7:9], key_of(N)[7:9], normalise))


def test_noise_is_normal_and_different_in_every_picture() -> None:
    found = normals(key_of(20), 5001)
    assert found.shape == (20, 5001)
    assert found.mean().abs() < 0.01
    assert (found.std() - 1).abs() < 0.01
    assert (found.abs() > 3).float().mean().item() == pytest.approx(0.0027, abs=0.0006)
    assert torch.corrcoef(found).fill_diagonal_(0).abs().max() < 0.06
