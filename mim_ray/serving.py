"""What `mlflow models serve` loads, by the name in every encoder's MLmodel file: pictures in, features out."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mim_ray.models import Pretrained, load

COLUMN = "image"
"""Of what is sent: the bytes of a JPEG, PNG … file in base64."""


class Served:
    def __init__(self, model: Pretrained) -> None:
        self._model = model

    def predict(self, sent: Any, params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """A table with a column of pictures → (pictures, D)."""
        pictures = torch.stack([self._model.transform(opened(text)) for text in sent[COLUMN]])
        with torch.no_grad():
            features: NDArray[np.float32] = self._model(pictures).float().numpy()
        return features


def opened(text: object) -> Image.Image:
    """Wholly read, so that what is wrong with it is said here: Pillow reads pixels when they are asked for."""
    try:
        if not isinstance(text, str):
            raise TypeError
        picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
        picture.load()
    except Exception:  # Pillow's decoders raise whatever the broken bytes lead them to
        raise ValueError(f"{COLUMN}: expected the bytes of a picture file, whole, in base64") from None
    return picture


def _load_pyfunc(folder: str) -> Served:
    """MLflow calls it by this name."""
    return Served(load(Path(folder)))
