"""How much memory this process may still take, containers included."""

from pathlib import Path


def available_bytes() -> int:
    """The machine's free memory or what is left of the container's limit, whichever is less."""
    return min([_machine_free(), *_cgroup_free()])


def in_words(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _machine_free() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _cgroup_free(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    for limit, used, kinds in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            text = (root / limit).read_text().strip()
            if text != "max":
                held = dict(line.split() for line in (root / kinds).read_text().splitlines())
                cached = int(held["active_file"]) + int(held["inactive_file"])  # given back when asked for
                return [int(text) - int((root / used).read_text()) + cached]
        except OSError:
            continue
    return []
