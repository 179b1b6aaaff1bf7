"""Normalisation: the arithmetic, the memory layout, and memory used again."""

import pytest
import torch

from mim_ray.transforms.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise

CROPS = torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_textbook_formula_for_any_layout(layout: torch.memory_format) -> None:
    wanted = (CROPS / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    got = Normalise()(CROPS.contiguous(memory_format=layout))
    assert torch.allclose(got, wanted, atol=1e-6)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_one_channel_and_memory_used_again() -> None:
    grey = Normalise((0.5,), (0.25,))(CROPS[:, :1])
    assert torch.allclose(grey, (CROPS[:, :1] / 255 - 0.5) / 0.25, atol=1e-6)
    again = Normalise()(CROPS)
    assert Normalise()(CROPS.flip(0), out=again) is again
    assert torch.equal(again, Normalise()(CROPS.flip(0)))
    with pytest.raises(RuntimeError):
        Normalise()(CROPS, out=torch.empty(CROPS.shape))


def test_a_rank_without_a_share_normalises_nothing() -> None:
    assert Normalise()(CROPS[:0]).shape == (0, 3, 5, 7)
