"""Mixup between neighbours of the stream: a picture becomes a weighted mean of both of its pair."""

import torch
from pydantic import Field
from torch import Tensor

from mim_ray.config import Spec
from mim_ray.errors import Mistake
from mim_ray.transforms.cutmix import Mixed, neighbours
from mim_ray.transforms.keyed import uniforms

TRIES = 24
"""At the largest alpha all of them fail once in a thousand pictures, which are then halved."""


class MixUp(Spec):
    alpha: float = Field(0.8, gt=0, le=2, description="both parameters of the Beta distribution of the shares")

    def __call__(self, crops: tuple[Tensor, ...], key: Tensor) -> Mixed:
        if len(key) % 2:
            raise Mistake(f"mixup pairs the pictures of a worker, which has {len(key)}: expected an even number")
        share = beta(self.alpha, key)
        own = share[:, None, None, None]
        return Mixed(tuple(own * crop + (1 - own) * neighbours(crop) for crop in crops), share)


def beta(alpha: float, key: Tensor) -> Tensor:
    """One number of Beta(alpha, alpha) for each key, by Jöhnk's rejection: the first pair that falls inside."""
    x, y = (uniforms(key, 2 * TRIES) ** (1 / alpha)).view(-1, TRIES, 2).unbind(2)
    inside = (x + y <= 1) & (x + y > 0)
    first = inside.float().argmax(1, keepdim=True)
    x, y, inside = (found.gather(1, first)[:, 0] for found in (x, y, inside))
    return torch.where(inside, x / (x + y), 0.5)
