"""Bytes to numbers, where the numbers are needed: on the device."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalised(
    crops: Tensor,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    out: Tensor | None = None,
) -> Tensor:
    """(B, C, H, W) bytes to floats of the given channel means and deviations, channels last in memory.

    On a CPU most of the time goes into fresh memory: a loop that hands its last result back as `out` is spared it.
    """
    # A row of pixels at a time: broadcasting over a last axis of three channels is what would be slow.
    images, _, height, width = crops.shape
    scale = (1 / (255 * torch.tensor(std, device=crops.device))).repeat(width)
    shift = (-torch.tensor(mean, device=crops.device) / torch.tensor(std, device=crops.device)).repeat(width)
    if out is None:
        out = torch.empty_like(crops, dtype=scale.dtype, memory_format=torch.channels_last)
    rows = out.permute(0, 2, 3, 1).view(images, height, len(scale))  # a view, or an error: never a copy
    rows.copy_(crops.permute(0, 2, 3, 1).reshape(rows.shape))
    torch.addcmul(shift, rows, scale, out=rows)
    return out
