"""mim-ray show cmae — ViT-B/16, ImageNet, 100 epochs: 82.9 fine-tuned (Kong & Zhang, tables 2 to 4)."""

from mim_ray.config import resolve
from mim_ray.encoders.target import Ema
from mim_ray.encoders.vit import ViT
from mim_ray.measures.contrast import Contrast
from mim_ray.measures.heads import Mlp
from mim_ray.methods.mae import mae
from mim_ray.run import Run
from mim_ray.siamese import Method
from mim_ray.transforms.colour import Jitter
from mim_ray.transforms.mask import ComplementMask, RandomMask
from mim_ray.transforms.view import T


def cmae() -> Run:
    """Contrastive MAE: each token of a masked picture finds its like in the complement's (Eq. 9–11)."""
    head = Mlp(layers=2, hidden=2048, out=768, activation="gelu")
    method = Method(
        t1=T(mask=RandomMask(ratio=0.75), colour=Jitter()),
        t2=T(mask=ComplementMask(), colour=Jitter()),
        encoder=ViT(size="base", hidden="replace"),
        target=Ema(momentum=0.996),
        measure=Contrast(loss="infonce", by="token", temperature=0.2, projector=head, predictor=head),
    )
    return resolve(mae(), {"method": method})


def cmae_no_mask_token() -> Run:
    """C-MAE that drops hidden patches; the second view is whole, so that positions are shared (82.6)."""
    return resolve(cmae(), {"method.encoder.hidden": "drop", "method.t2.mask": "none"})


def cmae_byol() -> Run:
    """C-MAE without negatives (82.8)."""
    return resolve(cmae(), {"method.measure.loss": "byol"})


def cmae_byol_no_mask_token() -> Run:
    """C-MAE without negatives that drops hidden patches (82.5)."""
    return resolve(cmae_no_mask_token(), {"method.measure.loss": "byol"})


def cmae_class() -> Run:
    """C-MAE on the class token (82.5)."""
    return resolve(cmae(), {"method.measure.by": "class"})


def cmae_mean() -> Run:
    """C-MAE on the mean of the patch tokens (82.6)."""
    return resolve(cmae(), {"method.measure.by": "mean"})


def cmae_token_class() -> Run:
    """C-MAE on each patch token and the class token (82.9)."""
    return resolve(cmae(), {"method.measure.by": "token+class"})
