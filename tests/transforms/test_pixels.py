"""Normalisation: the arithmetic, the memory layout, and memory used again."""

import pytest
import torch

from mim_ray.transforms.pixels import IMAGENET_MEAN, IMAGENET_STD, normalised

CROPS = torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_textbook_formula_for_any_layout(layout: torch.memory_format) -> None:
    wanted = (CROPS / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    got = normalised(CROPS.contiguous(memory_format=layout))
    assert torch.allclose(got, wanted, atol=1e-6)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_one_channel_and_memory_used_again() -> None:
    grey = normalised(CROPS[:, :1], (0.5,), (0.25,))
    assert torch.allclose(grey, (CROPS[:, :1] / 255 - 0.5) / 0.25, atol=1e-6)
    again = normalised(CROPS)
    assert normalised(CROPS.flip(0), out=again) is again
    assert torch.equal(again, normalised(CROPS.flip(0)))
    with pytest.raises(RuntimeError):
        normalised(CROPS, out=torch.empty(CROPS.shape))


def test_a_rank_without_a_share_normalises_nothing() -> None:
    assert normalised(CROPS[:0]).shape == (0, 3, 5, 7)
