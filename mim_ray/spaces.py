"""The search spaces: the files of `tune_spaces/`."""

import importlib.util
from pathlib import Path


def space_files() -> dict[str, Path]:
    """By name."""
    package = importlib.util.find_spec("tune_spaces")
    folders = package.submodule_search_locations if package else None
    files = [path for folder in folders or [] for path in Path(folder).glob("[a-z]*.py")]
    return {path.stem: path for path in sorted(files)}
