"""Where a dataset lies on this node, ready to be read: a path, a URL, or a sample set made on the spot."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock

from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.data.stage import Mode, cache_folder, stage
from mim_ray.errors import without_secrets
from mim_ray.progress import progress

MAKERS = ("mim_ray", "numpy", "pillow", "scikit-image", "scikit-learn")
"""Whose versions decide the pixels of a sample set."""


def local_beton(where: str | Path, mode: Mode = "auto") -> Path:
    text = str(where)
    return _sample_set(text) if text.startswith("sample:") else _staged(text, mode)


def _staged(text: str, mode: Mode) -> Path:
    name = Path(without_secrets(text)).name
    with ExitStack() as shown:
        advance: Callable[[int], None] | None = None
        copied = 0

        def tell(now: int, total: int) -> None:
            nonlocal advance, copied
            advance = advance or shown.enter_context(progress(f"copy {name}", total, "bytes"))
            advance(now - copied)
            copied = now

        return stage(text, mode=mode, progress=tell)


def _sample_set(text: str) -> Path:
    """Imported once per node and kept; what it holds is a function of its name and of what makes it."""
    folder = cache_folder("samples")
    folder.mkdir(parents=True, exist_ok=True)
    identity = "\n".join([text, *map(_installed, MAKERS)])
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.beton"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            import_set(open_source(text), path, Import(max_resolution=None, quality=95))
    return path


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"
