"""Bytes to numbers, where the numbers are needed: on the device."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalised(
    crops: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Tensor:
    """(B, C, H, W) uint8 to floats of the given channel means and deviations, in one pass over memory."""
    scale = torch.tensor(std, device=crops.device).mul(255).reciprocal().view(-1, 1, 1)
    shift = torch.tensor(mean, device=crops.device).div(torch.tensor(std, device=crops.device)).view(-1, 1, 1)
    return crops.to(scale.dtype).mul_(scale).sub_(shift)
