"""`make demo`: sample pictures to a dataset, read back, and a method's loss on them."""

import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mim_ray.data.importer import Import, import_set
from mim_ray.data.loader import Loader
from mim_ray.data.sources import open_source
from mim_ray.data.verify import verify
from mim_ray.methods import resolved
from mim_ray.progress import progress

SETTINGS = {"encoder": "micro", "method.measure.normalise": False, "batch": 64}
STEPS = 60
SHEET = 8


def demo(folder: Path) -> dict[str, Any]:
    """Everything is written below `folder`; the numbers come back."""
    folder.mkdir(parents=True, exist_ok=True)
    beton, sheet = folder / "shapes.beton", folder / "crops.png"
    card = import_set(open_source("sample:shapes"), beton, Import(max_resolution=None))
    samples = verify(beton)
    run = resolved("mae", SETTINGS)
    loader = Loader(beton, batch=run.batch, crop=run.data.crop, seed=run.seed)
    began = time.perf_counter()
    images = sum(len(batch.samples) for batch in loader.epoch())
    rate = images / (time.perf_counter() - began)
    first = next(loader.batches())
    save_sheet(first.crops[0][: SHEET * SHEET], sheet)
    torch.manual_seed(run.seed)
    model = run.method.build(run.data.crop.size, run.seed)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, betas=run.optim.betas)
    losses = []
    with progress("mae on the samples", STEPS, "steps") as advance:
        for batch in loader.batches(0, STEPS):
            loss = model(batch.crops, batch.position).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
            advance(1)
    return {
        "beton": str(beton), "samples": samples, "checksum": card.checksum, "sheet": str(sheet),
        "backend": loader.backend, "images_per_second": round(rate),
        "loss_before": round(losses[0], 4), "loss_after": round(losses[-1], 4),
    }  # fmt: skip


def save_sheet(crops: torch.Tensor, path: Path) -> None:
    """A square of crops as one picture."""
    side = int(len(crops) ** 0.5)
    rows = crops[: side * side].permute(0, 2, 3, 1).unflatten(0, (side, side)).permute(0, 2, 1, 3, 4)
    Image.fromarray(rows.flatten(0, 1).flatten(1, 2).numpy()).save(path)
