"""Every benchmark of the speed contract by its id; `mim-ray bench` runs them and keeps what it measured."""

import datetime
import json
import logging
import os
import platform
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mim_ray import search_bench, step_bench, train_bench
from mim_ray.data import bench as data_bench
from mim_ray.errors import Mistake

logger = logging.getLogger("mim_ray")
RATIOS = data_bench.RATIOS | step_bench.RATIOS | train_bench.RATIOS
TABLES = data_bench.TABLES | step_bench.TABLES | train_bench.TABLES | search_bench.TABLES


def measure(ids: Sequence[str], pairs: int) -> dict[str, Any]:
    """{id: {ratio, low, high, pairs, unit}} for a ratio, {id: [rows]} for a table."""
    result: dict[str, Any] = {}
    for name in ids:
        result[name] = TABLES[name]() if name in TABLES else _rounded(RATIOS[name](pairs)._asdict())
        logger.info("%s: %s", name, json.dumps(result[name]))  # what is measured is not lost with what is not
    return result


def prepare_record(folder: Path) -> None:
    """Refuses a folder that cannot be written before anything is measured in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Mistake(f"--record {folder}: cannot be written ({error.strerror})") from None


def write_record(result: dict[str, Any], folder: Path) -> Path:
    now = datetime.datetime.now(datetime.UTC)
    path = folder / f"{now:%Y-%m-%d-%H%M}-{'-'.join(result)}.json"
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps({"machine": machine(), "result": result}, indent=1, ensure_ascii=False) + "\n")
    aside.replace(path)
    return path


def machine() -> dict[str, object]:
    packages = {name: version(name) for name in ("mim_ray", "torch", "torchvision", "ffcv", "numba", "pillow")}
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        **packages,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
