"""The commands about datasets."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mim_ray.config import parse, resolve
from mim_ray.options import Json, Overrides, Track
from mim_ray.output import keep, print_json, print_table
from mim_ray.tracking.results import in_use

data = typer.Typer(no_args_is_help=True, help="Datasets: import, verify, describe.")


def add_data_commands(app: typer.Typer) -> None:
    app.add_typer(data, name="data")


@data.command("import")
def data_import(
    source: str,
    out: Path,
    options: Overrides = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at the first unusable picture.")] = False,
    track: Track = True,
    as_json: Json = False,
) -> None:
    """SOURCE into OUT.beton: a folder, list file, tar shards, Hugging Face set (hf:NAME), or sample:NAME."""
    from mim_ray.data.importer import Import, import_set
    from mim_ray.data.sources import open_source

    settings = resolve(Import(), parse(options or []) | ({"strict": "true"} if strict else {}))
    card = import_set(open_source(source, split=settings.split), out, settings)
    for name, reason in card.skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    result = {
        "path": str(out),
        "samples": card.samples,
        "classes": len(card.classes),
        "skipped": len(card.skipped),
        "checksum": card.checksum,
    }
    if as_json:
        print_json(result)
    else:
        print_table((), [("beton", out), *card.lines()])
    if track and in_use():
        keep("data-import", result)


@data.command()
def verify(beton: Path, track: Track = True, as_json: Json = False) -> None:
    """Re-reads every sample against its stored checksum."""
    from mim_ray.data.verify import verify as verify_beton

    result = {"path": str(beton), "samples": verify_beton(beton)}
    if as_json:
        print_json(result)
    else:
        print(f"{beton}: all {result['samples']:,} samples are as they were written")
    if track and in_use():
        keep("data-verify", result)


@data.command()
def info(beton: Path, track: Track = True, as_json: Json = False) -> None:
    """The dataset's card."""
    from mim_ray.data.card import SetCard

    card = SetCard.read(beton)
    result = card.model_dump(mode="json")
    if as_json:
        print_json(result)
    else:
        print_table((), [("beton", beton), *card.lines()])
    if track and in_use():
        keep("data-info", result)
