"""M for methods that paint: a head predicts what the first view hides, compared with the pixels."""

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mim_ray.blocks import EPSILON, Block, patchified, sincos, start_weights, taken
from mim_ray.config import Spec
from mim_ray.errors import Mistake
from mim_ray.views import Measured, Tokens, View


class Decoder(Spec):
    """MAE's transformer decoder."""

    width: PositiveInt = 512
    depth: PositiveInt = 8
    heads: PositiveInt = 16


class Reconstruct(Spec):
    """The mean squared error over the patches that the first view hides."""

    kind: Literal["reconstruct"] = "reconstruct"
    head: Decoder = Decoder()
    normalise: bool = Field(True, description="compare with patches of mean 0 and variance 1")

    def build(self, width: int, patch: int, channels: int, grid: tuple[int, int]) -> "Reconstruction":
        return Reconstruction(self, width, patch, channels, grid)


class Reconstruction(nn.Module):
    def __init__(self, spec: Reconstruct, width: int, patch: int, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.normalise = patch, spec.normalise
        self.decoder = TransformerDecoder(spec.head, width, patch * patch * channels, grid)

    def forward(self, seen: Tokens, shown: View) -> Measured:
        if shown.hiding is None or not shown.hiding.hidden.shape[1]:
            raise Mistake("method.t1.mask: reconstruct needs hidden patches: raise its ratio")
        hidden = shown.hiding.hidden
        predicted = self.decoder(seen, hidden).float()
        wanted = taken(patchified(shown.pixels, self.patch), hidden).float()
        if self.normalise:
            wanted = patch_normalised(wanted)
        loss = (predicted - wanted).square().mean()
        return Measured(loss, {"reconstruction": loss.detach()})


class TransformerDecoder(nn.Module):
    """Predicts the hidden patches from the shown ones and a mask token in each hidden place."""

    positions: Tensor

    def __init__(self, spec: Decoder, width: int, outputs: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.embed = nn.Linear(width, spec.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, spec.width))
        self.register_buffer("positions", sincos(spec.width, grid)[None])
        self.blocks = nn.ModuleList(Block(spec.width, spec.heads) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width, EPSILON)
        self.predict = nn.Linear(spec.width, outputs)
        start_weights(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, seen: Tokens, hidden: Tensor) -> Tensor:
        """(B, hidden patches, outputs). Attention has no order, so the hidden ones simply come last."""
        assert seen.kept is not None
        x = self.embed(torch.cat([seen.pooled[:, None], seen.patches], dim=1))
        places = self.positions[:, 1:].expand(len(x), -1, -1)
        shown = x + torch.cat([self.positions[:, :1].expand(len(x), -1, -1), taken(places, seen.kept)], dim=1)
        x = torch.cat([shown, self.mask_token + taken(places, hidden)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.predict(self.norm(x[:, -hidden.shape[1] :]))  # type: ignore[no-any-return]


def patch_normalised(patches: Tensor) -> Tensor:
    """Each patch to mean 0 and (unbiased) variance 1."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()
