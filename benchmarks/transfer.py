"""Is a pretrained encoder better than a random one? R-MAE in small, a linear probe and few labels, seed by seed.

python benchmarks/transfer.py shapes digits crops --seeds 3
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from mim_ray.demo import SETTINGS
from mim_ray.judge import evaluate
from mim_ray.launch import train

SETS = {
    "shapes": ("sample:shapes:n=6000", "sample:shapes:n=1600,split=val"),
    "digits": ("sample:digits", "sample:digits:split=val"),
    "crops": ("sample:crops:n=2000,size=48", "sample:crops:n=1000,size=48,split=val"),
}
HERE: dict[str, object] = {"workers": 0, "eval.share": 1.0, "schedule.warmup_epochs": 1}
PROTOCOLS: dict[str, dict[str, object]] = {
    "linear": {"epochs": 8, "batch": 256, "eval.every_epochs": 8},
    "fewshot": {"epochs": 60, "per_class": 10, "eval.every_epochs": 60, "data.crop.scale": (0.5, 1.0)},
}


def rows(name: str, seeds: int, changes: Mapping[str, object]) -> list[dict[str, Any]]:
    """One for each seed and protocol: the share of pictures whose class is found, by either encoder."""
    data = dict(zip(("data.train", "data.val"), SETS[name], strict=True))
    found = []
    for seed in range(seeds):
        words = {**SETTINGS, **HERE, **data, "tracking.model": None, "seed": seed, "name": f"{name}-seed{seed}"}
        trained = train("rmae", {**words, **changes})["name"]
        for protocol, settings in PROTOCOLS.items():
            words = {**HERE, **data, **settings, "seed": seed, **changes}
            random, after = (
                evaluate(protocol, model, {**words, "name": f"{name}-{protocol}-{label}-seed{seed}"})["metrics"][
                    "eval/top1"
                ]
                for label, model in (("random", "random:micro"), ("trained", trained))
            )
            row = {"set": name, "seed": seed, "protocol": protocol, "random": random, "trained": after}
            print(json.dumps(row), flush=True)
            found.append(row)
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
    words.add_argument("--seeds", type=int, default=3)
    given = words.parse_args()
    print(table([row for name in given.sets for row in rows(name, given.seeds, {})]))


if __name__ == "__main__":
    main()
