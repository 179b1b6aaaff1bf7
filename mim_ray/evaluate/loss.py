"""The method's own loss on pictures that it does not learn from, which are hidden alike every time."""

import torch

from mim_ray import world
from mim_ray.data.loader import Loader
from mim_ray.evaluate.features import evaluating
from mim_ray.siamese import Siamese


@torch.no_grad()
def loss_of(model: Siamese, loader: Loader) -> float:
    """Every picture counts alike; all workers call it and get the same."""
    total, pictures = 0.0, 0
    with evaluating(model):
        for batch in loader.epoch():
            mine = len(batch.samples)
            mine -= mine % 2 if model.method.shared.mixes else 0  # who has no partner is left out
            rows = world.gathered_objects(mine)
            if min(rows):  # of fewer pictures than workers there is no batch
                crops = (batch.crops[0][:mine],) * model.method.crops
                with world.dividing(rows):
                    total += mine * float(model(crops, batch.position[:mine]).loss)
                pictures += mine
    shares = world.gathered_objects((total, pictures))
    totals, counts = zip(*shares, strict=True)
    mean: float = sum(totals) / max(1, sum(counts))
    return mean
