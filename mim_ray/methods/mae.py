"""mim-ray show mae — ViT-B/16, ImageNet, 100 epochs: 83.1 fine-tuned (Kong & Zhang, table 1)."""

from mim_ray.config import resolve
from mim_ray.encoders.target import Pixels
from mim_ray.encoders.vit import ViT
from mim_ray.measures.heads import Decoder
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.run import Optim, Run, Schedule
from mim_ray.siamese import Method
from mim_ray.transforms.mask import ComplementMask, RandomMask
from mim_ray.transforms.view import T


def mae() -> Run:
    """Masked autoencoder: hide 75 % of the patches, paint them from the rest."""
    return Run(
        epochs=100,
        batch=1024,
        method=Method(
            t1=T(mask=RandomMask(ratio=0.75)),
            t2=T(mask=ComplementMask()),
            encoder=ViT(size="base", hidden="drop"),
            target=Pixels(),
            measure=Reconstruct(head=Decoder(width=512, depth=8, heads=16), error="l2", normalise=True),
        ),
        optim=Optim(blr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Schedule(warmup_epochs=20),
    )


def mae_few() -> Run:
    """MAE on a handful of pictures (section 4), much varied: draw them by data.few.n=10, also with
    data.few.one_class=NAME or data.few.per_class=1; five epochs are as long as five of the whole set."""
    changes = {
        "data.crop.scale": (0.08, 1.0),
        "epochs": 5,
        "schedule.warmup_epochs": 0.5,
        "method.shared.rotate": "on",
        "method.shared.colour": "on",
    }
    return resolve(mae(), changes)


def mae_jitter_whole() -> Run:
    """MAE with the whole picture's colours jittered, the target's too (table 4: 83.1)."""
    return resolve(mae(), {"method.shared.colour": "on"})


def mae_jitter_visible() -> Run:
    """MAE with the colours of the shown patches jittered, the target as it is (table 4: 83.0)."""
    return resolve(mae(), {"method.t1.colour": "on"})
