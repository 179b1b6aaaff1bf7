"""Trained encoders: a folder of weights and a card, made at the end of a run and loaded anywhere."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mim_ray.encoders.vit import VisionTransformer, ViT
from mim_ray.errors import Failure, Mistake
from mim_ray.evaluate.features import pooled
from mim_ray.model_card import ModelCard, described
from mim_ray.run import Run
from mim_ray.tracking.registry import BEST, ENCODER, fetch, has_artifact, run_of
from mim_ray.tracking.run import resolved_uri, tags_of
from mim_ray.transforms.crop import CenterCrop
from mim_ray.transforms.pixels import Normalise
from mim_ray.views import View
from mim_ray.weights.names import encoder_in

WEIGHTS, CARD, EXAMPLE, README = "encoder.safetensors", "encoder.json", "example.safetensors", "README.md"
ALL_WEIGHTS = "weights.safetensors"
"""Of a folder that holds the whole method."""

DIGEST = "mim_ray.encoder_sha256"
"""The tag of a run for the digest of its encoder's files, which lie elsewhere."""

PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}


class Pretrained(nn.Module):
    """Pictures in, features out."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.card = card
        run = card.run
        self.encoder = run.method.encoder.build(run.data.crop.size, hides=False, pooled=True)
        self.normalise = Normalise(run.method.mean, run.method.std)
        self.pool = run.pool
        self._crop = CenterCrop(size=run.data.crop.size, share=run.eval.share)

    def forward_features(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) bytes → (B, 1 + N, D): the class token (a CNN's mean), then the patches."""
        self._check(pictures)
        return self.tokens(self.normalise(pictures))

    def tokens(self, pixels: Tensor) -> Tensor:
        """The same from normalised pixels."""
        tokens = self.encoder(View(pixels, None))
        return torch.cat([tokens.pooled[:, None], tokens.patches], dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) bytes → (B, D): one feature of each picture, as it was measured."""
        self._check(pictures)
        return pooled(self.encoder(View(self.normalise(pictures), None)), self.pool)

    def _check(self, pictures: Tensor) -> None:
        """A CNN takes pictures of any size."""
        spec, size = self.card.run.method.encoder, self.card.run.data.crop.size
        whole = pictures.dim() == 4 and pictures.shape[1] in (spec.channels, 3)
        if not whole or (isinstance(spec, ViT) and tuple(pictures.shape[2:]) != size):
            came, wanted = (" × ".join(map(str, sizes)) for sizes in (pictures.shape[1:], (spec.channels, *size)))
            raise Mistake(
                f"pictures of {came} came: expected (pictures, {wanted.replace(' ×', ',')}); for others of a ViT "
                "load it with size=(height, width), which resamples its positions"
            )

    def transform(self, picture: Image.Image) -> Tensor:
        """The middle of a picture as bytes (3, H, W), as the run looked at its pictures."""
        top, left, height, width, _ = self._crop.windows(0, 0, [0], [picture.height], [picture.width])[0].tolist()
        box = (left, top, left + width, top + height)
        middle = picture.convert("RGB").resize(self._crop.size[::-1], Image.Resampling.BILINEAR, box)
        return torch.from_numpy(np.array(middle)).permute(2, 0, 1)


def save_encoder(weights: Mapping[str, Tensor], card: ModelCard, folder: Path) -> Pretrained:
    """Weights, the card for programs and for people, and an example: some pictures and their features."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, folder / WEIGHTS)
    card = card.model_copy(update={"weights_sha256": checksum_of(folder / WEIGHTS)})
    (folder / CARD).write_text(json.dumps(card.model_dump(mode="json"), indent=1))
    (folder / README).write_text(described(card))
    pictures = example_of(card.run)
    model = _loaded(folder)
    with torch.no_grad():
        features = model(pictures)
    save_file({"pictures": pictures, "features": features.contiguous()}, folder / EXAMPLE)
    return model


