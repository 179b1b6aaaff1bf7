"""Bytes to numbers, where the numbers are needed: on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.2989, 0.587, 0.114)


class Normalise(nn.Module):
    """(B, C, H, W) bytes to floats of the given channel means and deviations, channels last in memory.

    One mean for three channels of bytes: the pictures become grey.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean) / torch.tensor(std), persistent=False)

    def forward(self, crops: Tensor, out: Tensor | None = None) -> Tensor:
        """On a CPU most of the time goes into fresh memory: handing the last result back as `out` spares it."""
        if len(self.scale) == 1 and crops.shape[1] == 3:
            return grey(crops.float()) * self.scale + self.shift
        # A row of pixels at a time: broadcasting over a last axis of three channels is what would be slow.
        images, _, height, width = crops.shape
        scale, shift = self.scale.repeat(width), self.shift.repeat(width)
        if out is None:
            out = torch.empty_like(crops, dtype=scale.dtype, memory_format=torch.channels_last)
        rows = out.permute(0, 2, 3, 1).view(images, height, len(scale))  # a view, or an error: never a copy
        rows.copy_(crops.permute(0, 2, 3, 1).reshape(rows.shape))
        torch.addcmul(shift, rows, scale, out=rows)
        return out

    def undone(self, pixels: Tensor) -> Tensor:
        """Back to [0, 1]."""
        return (pixels - self.shift[:, None, None]) / (255 * self.scale[:, None, None])

    def redone(self, shares: Tensor) -> Tensor:
        """From [0, 1]."""
        return shares * (255 * self.scale[:, None, None]) + self.shift[:, None, None]


def grey(pixels: Tensor) -> Tensor:
    """(B, 3, …) → (B, 1, …) luma."""
    red, green, blue = pixels.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)
