"""`make demo`: the main job on embedded defaults, from sample pictures to a registered model."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.data.verify import verify
from mim_ray.evaluate.online import Onlooker
from mim_ray.evaluate.probes import probed
from mim_ray.launch import train
from mim_ray.methods import resolved
from mim_ray.run import Run
from mim_ray.siamese import Siamese
from mim_ray.tracking.run import add_results, resolved_uri
from mim_ray.transforms.crop import CenterCrop

METHOD = "rmae"
MODEL = "mim-encoder"
PICTURES = {"train": 6000, "val": 1600}
LABELS = {"label": "shape", "texture": "texture"}
SETTINGS: dict[str, object] = {
    "encoder": "micro",
    "workers": min(2, len(os.sched_getaffinity(0))),
    "cpus_per_worker": 1,
    "batch": 128,
    "steps": 200,
    "data.crop.scale": (0.5, 1.0),
    "method.measure.normalise": False,  # flat patches have no structure to be normalised to
    "method.measure.head.width": 64,
    "method.measure.head.depth": 1,
    "method.measure.head.heads": 4,
    "optim.blr": 2e-3,
    "schedule.warmup_epochs": 1,
    "eval.most": 1000,
    "eval.share": 1.0,
    "tracking.every_steps": 10,
    "tracking.model": MODEL,
}


def demo(
    folder: Path,
    *,
    track: bool = True,
    pictures: Mapping[str, int] = PICTURES,
    changes: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Everything is written below `folder`, but for what MLflow keeps; the numbers come back."""
    began = time.monotonic()
    betons = {split: _beton(folder, split, count) for split, count in pictures.items()}
    words = SETTINGS | {"name": time.strftime("demo-%Y%m%d-%H%M%S"), "storage": str(folder / "runs")}
    words |= {"data.train": str(betons["train"]), "data.val": str(betons["val"]), **(changes or {})}
    result = train(METHOD, words, track=track)
    run = resolved(METHOD, words)
    random, trained = _model(run), _model(run)
    trained.load_state_dict(load_file(Path(result["checkpoint"], "weights.safetensors")))
    before, after = (_probed(model, run, betons) for model in (random, trained))
    picture = folder / "reconstructions.png"
    Onlooker(run, torch.device("cpu")).draw(trained, picture)
    probe = {name: {"random": before[name], "trained": after[name]} for name in before}
    if result["run_id"] is not None:
        metrics = {f"probe/{name}_{when}": share for name, both in probe.items() for when, share in both.items()}
        add_results(resolved_uri(run.tracking.uri), result["run_id"], metrics, [picture])
    return {
        "beton": str(betons["train"]),
        "samples": sum(pictures.values()),
        "probe": probe,
        "picture": str(picture),
        "workers": run.most_workers,
        "seconds": round(time.monotonic() - began),
        **{name: result[name] for name in ("run_id", "name", "steps", "checkpoint", "images_per_second")},
        "model": result.get("model"),
        "loss": result["metrics"]["train/loss"],
    }


def _beton(folder: Path, split: str, count: int) -> Path:
    """Made at the first time, proven at every other."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"shapes-{split}-{count}.beton"
    if path.exists():
        verify(path)
    else:
        import_set(open_source(f"sample:shapes:n={count},split={split}"), path, Import(max_resolution=None))
    return path


def _model(run: Run) -> Siamese:
    """As a run begins: the weights are drawn from its seed."""
    torch.manual_seed(run.seed)
    return run.method.build(run.data.crop.size, run.seed)


def _probed(model: Siamese, run: Run, betons: Mapping[str, Path]) -> dict[str, float]:
    crop = CenterCrop(size=run.data.crop.size, share=run.eval.share)
    found = probed(model, betons["train"], betons["val"], crop, run.pool)
    return {name: found[label] for label, name in LABELS.items()}
