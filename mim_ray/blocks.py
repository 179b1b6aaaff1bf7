"""The transformer block that encoders and decoders are made of; its parameters are named as timm's."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, EPSILON), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, EPSILON), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


def start_weights(module: nn.Module) -> None:
    """Xavier-uniform matrices, zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sincos(width: int, grid: tuple[int, int]) -> Tensor:
    """(1 + N, width) fixed 2-D sine-cosine positions: half for columns, half for rows; row 0 zero."""
    rates = 1.0 / 10000 ** (np.arange(width // 4) / (width / 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    angles = [np.outer(axis.reshape(-1), rates) for axis in (columns, rows)]
    table = np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((1, width)), table])).float()


def patchified(pixels: Tensor, size: int) -> Tensor:
    """(B, C, H, W) → (B, N, size · size · C), patches in raster order, channels last within each."""
    b, c, h, w = pixels.shape
    grid = pixels.reshape(b, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1)
    return grid.reshape(b, (h // size) * (w // size), size * size * c)


def taken(tokens: Tensor, numbers: Tensor) -> Tensor:
    """(B, N, D) at (B, K) → (B, K, D)."""
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[2]))
