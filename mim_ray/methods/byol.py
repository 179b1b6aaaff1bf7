"""mim-ray show byol — ResNet-50, ImageNet, 300 epochs: 72.5 linear (Grill et al., table of training lengths)."""

from mim_ray.config import resolve
from mim_ray.measures.heads import Mlp
from mim_ray.methods.mocov3 import mocov3_r50
from mim_ray.run import Run


def byol() -> Run:
    """BYOL: two crops, an averaged encoder, no negatives."""
    head = Mlp(layers=2, hidden=4096, out=256, activation="relu", norm="hidden")
    changes = {
        "method.target.momentum": 0.99,
        "method.measure.loss": "byol",
        "method.measure.temperature": 0.2,  # it has none
        "method.measure.rescale": False,
        "method.measure.projector": head,
        "method.measure.predictor": head,
        "data.crop.scale": (0.08, 1.0),
        "epochs": 300,
        "optim.blr": 0.3,
        "optim.weight_decay": 1e-6,
    }
    return resolve(mocov3_r50(), changes)
