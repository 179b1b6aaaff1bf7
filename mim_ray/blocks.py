"""The transformer block that encoders and decoders are made of; its parameters are named as timm's."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mim_ray.views import Grid

EPSILON = 1e-6


class Among(NamedTuple):
    """Sequences of one or several views that are `common` (1, N, D) but for the tokens of their own."""

    own: list[Tensor]
    """Of each view (B, K, D)."""
    places: list[Tensor]
    """(B, K): where they stand."""
    common: Tensor

    def under(self, layer: nn.Module) -> "Among":
        """A layer that looks at one token at a time does what is common once."""
        return Among([layer(own) for own in self.own], self.places, layer(self.common))

    def whole(self) -> Tensor:
        """(views · B, N, D)."""
        views = zip(self.own, self.places, strict=True)
        return torch.cat([spread(own, at, onto=self.common.expand(len(own), -1, -1)) for own, at in views])


Sequences = Tensor | Among


class Block(nn.Module):
    def __init__(self, width: int, heads: int, skip: float = 0.0) -> None:
        """`skip`: the probability that a picture in training goes round each half of the block."""
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, EPSILON), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, EPSILON), Mlp(width)
        self.skip = skip

    def forward(self, x: Sequences, lengths: Sequence[int] = (), asked: Tensor | None = None) -> Tensor:
        """`asked` (B, W): the tokens that come out, where not all are wanted."""
        seen, x = under(self.norm1, x), whole(x)
        x = (x if asked is None else taken(x, asked)) + self._kept(self.attn(seen, lengths, asked))
        return x + self._kept(self.mlp(self.norm2(x)))

    def _kept(self, change: Tensor) -> Tensor:
        if not (self.training and self.skip):
            return change
        stays = change.new_empty(len(change), 1, 1).bernoulli_(1 - self.skip)
        return change * stays / (1 - self.skip)


class Attention(nn.Module):
    """Each token attends to its own sequence; `lengths` tells apart the sequences that lie end to end in a row."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Sequences, lengths: Sequence[int] = (), asked: Tensor | None = None) -> Tensor:
        if asked is not None:
            return self._answers(whole(x), asked)
        qkv = whole(under(self.qkv, x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        parts = qkv.split(list(lengths), dim=3) if len(lengths) > 1 else (qkv,)
        mixed = [F.scaled_dot_product_attention(*part).transpose(1, 2).flatten(2) for part in parts]
        return self.proj(torch.cat(mixed, dim=1) if len(mixed) > 1 else mixed[0])  # type: ignore[no-any-return]

    def _answers(self, x: Tensor, asked: Tensor) -> Tensor:
        """Queries of the tokens asked for alone; keys and values of all."""
        weight, bias = (part.tensor_split([x.shape[2]]) for part in (self.qkv.weight, self.qkv.bias))
        q = F.linear(taken(x, asked), weight[0], bias[0]).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = F.linear(x, weight[1], bias[1]).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


def single_precision(x: Tensor) -> AbstractContextManager[object]:
    """Autocast switched off where small numbers matter: losses, softmax over candidates, spectra."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def start_weights(module: nn.Module) -> None:
    """Xavier-uniform matrices, zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sincos(width: int, grid: Grid) -> Tensor:
    """(1 + N, width) fixed 2-D sine-cosine positions: half for columns, half for rows; row 0 zero."""
    rates = 1.0 / 10000 ** (np.arange(width // 4) / (width / 4))
    rows, columns = np.meshgrid(np.arange(grid.rows), np.arange(grid.columns), indexing="ij")
    angles = [np.outer(axis.reshape(-1), rates) for axis in (columns, rows)]
    table = np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((1, width)), table])).float()


def is_sincos(table: Tensor) -> bool:
    """Whether (1, 1 + N, width) are the fixed positions of some grid of N patches."""
    if table.dim() != 3 or len(table) != 1 or table.shape[2] % 4:
        return False
    patches, given = table.shape[1] - 1, table[0].float().cpu()
    rounding = max(1e-4, torch.finfo(table.dtype).eps)
    return any(
        torch.allclose(given, sincos(table.shape[2], Grid(rows, patches // rows, 1)), rtol=0, atol=rounding)
        for rows in range(1, patches + 1)
        if patches % rows == 0
    )


def patchified(pixels: Tensor, size: int) -> Tensor:
    """(B, C, H, W) → (B, N, size · size · C), patches in raster order, channels last within each."""
    b, c, h, w = pixels.shape
    grid = pixels.reshape(b, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1)
    return grid.reshape(b, (h // size) * (w // size), size * size * c)


def picture(patches: Tensor, grid: Grid) -> Tensor:
    """(B, N, size · size · C) → (B, C, H, W): the inverse of `patchified`."""
    size = grid.patch
    squares = patches.unflatten(2, (size, size, -1)).unflatten(1, (grid.rows, grid.columns))
    pixels: Tensor = squares.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
    return pixels


def under(layer: nn.Module, x: Sequences) -> Sequences:
    return x.under(layer) if isinstance(x, Among) else layer(x)


def whole(x: Sequences) -> Tensor:
    return x.whole() if isinstance(x, Among) else x


def taken(tokens: Tensor, numbers: Tensor) -> Tensor:
    """(B, N, D) at (B, K) → (B, K, D)."""
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[2]))


def spread(tokens: Tensor, numbers: Tensor, onto: Tensor) -> Tensor:
    """(B, K, D) at (B, K) written over (B, N, D): the inverse of `taken`."""
    return onto.scatter(1, numbers[..., None].expand(-1, -1, tokens.shape[2]), tokens.to(onto.dtype))
