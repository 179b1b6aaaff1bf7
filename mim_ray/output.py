"""What a command gives: on stdout for a person or a script, and to MLflow."""

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mim_ray.tracking.results import keep_result


def print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(*heads, box=None, pad_edge=False, show_header=bool(heads))
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 160, emoji=False).print(table, highlight=False, markup=False)


def print_command(command: str, settings: Mapping[str, str]) -> None:
    """One shell command, a setting to a line."""
    print(" \\\n  ".join([command, *(shlex.quote(f"{path}={value}") for path, value in settings.items())]))


def cost_lines(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("trainable parameters", f"{cost['parameters'] / 1e6:,.1f} million"),
        ("parameters of the encoder", f"{cost['encoder_parameters'] / 1e6:,.1f} million"),
        ("FLOPs of a picture, forward and backward", f"{cost['flops'] / 1e9:,.1f} billion"),
        ("activations of a picture, float32, eager", f"{cost['activation_bytes'] / 1e6:,.1f} MB"),
    ]


def keep(
    command: str,
    result: dict[str, Any],
    *,
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, object] | None = None,
    files: Sequence[Path] = (),
    uri: str | None = None,
) -> None:
    """The whole result to MLflow; unless given, its numbers are the metrics and its words the parameters."""
    numbers = metrics or {name: value for name, value in result.items() if isinstance(value, int | float)}
    words = params or {name: value for name, value in result.items() if isinstance(value, str)}
    keep_result(
        command,
        params=words,
        metrics={f"{command}/{name}": value for name, value in numbers.items()},
        documents={f"{command}.json": result},
        files=files,
        uri=uri,
    )
