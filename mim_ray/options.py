"""Words that many commands have."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import Field, PositiveInt

from mim_ray.config import Spec, parse, resolve

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Track = Annotated[bool, typer.Option(help="Also log to MLflow.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster; by default RAY_ADDRESS, or one here.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="path=value …")]


class OfModel(Spec):
    """What is said about MODEL in the form of a setting, and is none of a run."""

    weights: Path | None = Field(None, description="a file for a timm name; none: timm fetches its own")


class OfEval(OfModel):
    seeds: PositiveInt = Field(1, description="runs of so many seeds, and what they have in common")


S = TypeVar("S", bound=Spec)


def apart(own: S, overrides: list[str] | None) -> tuple[S, dict[str, str]]:
    """The words that are a command's own, and those of the run."""
    words = parse(overrides or [])
    taken = {path: words.pop(path) for path in type(own).model_fields if path in words}
    return resolve(own, taken), words


def sentence(method: str | None, overrides: list[str] | None) -> tuple[str | None, dict[str, str]]:
    """A method and its overrides; the first word is one of these where a resumed run says which method it is."""
    words = list(overrides or [])
    if method is not None and "=" in method:
        return None, parse([method, *words])
    return method, parse(words)
