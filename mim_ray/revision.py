"""Which commit a file is of."""

import os
import subprocess
from pathlib import Path

SAID = "MIM_RAY_COMMIT"
"""What an image was built of, or what was sent with a job: neither has the repository. Empty: nobody knows."""


def revision() -> str | None:
    """Of this code, as it is said or found."""
    said = os.environ.get(SAID)
    return revision_of(Path(__file__)) if said is None else said or None


def revision_of(file: Path) -> str | None:
    """With a + where its repository was changed since; None where it is in none, as an installed package is."""
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    return _git(file.parent, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
