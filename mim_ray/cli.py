"""`mim-ray`: results on stdout, everything else on stderr; 0 done, 1 failed, 2 the user's mistake."""

import json
import logging
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mim_ray.config import parse, resolve
from mim_ray.errors import Failure, Mistake, nearest

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Masked image modelling on Ray.",
)
data = typer.Typer(no_args_is_help=True, help="Datasets: import, verify, describe.")
app.add_typer(data, name="data")

STOPPED = 130
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="path=value …")]


def main(words: Sequence[str] | None = None) -> None:
    """The console script."""
    sys.exit(run(words))


def run(words: Sequence[str] | None = None) -> int:
    _quiet_logs()
    try:
        code = app(args=None if words is None else list(words), standalone_mode=False)
        if code == STOPPED:  # what Typer makes of a KeyboardInterrupt
            return _say("stopped", STOPPED)
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _say("stopped", STOPPED)
    except typer.TyperException as mistake:
        message = mistake.format_message()
        hint = ": settings are written name=value" if message.startswith("No such option") else ""
        return _say(message + hint, 2)
    except Mistake as mistake:
        return _say(str(mistake), 2)
    except Failure as failure:
        return _say(str(failure), 1)
    except OSError as error:
        return _say(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), 1)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """The methods and the search spaces."""
    from mim_ray.methods import METHODS
    from mim_ray.spaces import space_names

    methods = {name: (recipe.__doc__ or "").strip().splitlines()[0] for name, recipe in METHODS.items()}
    spaces = space_names()
    if as_json:
        _print_json({"methods": list(methods), "spaces": spaces})
        return
    _print_table(("method", "what it is"), methods.items())
    _print_table(("space",), [(name,) for name in spaces])


@app.command()
def show(method: str, overrides: Overrides = None, as_json: Json = False) -> None:
    """The fully resolved run, as overrides that can be pasted back."""
    from mim_ray.config import flatten
    from mim_ray.methods import resolved

    settings = flatten(resolved(method, parse(overrides or [])))
    if as_json:
        _print_json({"method": method, "overrides": settings})
        return
    print(method)
    for path, value in settings.items():
        print(f"{path}={_quoted(value)}")


@app.command()
def doctor(
    beton: Annotated[
        Path | None, typer.Argument(help="Also ask whether this dataset fits the page cache.")
    ] = None,
    as_json: Json = False,
) -> int:
    """What this machine has, what it lacks, and the remedy."""
    from mim_ray.doctor import examine

    findings = list(examine(beton))
    if as_json:
        _print_json({"findings": [finding._asdict() for finding in findings]})
    else:
        _print_table(("", "state", "found", "remedy"), findings)
    return 1 if any(finding.state == "failure" for finding in findings) else 0


@app.command()
def bench(
    ids: Annotated[
        list[str] | None, typer.Argument(help="R1 R2 R2u R10 sizing interpolation; all by default.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="How often each side is measured.")] = 9,
    record: Annotated[Path | None, typer.Option(help="Also write a dated record into this folder.")] = None,
    track: Annotated[bool, typer.Option(help="Also log to MLflow.")] = True,
    as_json: Json = False,
) -> None:
    """The speed contract: ratios, both sides measured in one run."""
    from mim_ray.benches import RATIOS, TABLES, measure, write_record

    known = [*RATIOS, *TABLES]
    for wrong in set(ids or []) - set(known):
        raise Mistake(f"no benchmark {wrong!r}{nearest(wrong, known)}")
    result = measure(ids or known, pairs, track=track)
    if record is not None:
        print(f"written to {write_record(result, record)}", file=sys.stderr)
    if as_json:
        _print_json(result)
        return
    ratios = {name: row for name, row in result.items() if name in RATIOS}
    if ratios:
        _print_table(("", *next(iter(ratios.values()))), [(name, *row.values()) for name, row in ratios.items()])
    for name in result.keys() - ratios.keys():
        _print_table(result[name][0], [row.values() for row in result[name]])


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where its files go.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Sample pictures to a dataset, read back through the loader, and a few steps of MAE on them."""
    from mim_ray.demo import demo as run_demo

    result = run_demo(folder)
    if as_json:
        _print_json(result)
        return
    print(
        f"{result['samples']:,} generated pictures in {result['beton']}, every one verified; read back at "
        f"{result['images_per_second']:,} images/s ({result['backend']}).\n"
        f"MAE (micro) on them: loss {result['loss_before']} → {result['loss_after']}.\n"
        f"Crops as the encoder sees them: {result['sheet']}"
    )


@data.command("import")
def data_import(
    source: str,
    out: Path,
    options: Overrides = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at the first unusable picture.")] = False,
    as_json: Json = False,
) -> None:
    """SOURCE into OUT.beton: a folder, list file, tar shards, Hugging Face set (hf:NAME), or sample:NAME."""
    from mim_ray.data.importer import Import, import_set
    from mim_ray.data.sources import open_source

    settings = resolve(Import(), parse(options or []) | ({"strict": "true"} if strict else {}))
    card = import_set(open_source(source, split=settings.split), out, settings)
    for name, reason in card.skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    if as_json:
        result = {"path": str(out), "samples": card.samples, "classes": len(card.classes)}
        _print_json(result | {"skipped": len(card.skipped), "checksum": card.checksum})
        return
    _print_table((), [("beton", out), *card.lines()])


@data.command()
def verify(beton: Path, as_json: Json = False) -> None:
    """Re-reads every sample against its stored checksum."""
    from mim_ray.data.verify import verify as verify_beton

    samples = verify_beton(beton)
    if as_json:
        _print_json({"path": str(beton), "samples": samples})
    else:
        print(f"{beton}: all {samples:,} samples are as they were written")


@data.command()
def info(beton: Path, as_json: Json = False) -> None:
    """The dataset's card."""
    from mim_ray.data.card import Card

    card = Card.read(beton)
    if as_json:
        _print_json(card.model_dump(mode="json"))
    else:
        _print_table((), [("beton", beton), *card.lines()])


def _quiet_logs() -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)


def _say(message: str, code: int) -> int:
    """One line, however long; none where the help has been printed instead."""
    if message:
        print("mim-ray:", *message.split(), file=sys.stderr)
    return code


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result, ensure_ascii=False))


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(*heads, box=None, pad_edge=False, show_header=bool(heads))
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 160, emoji=False).print(table, highlight=False, markup=False)


def _quoted(value: str) -> str:
    import shlex

    return shlex.quote(value)
