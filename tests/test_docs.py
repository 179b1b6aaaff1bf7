"""Every command in a document runs: shell blocks and Python blocks of a document, in order, in one folder.

The first command of all is a process as a shell starts it; later ones are forked, which spares imports.
`make` targets are expanded here and executed by `.ci/run`.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import fresh
from tests.forked import command

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "benchmarks/README.md",
]
SECONDS = 500.0
MLFLOWS_OWN = "ignore::DeprecationWarning"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(document.read_text())


def run(words: list[str], folder: Path, *, forked: bool = False) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MIM_RAY_CACHE": str(folder / "cache"),
    }
    if forked:
        code, said = command(words, folder, environment, SECONDS)
    else:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
        code, said = done.returncode, done.stdout + done.stderr
    # `doctor` reports what this machine lacks with exit 1; the document shows that it runs, not that all is well.
    allowed = {0, 1} if words[:2] == ["mim-ray", "doctor"] else {0}
    assert code in allowed, f"{shlex.join(words)}\n{said}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_says_runs(document: Path, tmp_path: Path) -> None:
    fresh(tmp_path)
    forked = document != DOCUMENTS[0]
    for language, text in blocks(document):
        if language == "python":
            run([sys.executable, "-W", "error", "-W", MLFLOWS_OWN, "-c", text], tmp_path)
            continue
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                subprocess.run(["make", "-n", "-C", str(ROOT), *words[1:]], check=True, capture_output=True)
            elif words:
                run(words, tmp_path, forked=forked and words[0] == "mim-ray")
                forked = True


def test_links_in_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert "://" in target or (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_help_of_make_names_every_target() -> None:
    said = subprocess.check_output(["make", "-s", "-C", str(ROOT), "help"], text=True)
    for target in ("help", "setup", "demo", "test", "check", "bench"):
        assert f"make {target}" in said
