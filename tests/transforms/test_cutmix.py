"""CutMix: whose pixels are where, what the share says, and how windows are distributed."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from mim_ray.draws import Purpose
from mim_ray.errors import Mistake
from mim_ray.transforms.cutmix import CutMix, neighbours
from mim_ray.transforms.keyed import keys, uniforms

N, HEIGHT, WIDTH = 2000, 12, 20


def key_of(images: int, seed: int = 0) -> Tensor:
    return keys(Purpose.CUTMIX, seed, 0, torch.arange(images))


def numbered(images: int, channels: int = 3) -> Tensor:
    """Each picture is filled with its own number."""
    return torch.arange(images)[:, None, None, None].expand(-1, channels, HEIGHT, WIDTH).contiguous()


def test_neighbours_are_the_other_of_each_pair() -> None:
    assert neighbours(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]
    assert torch.equal(neighbours(numbered(4))[:, 0, 0, 0], torch.tensor([1, 0, 3, 2]))


@pytest.mark.parametrize("images", [1, 3, 7])
def test_an_odd_batch_is_refused(images: int) -> None:
    with pytest.raises(Mistake, match=f"which has {images}: expected an even number"):
        CutMix()((numbered(images),), key_of(images))


def test_the_share_is_the_area_that_is_a_pictures_own() -> None:
    (crop,), share = CutMix()((numbered(N),), key_of(N))
    own = torch.arange(N)[:, None, None, None]
    assert torch.allclose(share, (crop[:, :1] == own).float().mean((1, 2, 3)))
    assert ((crop == own) | (crop == neighbours(own))).all()


def test_what_is_pasted_is_a_window_of_the_same_place() -> None:
    x = torch.randint(
        0, 256, (50, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    (crop,), _ = CutMix()((x,), key_of(50))
    (numbers,), _ = CutMix()((numbered(50),), key_of(50))
    pasted = numbers[:, :1] != torch.arange(50)[:, None, None, None]
    assert torch.equal(crop, torch.where(pasted, neighbours(x), x))
    for window in pasted[:, 0]:
        rows, columns = window.any(1), window.any(0)
        assert torch.equal(window, rows[:, None] & columns)
        assert all((side.int().diff() == 1).sum() <= 1 for side in (rows, columns))


def test_both_crops_of_a_picture_get_the_same_window() -> None:
    (first, second), _ = CutMix()((numbered(50), numbered(50) + 50), key_of(50))
    assert torch.equal(first + 50, second)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_pictures_are_mixed_as_often_as_said(chance: float) -> None:
    share = CutMix(chance=chance)((numbered(N),), key_of(N)).share
    never = (CutMix()((numbered(N),), key_of(N)).share == 1).float().mean().item()
    assert (share < 1).float().mean().item() == pytest.approx(chance * (1 - never), abs=0.03)


def test_one_picture_is_left_alone_while_its_neighbour_is_mixed() -> None:
    share = CutMix(chance=0.5)((numbered(N),), key_of(N)).share.view(-1, 2) < 1
    assert (share[:, 0] != share[:, 1]).float().mean() > 0.3


def test_windows_are_distributed_as_torchvisions() -> None:
    """Its area is uniform before the borders cut it, so that the mean share is 0.68."""
    torch.manual_seed(0)
    mixing, picture = v2.CutMix(num_classes=2, alpha=1.0), torch.empty(3, HEIGHT, WIDTH)
    theirs = torch.tensor([mixing.make_params([picture])["lam_adjusted"] for _ in range(N)])
    ours = CutMix()((numbered(N),), key_of(N)).share
    at = torch.cat([ours, theirs])
    cumulative = [torch.searchsorted(x.sort().values, at, right=True) / N for x in (ours, theirs)]
    assert (cumulative[0] - cumulative[1]).abs().max() < 1.95 * (2 / N) ** 0.5  # Kolmogorov–Smirnov, p = 0.001


def test_a_window_that_no_border_cuts_has_the_area_that_was_drawn() -> None:
    x = torch.arange(N)[:, None, None, None].expand(-1, 1, 100, 60)
    pasted = CutMix()((x,), key_of(N)).crops[0][:, 0] != x[:, 0]
    cut = pasted[:, 0].any(1) | pasted[:, -1].any(1) | pasted[:, :, 0].any(1) | pasted[:, :, -1].any(1)
    area = 1 - uniforms(key_of(N), 4)[:, 0]
    sides = [2 * (area.sqrt() * size / 2).floor() for size in (100, 60)]
    assert torch.equal(pasted.sum((1, 2))[~cut], (sides[0] * sides[1]).long()[~cut])
    assert (~cut).sum() > 100
    assert (area.sort().values - torch.linspace(0, 1, N)).abs().max() < 1.95 * N**-0.5


def test_a_window_depends_on_nothing_but_its_key() -> None:
    together = CutMix()((numbered(20),), key_of(20)).share
    assert torch.equal(together[6:10], CutMix()((numbered(4),), key_of(20)[6:10]).share)
    assert not torch.equal(together, CutMix()((numbered(20),), key_of(20, seed=1)).share)


def test_windows_are_the_same_for_ever() -> None:
    """A promise, as in the sample order: resuming must mix alike under any later version."""
    assert (CutMix()((numbered(6),), key_of(6, seed=7)).share * HEIGHT * WIDTH).round().tolist() == PROMISED


PROMISED = [128.0, 190.0, 224.0, 170.0, 190.0, 160.0]
