"""Words that many commands have."""

from typing import Annotated

import typer

from mim_ray.config import parse

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Track = Annotated[bool, typer.Option(help="Also log to MLflow.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster; by default RAY_ADDRESS, or one here.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="path=value …")]


def sentence(method: str | None, overrides: list[str] | None) -> tuple[str | None, dict[str, str]]:
    """A method and its overrides; the first word is one of these where a resumed run says which method it is."""
    words = list(overrides or [])
    if method is not None and "=" in method:
        return None, parse([method, *words])
    return method, parse(words)
