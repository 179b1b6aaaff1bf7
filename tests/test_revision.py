"""The commit that a run's code was of."""

import subprocess
from pathlib import Path

import pytest

from mim_ray.revision import SAID, revision, revision_of


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    return subprocess.check_output(["git", "-C", folder, *who, *words], text=True).strip()


def test_a_file_is_of_a_commit_if_its_repository_knows_it(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("1")
    git(tmp_path, "init", "--quiet")
    assert revision_of(code) is None
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert revision_of(code) == head
    code.write_text("2")
    assert revision_of(code) == f"{head}+"


def test_what_is_in_no_repository_is_of_no_commit(tmp_path: Path) -> None:
    assert revision_of(tmp_path / "code.py") is None


def test_what_is_said_counts_and_nothing_said_of_an_image_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SAID, "0123abc+")
    assert revision() == "0123abc+"
    monkeypatch.setenv(SAID, "")
    assert revision() is None
    monkeypatch.delenv(SAID)
    assert revision() == revision_of(Path(__file__).parent.parent / "mim_ray" / "revision.py")
