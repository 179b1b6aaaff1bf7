"""Is a pretrained encoder better than it was when drawn? R-MAE in small: a linear probe and few labels, by seed.

python benchmarks/transfer.py shapes digits crops --seeds 0 1 2
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mim_ray.data.place import local_beton
from mim_ray.demo import SETTINGS
from mim_ray.evaluate.probes import probed
from mim_ray.judge import evaluate
from mim_ray.launch import train
from mim_ray.methods import resolved
from mim_ray.tracking.run import add_results, resolved_uri
from mim_ray.transforms.crop import CenterCrop

SETS = {
    "shapes": ("sample:shapes:n=6000", "sample:shapes:n=1600,split=val"),
    "digits": ("sample:digits", "sample:digits:split=val"),
    "crops": ("sample:crops:n=2000,size=48", "sample:crops:n=1000,size=48,split=val"),
}
"""Generated pictures, handwritten digits, and cuts of eight or so photographs: which one is it of?"""

HERE: dict[str, object] = {"workers": 0, "eval.share": 1.0}
FEW: dict[str, object] = {
    "per_class": 50,
    "epochs": 30,
    "batch": 32,
    "schedule.warmup_epochs": 1,
    "eval.every_epochs": 30,
    "data.crop.scale": (0.5, 1.0),
    "optim.blr": 8e-3,
    "method.encoder.drop_path": 0.0,
    **dict.fromkeys(
        ("method.shared.augment", "method.shared.erase", "method.shared.cutmix", "method.shared.mixup")
    ),
}
"""The recipe is for a million pictures of 224 pixels: these are 32 pixels wide, and learnt from in 360 steps."""


def rows(
    name: str, seeds: Iterable[int], changes: Mapping[str, object], few: Mapping[str, object]
) -> list[dict[str, Any]]:
    """One for each seed and protocol: the share of pictures whose class is found, from either encoder."""
    data = dict(zip(("data.train", "data.val"), SETS[name], strict=True))
    found = []
    for seed in seeds:
        called = {"tracking.model": None, "seed": seed, "name": f"{name}-seed{seed}"}
        words = {**SETTINGS, **HERE, **data, **called, **changes}
        result = train("rmae", words)
        scores = {"linear": linear(words, result), "fewshot": {}}
        for label, model in (("random", "random:micro"), ("trained", result["name"])):
            named = {"seed": seed, "name": f"{name}-few-{label}-seed{seed}"}
            judged = evaluate("fewshot", model, {**HERE, **data, **few, **named})
            scores["fewshot"][label] = judged["metrics"]["eval/top1"]
        for protocol, both in scores.items():
            found.append({"set": name, "seed": seed, "protocol": protocol, **both})
            print(json.dumps(found[-1]), flush=True)
    return found


def linear(words: Mapping[str, object], result: Mapping[str, Any]) -> dict[str, float]:
    """On frozen features of the encoder as it was drawn and as it is; kept with the run that trained it."""
    run = resolved("rmae", words)
    torch.manual_seed(run.seed)
    model = run.method.build(run.data.crop.size, run.seed)
    sets = local_beton(str(run.data.train)), local_beton(str(run.data.val))
    crop = CenterCrop(size=run.data.crop.size, share=run.eval.share)
    found = {"random": next(iter(probed(model, *sets, crop, run.pool).values()))}
    model.load_state_dict(load_file(Path(result["checkpoint"], "weights.safetensors")))
    found["trained"] = next(iter(probed(model, *sets, crop, run.pool).values()))
    metrics = {f"probe/{label}": share for label, share in found.items()}
    add_results(resolved_uri(run.tracking.uri), result["run_id"], metrics, [])
    return found


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| set | protocol | seed | random | R-MAE | margin |", "|---|---|---|---|---|---|"]
    for row in sorted(found, key=lambda row: (row["set"], row["protocol"], row["seed"])):
        margin = row["trained"] - row["random"]
        scores = f"{row['random']:.3f} | {row['trained']:.3f} | {margin:+.3f}"
        lines.append(f"| {row['set']} | {row['protocol']} | {row['seed']} | {scores} |")
    return "\n".join(lines)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("sets", nargs="+", choices=SETS)
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = words.parse_args()
    print(table([row for name in given.sets for row in rows(name, given.seeds, {}, FEW)]))


if __name__ == "__main__":
    main()
