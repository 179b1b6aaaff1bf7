"""mim-ray show mae — ViT-B/16, ImageNet, 100 epochs: 83.1 fine-tuned (Kong & Zhang, table 1)."""

from mim_ray.measures.reconstruct import Decoder, Reconstruct
from mim_ray.run import Optim, Run, Schedule
from mim_ray.siamese import Method
from mim_ray.transforms.mask import RandomMask
from mim_ray.transforms.view import T


def mae() -> Run:
    """Masked autoencoder: hide 75 % of the patches, paint them from the rest."""
    return Run(
        epochs=100,
        batch=1024,
        method=Method(t1=T(mask=RandomMask(ratio=0.75)), measure=Reconstruct(head=Decoder(width=512, depth=8))),
        optim=Optim(blr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Schedule(warmup_epochs=20),
    )
