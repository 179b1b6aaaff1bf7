"""How an encoder is judged by labels: mim-ray eval finetune | linear | knn MODEL.

They are sentences like every method's, so they run by the same loop; the model to be judged brings the encoder,
and the set how many classes there are. ViT: He et al. (MAE), tables 9 and 10; ResNet: Wightman et al. (RSB), A2
and A3, and MoCo's linear classifier.
"""

from mim_ray.config import resolve
from mim_ray.encoders.cnn import CNN
from mim_ray.encoders.target import Labels, Pixels
from mim_ray.encoders.vit import ViT
from mim_ray.measures.classify import Classify, Probe
from mim_ray.measures.heads import Linear
from mim_ray.measures.reconstruct import Reconstruct
from mim_ray.run import Checkpoint, Data, Eval, Optim, Run, Schedule
from mim_ray.siamese import Method
from mim_ray.transforms.crop import RandomCrop
from mim_ray.transforms.cutmix import CutMix
from mim_ray.transforms.erase import Erase
from mim_ray.transforms.mixup import MixUp
from mim_ray.transforms.randaugment import RandAugment
from mim_ray.transforms.view import Shared, T

ALL = Eval(every_epochs=10, most=None, pictures=0)
BY_LABELS = Checkpoint(best="eval/top1")
WHOLE = Data(crop=RandomCrop(scale=(0.08, 1.0)))


def finetune() -> Run:
    """Fine-tuning of a ViT: all of it is trained, later layers faster."""
    return Run(
        epochs=100,
        batch=1024,
        method=Method(
            shared=Shared(augment=RandAugment(), erase=Erase(), cutmix=CutMix(), mixup=MixUp()),
            t1=T(),
            t2=T(),
            encoder=ViT(size="base", norm=False, drop_path=0.1),
            target=Labels(),
            measure=Classify(norm=True, spread=2e-5),
        ),
        data=WHOLE,
        optim=Optim(blr=1e-3, betas=(0.9, 0.999), layer_decay=0.65, tokens_decay=False),
        schedule=Schedule(warmup_epochs=5),
        checkpoint=BY_LABELS,
        eval=ALL,
    )


def finetune_a3() -> Run:
    """Fine-tuning of a ResNet by RSB A3: 100 epochs at 160 pixels, looked at in 224."""
    return Run(
        epochs=100,
        batch=2048,
        method=Method(
            shared=Shared(augment=RandAugment(magnitude=6), cutmix=CutMix(), mixup=MixUp(alpha=0.1)),
            t1=T(),
            t2=T(),
            encoder=CNN(),
            target=Labels(),
            measure=Classify(loss="bce", threshold=0.2, smoothing=0.0),
        ),
        data=Data(crop=RandomCrop(size=(160, 160), scale=(0.08, 1.0))),
        optim=Optim(algorithm="lamb", blr=8e-3, per=2048, betas=(0.9, 0.999), weight_decay=0.02),
        schedule=Schedule(warmup_epochs=5),
        checkpoint=BY_LABELS,
        eval=Eval(every_epochs=10, most=None, pictures=0, share=0.95, size=(224, 224)),
    )


def finetune_a2() -> Run:
    """Fine-tuning of a ResNet by RSB A2: 300 epochs at 224 pixels."""
    changes = {
        "epochs": 300,
        "method.shared.augment.magnitude": 7,
        "method.encoder.drop_path": 0.05,
        "data.crop.size": (224, 224),
        "optim.blr": 5e-3,
        "eval.size": None,
    }
    return resolve(finetune_a3(), changes)


def linear() -> Run:
    """A linear classifier on a frozen ViT, by LARS, at several learning rates at once."""
    return Run(
        epochs=90,
        batch=16384,
        method=Method(
            t1=T(), t2=T(), encoder=ViT(size="base"), target=Labels(), measure=Probe(pool="class"), frozen=True
        ),
        data=WHOLE,
        optim=Optim(algorithm="lars", blr=0.1, weight_decay=0.0),
        schedule=Schedule(warmup_epochs=10),
        checkpoint=BY_LABELS,
        eval=ALL,
    )


def linear_r50() -> Run:
    """A linear classifier on a frozen ResNet, by SGD."""
    changes = {
        "epochs": 100,
        "batch": 256,
        "method.encoder": CNN(),
        "method.measure": Probe(rates=(1.0,)),
        "optim.algorithm": "sgd",
        "optim.blr": 30.0,
        "schedule.warmup_epochs": 0,
    }
    return resolve(linear(), changes)


def knn() -> Run:
    """The vote of the nearest neighbours: nothing is trained, so the sentence says nothing."""
    return Run(
        steps=0,
        batch=256,
        method=Method(
            t1=T(), t2=T(), encoder=ViT(size="base"), target=Pixels(), measure=Reconstruct(head=Linear())
        ),
        eval=Eval(most=None, pictures=0, neighbours=(10, 20, 100, 200), temperature=(0.07,)),
    )
