"""Who runs on this machine, as Linux tells it in /proc."""

import os
import signal
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def is_readable() -> bool:
    return (PROC / "self" / "environ").exists()


def others() -> list[int]:
    """All but this one."""
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()]


def session(process: int) -> int | None:
    """None for one that is gone, or dead and not yet asked after."""
    state, _, _, number, *_ = _read(process, "stat").rpartition(")")[2].split() or ["Z", "", "", "0"]
    return None if state == "Z" else int(number)


def environment(process: int) -> dict[str, str]:
    """As it was started with; empty for another user's."""
    pairs = (word.partition("=") for word in _read(process, "environ").split("\0"))
    return {name: value for name, equals, value in pairs if equals}


def program(process: int) -> str:
    return Path(_read(process, "cmdline").split("\0")[0]).name


def title(process: int) -> str:
    """All of its command line; some write another one over it."""
    return _read(process, "cmdline").replace("\0", " ").strip()


def send(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def _read(process: int, what: str) -> str:
    try:
        return (PROC / str(process) / what).read_text(errors="replace")
    except OSError:
        return ""
