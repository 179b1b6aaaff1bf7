"""Trained encoders: a folder of weights and a card, made at the end of a run and loaded anywhere."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mim_ray.config import Spec
from mim_ray.errors import Failure, Mistake
from mim_ray.evaluate.features import pooled
from mim_ray.methods import resolved
from mim_ray.run import Run
from mim_ray.siamese import Siamese
from mim_ray.tracking.registry import fetched
from mim_ray.transforms.crop import CenterCrop
from mim_ray.transforms.pixels import Normalise
from mim_ray.views import View

WEIGHTS, CARD = "encoder.safetensors", "encoder.json"


class Card(Spec):
    """What an encoder is and where it comes from."""

    method: str
    overrides: dict[str, str]
    steps: int
    dataset: str
    run_id: str | None = None
    metrics: dict[str, float]
    mim_ray: str

    @property
    def run(self) -> Run:
        return resolved(self.method, self.overrides)


class Pretrained(nn.Module):
    """Pictures in, features out."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card
        run = card.run
        self.encoder = run.method.encoder.build(run.data.crop.size, hides=False, pooled=True)
        self.normalise = Normalise(run.method.mean, run.method.std)
        self.pool = run.pool
        self._crop = CenterCrop(size=run.data.crop.size, share=run.eval.share)

    def forward_features(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) bytes → (B, 1 + N, D): the class token (a CNN's mean), then the patches."""
        tokens = self.encoder(View(self.normalise(pictures), None))
        return torch.cat([tokens.pooled[:, None], tokens.patches], dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) bytes → (B, D): one feature of each picture, as it was measured."""
        return pooled(self.encoder(View(self.normalise(pictures), None)), self.pool)

    def transform(self, picture: Image.Image) -> Tensor:
        """The middle of a picture as bytes (3, H, W), as the run looked at its pictures."""
        top, left, height, width, _ = self._crop.windows(0, 0, [0], [picture.height], [picture.width])[0].tolist()
        box = (left, top, left + width, top + height)
        middle = picture.convert("RGB").resize(self._crop.size[::-1], Image.Resampling.BILINEAR, box)
        return torch.from_numpy(np.array(middle)).permute(2, 0, 1)


def save_encoder(model: Siamese, card: Card, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = model.online.encoder.state_dict()
    save_file({name: weight.cpu().contiguous() for name, weight in state.items()}, folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps(card.model_dump(mode="json"), indent=1))


def load(where: str | Path, tracking_uri: str | None = None) -> Pretrained:
    """A folder, a run (its name or id), or a registered model: `mim-encoder@champion`, `mim-encoder/3`."""
    if (Path(where) / CARD).exists():
        return _loaded(Path(where))
    with tempfile.TemporaryDirectory() as folder:
        return _loaded(fetched(str(where), Path(folder), tracking_uri))


def _loaded(folder: Path) -> Pretrained:
    try:
        model = Pretrained(Card.model_validate_json((folder / CARD).read_text()))
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise Failure(f"{folder} holds no encoder that can be read: {' '.join(str(error).split())}") from None
    state.pop("mask_token", None)  # nothing is hidden from a trained encoder
    missing = model.encoder.load_state_dict(state, strict=False)
    if missing.missing_keys or missing.unexpected_keys:
        raise Mistake(f"{folder}: its weights are not those of {model.card.method}'s encoder: {missing}")
    return model.eval()
