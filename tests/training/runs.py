"""Small runs in processes of their own."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mim_ray.config import changed
from mim_ray.methods import recipe, resolved
from mim_ray.training.job import Job
from tests.forked import SERVER
from tests.training.one_worker import NEVER, Act, Part, nothing, take

SMALL: dict[str, object] = {
    "encoder": "micro",
    "data.train": "sample:shapes:n=64",
    "data.backend": "torch",
    "precision": "fp32",
    "batch": 12,
    "steps": 8,
    "schedule.warmup_epochs": 0.5,
    "tracking.every_steps": 1,
    "checkpoint.every_steps": 3,
    "optim.blr": 5e-3,
    "eval.every_epochs": "none",
}
KILLS = int(os.environ.get("MIM_RAY_TEST_KILLS", "3"))
"""How often a run is killed at random moments."""

FILES_AT_THE_END = 17
"""Of a tracked run: eight of the encoder (weights, cards, example, what MLflow serves it by), nine of the
method."""

ENTRIES_AT_THE_END = FILES_AT_THE_END + 1
"""Of its journal: the step of that model comes after them."""


class Ended(NamedTuple):
    code: int | None
    said: str
    result: dict[str, Any]
    losses: dict[int, float]


def job_at(folder: Path, method: str, changes: dict[str, object], name: str = "run") -> Path:
    """Its file; what it makes lies in folder/name."""
    run = resolved(method, {**SMALL, "name": name, "storage": str(folder), **changes})
    path = folder / f"{name}.job"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(Job(method, changed(recipe(method), run)).as_json())
    return path


def worked(
    job: Path,
    world: int = 1,
    die_at: int = NEVER,
    stop_at: int = NEVER,
    prepare: Act = nothing,
    at: Mapping[int, Act] | None = None,
) -> Ended:
    """The job in `world` processes; what the first of them found."""
    store = job.with_suffix(f".{secrets.token_hex(4)}")
    parts = [Part(job, rank, world, store, die_at, stop_at, prepare, at or {}) for rank in range(world)]
    parts[0].found.unlink(missing_ok=True)
    processes = [SERVER.Process(target=take, args=(part,)) for part in parts]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(200)
    finally:
        for process in processes:
            process.kill()
    said = "\n".join(part.said.read_text() for part in parts)
    content: dict[str, Any] = {"result": {}, "history": []}
    if parts[0].found.exists():
        content = json.loads(parts[0].found.read_text())
    losses = {int(row["step"]): row["train/loss"] for row in content["history"] if "train/loss" in row}
    return Ended(processes[0].exitcode, said, content["result"], losses)
