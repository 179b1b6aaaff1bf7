"""The search's part of the speed contract: R11."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mim_ray.errors import Failure

Row = dict[str, float | int | str]
WORKERS = 2
WORDS = {
    "trials": 8, "workers_per_trial": WORKERS, "concurrent": 1, "method": "mae", "encoder": "micro",
    "data.train": "sample:shapes:n=2048", "batch": 64, "epochs": 18, "eval.most": 512, "precision": "fp32",
    "cpus_per_worker": max(1, len(os.sched_getaffinity(0)) // WORKERS),
}  # fmt: skip


def r11() -> list[Row]:
    """Eight trials of two workers where one fits at a time: how much of the whole command, Ray's start and the
    pictures of the end and all, some trial was being trained."""
    words = [f"{path}={value}" for path, value in WORDS.items()]
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "mim_ray", "search", "mask_ratio", "name=r11", *words, "--json"]
        began = time.perf_counter()
        ended = subprocess.run(command, cwd=name, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if ended.returncode:
            raise Failure(f"the search of R11 ended with {ended.returncode}: {ended.stderr[-500:]}")
        records = [json.loads(path.read_text()) for path in Path(name).glob("runs/r11/trials/*.json")]
        trained = sum(record["seconds"] for record in records)
        stopped = sum(record["state"] == "stopped" for record in records)
        return [
            {
                "trials": len(records), "stopped at a rung": stopped, "seconds": round(seconds, 1),
                "share of it trained": round(trained / seconds, 3),
                "share between first trial and end": json.loads(ended.stdout)["busy_share"],
            }
        ]  # fmt: skip


TABLES: dict[str, Callable[[], list[Row]]] = {"R11": r11}
