"""Masks: the hash on the device, what a draw depends on, which patches are hidden, and what is refused."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from mim_ray import draws
from mim_ray.draws import Purpose, _mix
from mim_ray.errors import Mistake
from mim_ray.transforms import keyed
from mim_ray.transforms.mask import ComplementMask, RandomMask
from mim_ray.views import Grid, Hiding

SQUARE, WIDE = Grid(8, 8, 4), Grid(4, 10, 16)
LARGEST_SEED = (1 << 63) - 1
BLOCKS = RandomMask(ratio=0.6, block=32)
MANY = torch.arange(4000)


def drawn(mask: RandomMask, grid: Grid = SQUARE, position: Tensor = MANY, seed: int = 0, view: int = 0) -> Hiding:
    hiding = mask.hiding(grid, position, seed, view, None)
    assert hiding is not None
    return hiding


def test_the_hash_on_the_device_is_that_of_numpy() -> None:
    words = np.concatenate([np.arange(-50, 50), np.arange(-50, 50) * 123456789012345678])
    assert (keyed.mixed(torch.from_numpy(words)).numpy().astype(np.uint64) == _mix(words.astype(np.uint64))).all()


@pytest.mark.parametrize("purpose", [Purpose.MASK, Purpose.COLOUR, Purpose.CUTMIX])
@pytest.mark.parametrize("seed", [0, 7, LARGEST_SEED])
@pytest.mark.parametrize("view", [0, 1, ~0, ~1])
def test_keys_and_uniforms_on_the_device_are_those_of_numpy(purpose: Purpose, seed: int, view: int) -> None:
    position = np.array([0, 1, 2, 255, 256, 1 << 31, (1 << 40) + 3, LARGEST_SEED])
    theirs, ours = (
        draws.keys(purpose, seed, view, position),
        keyed.keys(purpose, seed, view, torch.tensor(position)),
    )
    assert (ours.numpy().astype(np.uint64) == theirs).all()
    in_single_precision = np.floor(draws.uniforms(theirs, 9) * 2**24) / 2**24
    assert (keyed.uniforms(ours, 9).double().numpy() == in_single_precision).all()


def test_two_purposes_never_share_a_number() -> None:
    assert len({int(purpose) for purpose in Purpose.__members__.values()}) == len(Purpose.__members__)


def test_the_mask_does_not_depend_on_the_batch() -> None:
    together, alone = (
        drawn(RandomMask(), position=torch.arange(20)),
        drawn(RandomMask(), position=torch.tensor([13])),
    )
    assert torch.equal(together.order[13:14], alone.order)
    backwards = drawn(RandomMask(), position=torch.arange(20).flip(0))
    assert torch.equal(together.order.flip(0), backwards.order)


def test_seeds_views_and_positions_draw_apart() -> None:
    places = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 256), (256, 0), (LARGEST_SEED, 0)]
    orders = [drawn(RandomMask(), position=torch.arange(50), seed=seed, view=view).order for seed, view in places]
    assert len({tuple(row.tolist()) for order in orders for row in order}) == 50 * len(places)


@pytest.mark.parametrize("mask", [RandomMask(ratio=0.75), RandomMask(ratio=0.5, block=8)])
@pytest.mark.parametrize("grid", [SQUARE, Grid(4, 10, 4)])
def test_every_patch_is_hidden_as_often_as_any_other(mask: RandomMask, grid: Grid) -> None:
    shares = drawn(mask, grid).mask.float().mean(0)
    assert (shares - mask.ratio).abs().max() < 4 * math.sqrt(mask.ratio * (1 - mask.ratio) / len(MANY))


def test_two_patches_are_hidden_together_as_often_as_without_replacement() -> None:
    mask = drawn(RandomMask(ratio=0.75)).mask.float()
    together = (mask.T @ mask / len(MANY))[~torch.eye(64, dtype=torch.bool)]
    assert (together - 48 / 64 * 47 / 63).abs().max() < 5 * math.sqrt(0.25 / len(MANY))


def test_two_views_hide_independently() -> None:
    first, second = drawn(RandomMask(), view=0).mask, drawn(RandomMask(), view=1).mask
    assert (first & second).float().mean().item() == pytest.approx(0.75**2, abs=0.005)


@pytest.mark.parametrize("mask", [RandomMask(ratio=0.3), RandomMask(ratio=0.6, block=32)])
def test_a_hiding_names_every_patch_once(mask: RandomMask) -> None:
    hiding = drawn(mask, WIDE, torch.arange(9))
    assert torch.equal(hiding.order.sort(1).values, torch.arange(40).expand(9, 40))
    assert torch.equal(torch.cat([hiding.kept, hiding.hidden], dim=1), hiding.order)
    assert (hiding.mask.sum(1) == 40 - hiding.shown).all()
    assert hiding.mask.gather(1, hiding.hidden).all()
    assert not hiding.mask.gather(1, hiding.kept).any()


@pytest.mark.parametrize("blocks", [4, 10, 49, 64, 196])
@pytest.mark.parametrize("ratio", ["0.05", "0.1", "0.25", "0.3", "0.6", "0.7", "0.75", "0.9"])
def test_the_number_shown_is_rounded_down_as_if_ratios_were_exact(blocks: int, ratio: str) -> None:
    wanted = math.floor(blocks * (1 - Fraction(ratio)))
    mask, grid = RandomMask(ratio=float(ratio)), Grid(1, blocks, 16)
    if wanted:
        assert mask.count(grid) == (blocks, wanted)
    else:
        with pytest.raises(Mistake, match="hides all of"):
            mask.count(grid)


@pytest.mark.parametrize(
    ("grid", "blocks", "hidden"),
    [(Grid(14, 14, 16), 49, 30), (Grid(7, 7, 32), 49, 30), (WIDE, 10, 6), (Grid(8, 6, 16), 12, 8)],
)
def test_whole_blocks_are_hidden(grid: Grid, blocks: int, hidden: int) -> None:
    mask = drawn(BLOCKS, grid, torch.arange(50)).mask.view(50, grid.rows, grid.columns)
    scale = 32 // grid.patch
    for row in range(grid.rows):
        for column in range(grid.columns):
            first = mask[:, row - row % scale, column - column % scale]
            assert torch.equal(mask[:, row, column], first)
    assert (mask.sum((1, 2)) == hidden * scale**2).all()
    assert BLOCKS.count(grid) == (blocks, blocks - hidden)


def test_a_block_of_one_patch_is_a_patch() -> None:
    assert torch.equal(drawn(RandomMask(block=4)).order, drawn(RandomMask()).order)


@pytest.mark.parametrize("mask", [RandomMask(ratio=0.75), RandomMask(ratio=0.6, block=8)])
def test_the_complement_hides_exactly_what_its_partner_shows(mask: RandomMask) -> None:
    position = torch.arange(30)
    first = drawn(mask, position=position)
    second = ComplementMask().hiding(SQUARE, position, 0, 1, first)
    assert second is not None
    assert torch.equal(second.hidden, first.kept)
    assert torch.equal(second.kept, first.hidden)
    assert torch.equal(second.mask, ~first.mask)
    again = ComplementMask().hiding(SQUARE, position, 0, 0, second)
    assert again is not None
    assert torch.equal(again.order, first.order)


def test_nothing_hidden_is_no_hiding_and_its_complement_shows_all() -> None:
    assert RandomMask(ratio=0).hiding(SQUARE, MANY, 0, 0, None) is None
    assert RandomMask(ratio=0, block=8).hiding(SQUARE, MANY, 0, 0, None) is None
    assert ComplementMask().hiding(SQUARE, MANY, 0, 1, None) is None


@pytest.mark.parametrize(
    ("mask", "grid", "words"),
    [
        (RandomMask(block=24), WIDE, "block=24: expected a multiple of the patch, which has 16 pixels"),
        (RandomMask(block=8), WIDE, "block=8: expected a multiple of the patch, which has 16 pixels"),
        (RandomMask(block=32), Grid(7, 8, 16), "block=32: pictures of 112 × 128 are not whole blocks"),
        (RandomMask(block=32), Grid(8, 7, 16), "block=32: pictures of 128 × 112 are not whole blocks"),
        (RandomMask(ratio=0.99), SQUARE, "ratio=0.99: hides all of 64 blocks: expected at most 0.984375"),
        (RandomMask(ratio=0.8, block=16), SQUARE, "ratio=0.8: hides all of 4 blocks: expected at most 0.75"),
    ],
)
def test_what_cannot_be_hidden_is_refused_in_words(mask: RandomMask, grid: Grid, words: str) -> None:
    with pytest.raises(Mistake) as refusal:
        mask.hiding(grid, MANY, 0, 0, None)
    assert str(refusal.value) == words


@pytest.mark.parametrize("blocks", [2, 3, 7, 13, 49, 64, 196, 256])
def test_the_ratio_that_a_refusal_names_is_accepted(blocks: int) -> None:
    grid = Grid(1, blocks, 16)
    with pytest.raises(Mistake) as refusal:
        RandomMask(ratio=0.999).count(grid)
    assert RandomMask(ratio=float(str(refusal.value).rpartition(" ")[2])).count(grid) == (blocks, 1)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_that_is_no_share_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        RandomMask(ratio=ratio)


def test_masks_are_the_same_for_ever() -> None:
    """A promise, as in the sample order: resuming must hide the same patches under any later version."""
    assert drawn(RandomMask(), Grid(2, 4, 4), torch.arange(3), seed=7, view=1).order.tolist() == PROMISED


PROMISED = [[5, 6, 1, 3, 0, 2, 4, 7], [6, 4, 1, 0, 3, 5, 2, 7], [7, 5, 2, 1, 6, 3, 0, 4]]
