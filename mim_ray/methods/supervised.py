"""mim-ray show supervised — ViT-B/16, ImageNet, 100 epochs from scratch, CutMix alone: a plain baseline.

The published 80.9 (Kong & Zhang, table 1) is fine-tuning from scratch: `mim-ray eval finetune random:vit-base`.
"""

from mim_ray.encoders.target import Labels
from mim_ray.encoders.vit import ViT
from mim_ray.measures.classify import Classify
from mim_ray.run import Data, Optim, Run, Schedule
from mim_ray.siamese import Method
from mim_ray.transforms.crop import RandomCrop
from mim_ray.transforms.cutmix import CutMix
from mim_ray.transforms.view import Shared, T


def supervised() -> Run:
    """Supervised training: a classifier on the mean of the patch tokens."""
    return Run(
        epochs=100,
        batch=1024,
        method=Method(
            shared=Shared(cutmix=CutMix(chance=0.5)),
            t1=T(),
            t2=T(),
            encoder=ViT(size="base"),
            target=Labels(),
            measure=Classify(classes=1000, pool="mean", smoothing=0.1),
        ),
        data=Data(crop=RandomCrop(scale=(0.08, 1.0))),
        optim=Optim(blr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
        schedule=Schedule(warmup_epochs=5),
    )
