"""The draws of `draws.py` made on the device: the same keys, the same numbers."""

import torch
from torch import Tensor

from mim_ray.draws import Purpose

WORD = 1 << 64


def keys(purpose: Purpose, seed: int, view: int, position: Tensor) -> Tensor:
    """One 64-bit key for each image: `position` is where it stands in the stream of samples."""
    state = _mixed_int(_mixed_int(_mixed_int(purpose) ^ seed) ^ view)
    return mixed(position ^ _signed(state))


def uniforms(key: Tensor, count: int) -> Tensor:
    """(B, count) numbers in [0, 1) in single precision."""
    counter = torch.arange(count, device=key.device) * _signed(0xD1342543DE82EF95)
    return ((mixed(key[:, None] + counter) >> 40) & ((1 << 24) - 1)).float() * 2.0**-24


def mixed(x: Tensor) -> Tensor:
    """splitmix64 in two's complement."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _mixed_int(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    return x - WORD if x >= WORD >> 1 else x
