"""Where a dataset lies on this node, ready to be read: a path, a URL, or a sample set made on the spot."""

import hashlib
import os
from pathlib import Path

from filelock import FileLock

from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.data.stage import Mode, stage


def local_beton(where: str | Path, mode: Mode = "auto") -> Path:
    text = str(where)
    return _sample_set(text) if text.startswith("sample:") else stage(text, mode=mode)


def _sample_set(text: str) -> Path:
    """Imported once per node and kept; what it holds is a function of its name alone."""
    folder = Path(os.environ.get("MIM_RAY_CACHE") or "~/.cache/mim_ray").expanduser() / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.beton"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            import_set(open_source(text), path, Import(max_resolution=None, quality=95))
    return path
