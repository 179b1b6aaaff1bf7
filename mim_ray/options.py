"""Options that many commands have."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Track = Annotated[bool, typer.Option(help="Also log to MLflow.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="path=value …")]
