"""mim-ray show simmim — ImageNet: ViT-B 83.8 (800 epochs), ResNet-50 78.2 (100 epochs, RSB A3) (Li et al.)."""

from mim_ray.config import resolve
from mim_ray.encoders.cnn import CNN
from mim_ray.encoders.target import Pixels
from mim_ray.encoders.vit import ViT
from mim_ray.measures.heads import Linear
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.run import Data, Optim, Run, Schedule
from mim_ray.siamese import Method
from mim_ray.transforms.crop import RandomCrop
from mim_ray.transforms.mask import ComplementMask, RandomMask
from mim_ray.transforms.view import T


def simmim() -> Run:
    """SimMIM: a token in the place of hidden 32-pixel blocks, a linear head, L1."""
    return Run(
        epochs=800,
        batch=2048,
        method=Method(
            t1=T(mask=RandomMask(ratio=0.6, block=32)),
            t2=T(mask=ComplementMask()),
            encoder=ViT(size="base", hidden="replace"),
            target=Pixels(),
            measure=Reconstruct(head=Linear(), error="l1", normalise=False),
        ),
        data=Data(crop=RandomCrop(scale=(0.67, 1.0))),
        optim=Optim(blr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, clip=5),
        schedule=Schedule(warmup_epochs=10),
    )


def simmim_r50() -> Run:
    """SimMIM on a ResNet-50, as in the A²MIM paper: hidden pixels become the mean, the token follows the stem."""
    changes = {
        "method.encoder": CNN(name="resnet50", hidden="replace", at=0),
        "method.t1.fill": "mean",
        "epochs": 100,
        "optim.blr": 1.5e-4,
        "optim.clip": "none",
    }
    return resolve(simmim(), changes)
