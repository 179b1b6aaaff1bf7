"""`mim-ray`: results on stdout, everything else on stderr; 0 done, 1 failed, 2 the user's mistake."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mim_ray.cluster_cli import add_cluster_commands
from mim_ray.config import parse, paths
from mim_ray.data_cli import add_data_commands
from mim_ray.errors import Failure, Mistake, nearest, without_secrets
from mim_ray.eval_cli import add_eval_commands
from mim_ray.models_cli import add_models_commands
from mim_ray.options import Address, Json, Overrides, Track, sentence
from mim_ray.output import cost_lines, keep, print_command, print_json, print_table
from mim_ray.progress import quiet_logs
from mim_ray.search_cli import add_search_command
from mim_ray.tracking.results import in_use
from mim_ray.tracking.run import DATABASE, SQLITE

if TYPE_CHECKING:
    from mim_ray.run import Run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Masked image modelling on Ray.",
)
add_data_commands(app)
add_cluster_commands(app)
add_eval_commands(app)
add_models_commands(app)
add_search_command(app)

STOPPED = 130


def main(words: Sequence[str] | None = None) -> None:
    """The console script."""
    code = run(words)
    if "ray" in sys.modules:  # its threads can crash an interpreter that is being taken down
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(words: Sequence[str] | None = None) -> int:
    quiet_logs()
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
        return _say(mistake.format_message() + _hint(mistake), 2)
    except Mistake as mistake:
        return _say(str(mistake), 2)
    except Failure as failure:
        return _say(str(failure), 1)
    except OSError as error:
        return _say(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), 1)


def _print_version(wanted: bool) -> None:
    if wanted:
        print("mim-ray", version("mim_ray"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command("list")
def list_(as_json: Json = False) -> None:
    """The methods, how models are judged, and the search spaces."""
    from mim_ray.methods import METHODS, PROTOCOLS
    from mim_ray.spaces import space_files

    spaces = {name: path.read_text().splitlines()[0].strip('"') for name, path in space_files().items()}
    if as_json:
        print_json({"methods": list(METHODS), "protocols": list(PROTOCOLS), "spaces": list(spaces)})
        return
    for head, recipes in (("method", METHODS), ("protocol", PROTOCOLS)):
        rows = [(name, (recipe.__doc__ or "").strip().splitlines()[0]) for name, recipe in recipes.items()]
        print_table((head, "what it is"), rows)
    print_table(("space", "what it asks"), list(spaces.items()))


@app.command()
def show(
    method: str,
    overrides: Overrides = None,
    with_cost: Annotated[bool, typer.Option("--cost", help="What it costs instead.")] = False,
    with_optim: Annotated[bool, typer.Option("--optim", help="How its weights are trained instead.")] = False,
    track: Track = True,
    as_json: Json = False,
) -> None:
    """The fully resolved run, as a command that can be pasted into a shell; what it costs; how it is optimised."""
    from mim_ray.config import flatten
    from mim_ray.methods import resolved

    run = resolved(method, parse(overrides or []))
    if with_cost:
        _show_cost(method, run, track, as_json)
    elif with_optim:
        _show_optim(method, run, as_json)
    elif as_json:
        print_json({"method": method, "overrides": flatten(run)})
    else:
        print_command(f"mim-ray show {method}", flatten(run))


def _show_cost(method: str, run: "Run", track: bool, as_json: bool) -> None:
    from mim_ray.cost import cost

    result = {"method": method, **cost(run)._asdict()}
    if as_json:
        print_json(result)
    else:
        print_table(("", method), cost_lines(result))
    if track and in_use():
        keep("cost", result)


def _show_optim(method: str, run: "Run", as_json: bool) -> None:
    from mim_ray.training.optim import table

    rows = table(run) if run.steps != 0 else []
    if as_json:
        print_json({"method": method, "groups": rows})
    elif not rows:
        print(f"{method} trains nothing: steps=0")
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])


@app.command()
def train(
    method: Annotated[str | None, typer.Argument(help="As `mim-ray list` names them.")] = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this run (its name, or its MLflow id).")] = None,
    address: Address = None,
    track: Track = True,
    as_json: Json = False,
) -> None:
    """Pretrains a method on data.train=…, here or on a cluster, and resumes what was begun."""
    from mim_ray.launch import train as run_train

    method, given = sentence(method, overrides)
    result = run_train(method, given, resume=resume, address=address, track=track)
    if as_json:
        print_json(result)
        return
    metrics = result.pop("metrics")
    print_table((), [*result.items(), *((name, f"{value:.6g}") for name, value in metrics.items())])


@app.command()
def doctor(
    beton: Annotated[
        Path | None, typer.Argument(help="Also ask whether this dataset fits the page cache.")
    ] = None,
    track: Track = True,
    as_json: Json = False,
) -> int:
    """What this machine has, what it lacks, and the remedy."""
    from mim_ray.doctor import examine

    findings = list(examine(beton))
    result = {"findings": [finding._asdict() for finding in findings]}
    if as_json:
        print_json(result)
    else:
        print_table(("", "state", "found", "remedy"), findings)
    states = [finding.state for finding in findings]
    mlflow_is_well = any((finding.what, finding.state) == ("mlflow", "ok") for finding in findings)
    if track and in_use() and mlflow_is_well:
        keep("doctor", result, metrics={state: states.count(state) for state in ("ok", "warning", "failure")})
    return 1 if "failure" in states else 0


@app.command()
def bench(
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="R1 R2 R9 packing …; all by default."),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="How often each side is measured.")] = 9,
    record: Annotated[Path | None, typer.Option(help="Also write a dated record into this folder.")] = None,
    track: Track = True,
    as_json: Json = False,
) -> None:
    """The speed contract: ratios, both sides measured in one run."""
    from mim_ray.benches import RATIOS, TABLES, machine, measure, prepare_record, write_record

    known = [*RATIOS, *TABLES]
    for wrong in set(ids or []) - set(known):
        raise Mistake(f"no benchmark {wrong!r}{nearest(wrong, known)}")
    if record is not None:
        prepare_record(record)
    result = measure(ids or known, pairs)
    if record is not None:
        print(f"written to {write_record(result, record)}", file=sys.stderr)
    ratios = {name: row for name, row in result.items() if name in RATIOS}
    tables = {name: rows for name, rows in result.items() if name in TABLES}
    if as_json:
        print_json(result)
    else:
        if ratios:
            heads = ("", *next(iter(ratios.values())))
            print_table(heads, [(name, *row.values()) for name, row in ratios.items()])
        for rows in tables.values():
            print_table(rows[0], [row.values() for row in rows])
    if track:
        keep("bench", result, metrics={name: row["ratio"] for name, row in ratios.items()}, params=machine())


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where its files go.")] = Path("runs/demo"),
    track: Track = True,
    as_json: Json = False,
) -> None:
    """The main job on sample pictures: R-MAE on two Ray workers, a probe, a registered model. Minutes."""
    from mim_ray.demo import demo as run_demo

    result = run_demo(folder, track=track)
    if as_json:
        print_json(result)
        return
    gains = (
        f"{name} {100 * both['random']:.1f} → {100 * both['trained']:.1f} %"
        for name, both in result["probe"].items()
    )
    print(
        f"\nR-MAE (micro), {result['steps']} steps on {result['samples']:,} generated pictures "
        f"({result['beton']}), {result['workers']} Ray workers, {result['seconds']} s in all.\n"
        f"A linear probe on the frozen encoder, random → trained: {', '.join(gains)}.\n"
        f"What it paints: {result['picture']}\nThe run: {result['name']}, in {result['checkpoint']}"
    )
    if result["model"] is not None:
        print(
            f"The model: {result['model']}, registered in MLflow ({_way_to_runs()})\n"
            f"Load it:   python -c 'import mim_ray; print(mim_ray.load(\"{result['model']}\").card)'"
        )


def _way_to_runs() -> str:
    """A server's address, or the command that shows a database."""
    uri = without_secrets(os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{DATABASE}")
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def _say(message: str, code: int) -> int:
    """One line, however long; none where the help has been printed instead."""
    if message:
        print("mim-ray:", *message.split(), file=sys.stderr)
    return code


def _hint(mistake: typer.TyperException) -> str:
    """For `--batch 64`, which is written batch=64."""
    command = getattr(getattr(mistake, "ctx", None), "command", None)
    name = getattr(mistake, "option_name", "").lstrip("-").replace("-", "_")
    return f": settings are written {name}=value" if name in _settings_of(getattr(command, "name", "")) else ""


def _settings_of(command: str | None) -> list[str]:
    if command == "show":
        from mim_ray.run import Run

        return [*paths(Run), "encoder"]
    if command == "import":
        from mim_ray.data.importer import Import

        return paths(Import)
    return []
