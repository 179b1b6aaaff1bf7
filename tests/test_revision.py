"""The commit that a run's code was of."""

import subprocess
from pathlib import Path

from mim_ray.revision import revision


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    return subprocess.check_output(["git", "-C", folder, *who, *words], text=True).strip()


def test_a_file_is_of_a_commit_if_its_repository_knows_it(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("1")
    git(tmp_path, "init", "--quiet")
    assert revision(code) is None
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert revision(code) == head
    code.write_text("2")
    assert revision(code) == f"{head}+"


def test_what_is_in_no_repository_is_of_no_commit(tmp_path: Path) -> None:
    assert revision(tmp_path / "code.py") is None
