"""mim-ray show rmae — ViT-B/16, ImageNet, 100 epochs: 82.7 fine-tuned, PSNR 23.7 dB (Kong & Zhang, table 1)."""

from mim_ray.config import resolve
from mim_ray.methods.mae import mae
from mim_ray.run import Run


def rmae() -> Run:
    """Relaxed MAE: the decodings of a masked picture and of its complement agree (Eq. 8)."""
    return resolve(
        mae(),
        {"method.target": "twin", "method.measure": "relax", "method.measure.penalty": 1.0, "optim.blr": 3.0e-4},
    )


def rmae_25() -> Run:
    """R-MAE†: the second view hides 25 % by a draw of its own (82.8, 23.0 dB)."""
    return resolve(rmae(), {"method.t2.mask": "random", "method.t2.mask.ratio": 0.25})


def rmae_0() -> Run:
    """R-MAE‡: the second view is the whole picture (82.7, 22.9 dB)."""
    return resolve(rmae(), {"method.t2.mask": "none"})
