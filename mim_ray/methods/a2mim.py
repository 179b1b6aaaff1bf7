"""mim-ray show a2mim — ImageNet: ViT-S 82.2 (300 epochs), ViT-B 84.2 (800), ResNet-50 78.8 (100) (Li et al.)."""

from mim_ray.config import resolve
from mim_ray.encoders.cnn import CNN
from mim_ray.methods.simmim import simmim
from mim_ray.run import Run


def a2mim() -> Run:
    """A²MIM: hidden pixels become the mean, a token is added at a middle block, and spectra are compared too."""
    changes = {
        "method.t1.fill": "mean",
        "method.encoder.hidden": "add",
        "method.encoder.at": 8,
        "method.measure.fourier": "paper",
        "method.measure.fourier.weight": 0.5,
    }
    return resolve(simmim(), changes)


def a2mim_r50() -> Run:
    """A²MIM on a ResNet-50, the token after stage 3."""
    return resolve(a2mim(), {"method.encoder": CNN(name="resnet50", hidden="add", at=3)} | FOR_RESNETS)


def a2mim_code() -> Run:
    """A²MIM as published in code: the token on the patch embedding, λ 0.1, spectra of the batch."""
    changes = {
        "method.t1.fill": "picture_mean",
        "method.encoder.at": 0,
        "method.measure.fourier": "code",
        "method.measure.fourier.weight": 0.1,
        "optim.per": 512,
    }
    return resolve(a2mim(), changes)


def a2mim_r50_code() -> Run:
    """A²MIM on a ResNet-50 as published in code: focal L1, λ 0.5, spectra of the batch."""
    changes = {
        "method.t1.fill": "picture_mean",
        "method.measure.error": "focal_l1",
        "method.measure.fourier": "code",
        "method.measure.fourier.weight": 0.5,
        "method.measure.fourier.leak": 1e-3,
        "optim.blr": 3e-4,
        "optim.per": 512,
        "data.crop.scale": (0.8, 1.0),
    }
    return resolve(a2mim_r50(), changes)


FOR_RESNETS = {"epochs": 100, "optim.blr": 1.5e-4, "optim.clip": "none"}
