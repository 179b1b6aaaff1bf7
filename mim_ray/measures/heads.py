"""What measurements own: decoders that paint patches, and the MLPs of contrastive methods."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from mim_ray.blocks import (
    EPSILON,
    Among,
    Block,
    Sequences,
    patchified,
    picture,
    sincos,
    start_weights,
    taken,
)
from mim_ray.config import Spec
from mim_ray.views import Given, Tokens


class Decoder(Spec):
    """MAE's transformer decoder."""

    kind: Literal["decoder"] = "decoder"
    width: PositiveInt = 512
    depth: PositiveInt = 8
    heads: PositiveInt = 16

    @model_validator(mode="after")
    def _width_is_divided(self) -> "Decoder":
        """Sines and cosines of rows and columns take a quarter each, and heads take equal parts."""
        if self.width % 4:
            step = math.lcm(4, self.heads)
            near = max(1, round(self.width / step)) * step
            raise ValueError(f"width={self.width}: expected a multiple of 4, such as {near}")
        if self.width % self.heads:
            divisors = [heads for heads in range(1, self.width + 1) if self.width % heads == 0]
            near = min(divisors, key=lambda heads: abs(heads - self.heads))
            raise ValueError(f"heads={self.heads}: expected a divisor of width={self.width}, such as {near}")
        return self

    def build(self, given: Given, hides: bool) -> "TransformerDecoder":
        return TransformerDecoder(self, given, hides)


class Linear(Spec):
    """SimMIM's head: each token paints its own patch."""

    kind: Literal["linear"] = "linear"

    def build(self, given: Given, hides: bool) -> "LinearPainter":
        return LinearPainter(given)


Head = Annotated[Decoder | Linear, Field(discriminator="kind")]


class TransformerDecoder(nn.Module):
    """Tokens back to pixels, with a mask token in the place of each patch that has none."""

    positions: Tensor

    def __init__(self, spec: Decoder, given: Given, hides: bool) -> None:
        super().__init__()
        self.given = given
        self.embed = nn.Linear(given.width, spec.width)
        self.register_buffer("positions", sincos(spec.width, given.cells)[None])
        self.blocks = nn.ModuleList(Block(spec.width, spec.heads) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width, EPSILON)
        self.predict = nn.Linear(spec.width, given.cells.patch**2 * given.channels)
        start_weights(self)
        self.fills = given.drops and hides
        if self.fills:
            self.mask_token = nn.Parameter(torch.empty(1, 1, spec.width))
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, views: Sequence[Tokens], wanted: Tensor | None) -> list[Tensor]:
        """For each view the patches `wanted` (B, W), or all, as (B, W, pixels); all views in one call."""
        x = self._sequences(views)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        if wanted is None or self.given.cells != self.given.grid:
            parts = self.predict(self.norm(last(x)[:, 1:])).chunk(len(views))
            return [regrouped(part, self.given, wanted) for part in parts]
        x = last(x, asked=torch.cat([wanted + 1] * len(views)))
        return list(self.predict(self.norm(x)).chunk(len(views)))

    def _sequences(self, views: Sequence[Tokens]) -> Sequences:
        own = [self.embed(torch.cat([tokens.pooled[:, None], tokens.patches], dim=1)) for tokens in views]
        if not self.fills:
            return torch.cat(own) + self.positions
        places = [self._places(tokens) for tokens in views]
        seen = zip(own, places, strict=True)
        table = self.positions.expand(len(own[0]), -1, -1)
        return Among([x + taken(table, at) for x, at in seen], places, self.mask_token + self.positions)

    def _places(self, tokens: Tokens) -> Tensor:
        """(B, 1 + K): the class token's place, then the patches'."""
        every = torch.arange(1 + self.given.cells.patches, device=tokens.patches.device)
        if tokens.kept is None:
            return every.expand(len(tokens.patches), -1)
        return torch.cat([every[:1].expand(len(tokens.kept), -1), tokens.kept + 1], dim=1)


class LinearPainter(nn.Module):
    def __init__(self, given: Given) -> None:
        super().__init__()
        self.given = given
        self.predict = nn.Linear(given.width, given.cells.patch**2 * given.channels)
        start_weights(self)

    def forward(self, views: Sequence[Tokens], wanted: Tensor | None) -> list[Tensor]:
        if wanted is None or self.given.cells != self.given.grid:
            return [regrouped(self.predict(tokens.patches), self.given, wanted) for tokens in views]
        return [self.predict(taken(tokens.patches, wanted)) for tokens in views]


def regrouped(cells: Tensor, given: Given, wanted: Tensor | None) -> Tensor:
    """(B, cells, pixels of a cell) → (B, patches, pixels of a patch), where the two differ in size."""
    if given.cells != given.grid:
        cells = patchified(picture(cells, given.cells), given.grid.patch)
    return cells if wanted is None else taken(cells, wanted)


class Mlp(Spec):
    """A projector or predictor."""

    layers: PositiveInt = 2
    hidden: PositiveInt = 2048
    out: PositiveInt = 768
    activation: Literal["gelu", "relu"] = "gelu"
    norm: Literal["none", "hidden", "all"] = Field(
        "none", description="batch norm after hidden layers, or after all (the last without weights)"
    )

    def build(self, width: int) -> nn.Sequential:
        modules: list[nn.Module] = []
        for number in range(self.layers):
            last = number == self.layers - 1
            out = self.out if last else self.hidden
            modules.append(nn.Linear(width, out, bias=self.norm == "none"))
            if self.norm == "all" or (self.norm == "hidden" and not last):
                modules.append(nn.BatchNorm1d(out, affine=not last))
            if not last:
                modules.append(nn.GELU() if self.activation == "gelu" else nn.ReLU())
            width = out
        return nn.Sequential(*modules)
