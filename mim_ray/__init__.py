"""mim_ray: masked image modelling from a laptop to an autoscaling Ray cluster.

Each public word is imported when it is first used, so that `import mim_ray` needs no engine and no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mim_ray.data.importer import Import, import_set
    from mim_ray.data.loader import Batch, Loader
    from mim_ray.data.sources import open_source
    from mim_ray.data.verify import verify
    from mim_ray.errors import Failure, Mistake
    from mim_ray.launch import train
    from mim_ray.methods import METHODS, resolved
    from mim_ray.models import Pretrained, load
    from mim_ray.run import Run
    from mim_ray.siamese import Method, Siamese
    from mim_ray.transforms.crop import CenterCrop, RandomCrop
    from mim_ray.weights.files import load_weights, save_timm, save_vitmae

_HOME = {
    "Batch": "data.loader",
    "CenterCrop": "transforms.crop",
    "Failure": "errors",
    "Import": "data.importer",
    "Loader": "data.loader",
    "METHODS": "methods",
    "Method": "siamese",
    "Mistake": "errors",
    "Pretrained": "models",
    "RandomCrop": "transforms.crop",
    "Run": "run",
    "Siamese": "siamese",
    "import_set": "data.importer",
    "load": "models",
    "load_weights": "weights.files",
    "open_source": "data.sources",
    "resolved": "methods",
    "save_timm": "weights.files",
    "save_vitmae": "weights.files",
    "train": "launch",
    "verify": "data.verify",
}

__all__ = [
    "METHODS", "Batch", "CenterCrop", "Failure", "Import", "Loader", "Method", "Mistake", "Pretrained",
    "RandomCrop", "Run", "Siamese", "import_set", "load", "load_weights", "open_source", "resolved", "save_timm",
    "save_vitmae", "train", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mim_ray' has no attribute {name!r}")
    return getattr(import_module(f"mim_ray.{_HOME[name]}"), name)