def describe_method(encoder: Path, weights: Path, folder: Path) -> None:
    """What a saved encoder has beside its weights, for a folder of all the method's: that is loaded as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in encoder.iterdir():
        if path.name not in (WEIGHTS, CARD):
            shutil.copy(path, folder)
    card = ModelCard.model_validate_json((encoder / CARD).read_text())
    card = card.model_copy(update={"weights_sha256": checksum_of(weights)})
    (folder / CARD).write_text(json.dumps(card.model_dump(mode="json"), indent=1))


def checksum_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def example_of(run: Run) -> Tensor:
    """(2, channels, height, width) bytes, the same for ever: smooth waves and noise."""
    height, width = run.data.crop.size
    channels = run.method.encoder.channels
    number = torch.arange(2 * channels * height * width, dtype=torch.int64).view(2, channels, height, width)
    waves = 128 + 90 * torch.sin(number.float() / (7 + width))
    return (waves + (number * 2654435761 % 997) % 37).clamp(0, 255).byte()


def load(
    where: str | Path,
    tracking_uri: str | None = None,
    keep: Path | None = None,
    size: tuple[int, int] | None = None,
) -> Pretrained:
    """A folder, a run (its name or id), a registered model (`mim-encoder@champion`, `mim-encoder/3`), or any of
    these as it was when it was judged best: `RUN/best`.

    `keep`: a new folder for the files it is loaded from. `size`: height and width of other pictures than it was
    trained on.
    """
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(where) if (Path(where) / CARD).exists() else fetched(str(where), Path(aside), tracking_uri)
        model = _loaded(folder, size)
        if keep is not None:
            shutil.copytree(folder, keep)
    return model


def fetched(where: str, to: Path, uri: str | None = None) -> Path:
    """The encoder's folder of a run or a registered model, copied here."""
    uri = resolved_uri(uri)
    name, _, last = where.rpartition("/")
    best_is_asked_for = last == "best"
    run_id = run_of(uri, name if best_is_asked_for else where)
    if best_is_asked_for and (there := _bests(uri, run_id)):
        found = _newest_whole([fetch(uri, run_id, f"{slot}/{ENCODER}", to / slot) for slot in there])
        refuse_pickles(found)
        return found
    if has_artifact(uri, run_id, ENCODER):
        found = fetch(uri, run_id, ENCODER, to)
        refuse_pickles(found)
        if tags_of(uri, run_id).get(DIGEST) not in (None, digest_of(found)):
            raise Failure(f"{where}: its files are not as they were logged: the digest of run {run_id} is another")
        return found
    hint = f": {where}/best is its best so far" if _bests(uri, run_id) else ""
    raise Mistake(f"{where}: run {run_id} has no encoder yet, which is logged when the run ends{hint}")


def _bests(uri: str, run_id: str) -> list[str]:
    return [slot for slot in BEST if has_artifact(uri, run_id, slot)]


def _newest_whole(folders: list[Path]) -> Path:
    """Of two that are written in turn, of which one may just be."""
    cards = {folder: ModelCard.model_validate_json((folder / CARD).read_text()) for folder in folders}
    whole = [folder for folder, card in cards.items() if card.weights_sha256 == checksum_of(folder / WEIGHTS)]
    return max(whole or folders, key=lambda folder: cards[folder].steps)


def refuse_pickles(folder: Path) -> None:
    held = [path.name for path in folder.rglob("*") if path.suffix in PICKLES]
    if held:
        raise Mistake(f"{folder} holds {held[0]}, which may run anything when it is read: expected {WEIGHTS}")


def digest_of(folder: Path) -> str:
    """Of all files and their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = (f"{checksum_of(path)} {path.relative_to(folder)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _loaded(folder: Path, size: tuple[int, int] | None = None) -> Pretrained:
    try:
        card = ModelCard.model_validate_json((folder / CARD).read_text())
        if size is not None:
            words = card.overrides | {"data.crop.size": ",".join(map(str, size))}
            card = card.model_copy(update={"overrides": words})
        model = Pretrained(card)
        file = folder / (WEIGHTS if (folder / WEIGHTS).exists() else ALL_WEIGHTS)
        if model.card.weights_sha256 != checksum_of(file):
            raise Failure(f"{folder}: {file.name} is not as it was written: its checksum is not that of {CARD}")
        state = load_file(file) if file.name == WEIGHTS else encoder_in(load_file(file))
    except (OSError, ValueError, SafetensorError) as error:
        refuse_pickles(folder)
        raise Failure(f"{folder} holds no encoder that can be read: {' '.join(str(error).split())}") from None
    state.pop("mask_token", None)  # nothing is hidden from a trained encoder
    if size is not None and isinstance(model.encoder, VisionTransformer):
        state["pos_embed"] = model.encoder.resampled(state["pos_embed"])
    missing = model.encoder.load_state_dict(state, strict=False)
    if missing.missing_keys or missing.unexpected_keys:
        raise Mistake(f"{folder}: its weights are not those of {model.card.method}'s encoder: {missing}")
    return model.eval()
