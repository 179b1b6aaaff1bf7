"""Processes that are there at once: forked from one that has torch, the training and MLflow imported."""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])


def command(words: list[str], folder: Path, environment: Mapping[str, str], seconds: float) -> tuple[int, str]:
    """`mim-ray …` in such a process: its exit status and what it said."""
    said = folder / ".said"
    process = SERVER.Process(target=_run, args=(words, folder, dict(environment), said))
    process.start()
    process.join(seconds)
    code = process.exitcode
    process.kill()
    process.join()
    return -1 if code is None else code, said.read_text()


def _run(words: list[str], folder: Path, environment: dict[str, str], said: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = words
    from mim_ray.cli import main

    main(words[1:])
