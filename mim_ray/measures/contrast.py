"""M of C-MAE, MoCo v3 and BYOL: projected features of one view predict those of the other."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mim_ray import world
from mim_ray.blocks import single_precision, spread
from mim_ray.config import Spec
from mim_ray.measures.heads import Mlp
from mim_ray.measures.infonce import info_nce
from mim_ray.views import Candidates, Given, Measured, Tokens, View


class Contrast(Spec):
    """−log softmax of cosines over all pictures, or 2 − 2 · cosine; the mean over positions, then pictures."""

    kind: Literal["contrast"] = "contrast"
    loss: Literal["infonce", "byol"] = "infonce"
    by: Literal["token", "mean", "class", "token+class"] = Field(
        "token", description="what is compared: each patch, their mean, the pooled feature, or each patch and it"
    )
    temperature: float = Field(0.2, gt=0)
    negatives: Literal["position", "all"] = Field(
        "position", description="candidates of a token: the same position of all pictures, or all their tokens"
    )
    rescale: bool = Field(False, description="times twice the temperature, as MoCo v3")
    projector: Mlp = Mlp()
    predictor: Mlp | None = Mlp()

    @property
    def uses_pooled(self) -> bool:
        return "class" in self.by

    def projection(self, given: Given) -> nn.Module:
        return Projection(self, given)

    def build(self, given: Given) -> "Contrasting":
        return Contrasting(self, given)


class Projection(nn.Module):
    """Tokens → tokens: only what is compared, projected."""

    def __init__(self, spec: Contrast, given: Given) -> None:
        super().__init__()
        self.by = spec.by
        self.mlp = spec.projector.build(given.width)

    def forward(self, tokens: Tokens) -> Tokens:
        if self.by == "mean":
            tokens = Tokens(tokens.patches[:, :0], tokens.patches.mean(1), None)
        elif self.by == "class":
            tokens = Tokens(tokens.patches[:, :0], tokens.pooled, None)
        elif self.by == "token":
            tokens = tokens._replace(pooled=tokens.pooled[:, :0])
        return through(self.mlp, tokens)


class Contrasting(nn.Module):
    def __init__(self, spec: Contrast, given: Given) -> None:
        super().__init__()
        self.spec, self.given = spec, given
        self.predictor = spec.predictor.build(spec.projector.out) if spec.predictor else nn.Identity()

    def forward(self, seen: Tokens, other: Tokens, a: View, b: View, among: Candidates | None = None) -> Measured:
        """`among`: the candidates, where they are more than the pictures at hand."""
        q, asked = self._rows(through(self.predictor, seen))
        k, offered = self._unit_rows(other)
        with single_precision(q):
            q = nn.functional.normalize(q.float(), dim=2)
            cosine = (q * k).sum(2)
            if self.spec.loss == "byol":
                terms, count = both(2 - 2 * cosine, asked, offered)
            else:
                among = self._candidates(k, offered) if among is None else among
                terms = info_nce(
                    q,
                    among.features,
                    among.offered,
                    temperature=self.spec.temperature,
                    first=among.first,
                    same_position=self.spec.negatives == "position",
                )
                terms, count = both(terms, asked, offered)
            loss = (terms.sum(1) / count).mean()
            if self.spec.rescale:
                loss = loss * 2 * self.spec.temperature
            agreement, count = both(cosine, asked, offered)
            parts = {self.spec.loss: loss.detach(), "cosine": (agreement.sum(1) / count).mean().detach()}
        return Measured(loss, parts)

    def candidates(self, other: Tokens) -> Candidates:
        """The pictures of all workers, from those of this one."""
        return self._candidates(*self._unit_rows(other))

    def _candidates(self, k: Tensor, offered: Tensor | None) -> Candidates:
        features = world.gathered(k, gradient=k.requires_grad)
        there = offered if offered is None else world.gathered(offered, gradient=False)
        return Candidates(features, there, world.first_row(len(k)))

    def _unit_rows(self, other: Tokens) -> tuple[Tensor, Tensor | None]:
        k, offered = self._rows(other)
        with single_precision(k):
            k = nn.functional.normalize(k.float(), dim=2)
        return k.detach() if self.given.stop_gradient else k, offered

    def _rows(self, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        """(B, positions, D) and which of the positions are there; the pooled feature is the first position."""
        patches, there = tokens.patches, None
        if tokens.kept is not None:
            nowhere = patches.new_zeros(len(patches), self.given.cells.patches, patches.shape[2])
            patches = spread(patches, tokens.kept, onto=nowhere)
            there = torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device)
            there = there.scatter(1, tokens.kept, True)
        if tokens.pooled.shape[1]:
            patches = torch.cat([tokens.pooled[:, None], patches], dim=1)
            there = None if there is None else nn.functional.pad(there, (1, 0), value=True)
        return patches, there


def through(mlp: nn.Module, tokens: Tokens) -> Tokens:
    """All tokens of all pictures as rows of one matrix; a pooled feature without width is not there."""
    if not tokens.pooled.shape[1]:
        patches = mlp(tokens.patches.flatten(0, 1)).unflatten(0, tokens.patches.shape[:2])
        return tokens._replace(patches=patches)
    rows = torch.cat([tokens.pooled[:, None], tokens.patches], dim=1)
    rows = mlp(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
    return Tokens(rows[:, 1:], rows[:, 0], tokens.kept)


def both(terms: Tensor, asked: Tensor | None, offered: Tensor | None) -> tuple[Tensor, Tensor]:
    """The terms of positions that both views have, zero elsewhere, and how many there are in each picture."""
    there = torch.ones_like(terms, dtype=torch.bool)
    for present in (asked, offered):
        there = there if present is None else there & present
    return torch.where(there, terms, 0.0), there.sum(1).clamp(min=1)
