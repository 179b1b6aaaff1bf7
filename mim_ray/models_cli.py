"""`mim-ray models`: which there are, which is best, and how to have it."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mim_ray.config import parse
from mim_ray.errors import Failure, Mistake
from mim_ray.options import Json, Track
from mim_ray.output import keep, print_json, print_table

Metric = Annotated[str, typer.Option(help="What is compared; of a loss (train/…, eval/loss) lower is better.")]
Words = Annotated[list[str] | None, typer.Argument(help="method=… space=… data=CHECKSUM path=value …")]
Uri = Annotated[str | None, typer.Option("--uri", help="MLflow; else MLFLOW_TRACKING_URI, else mlflow.db here.")]
KNN = "eval/knn_top1"


def add_models_commands(app: typer.Typer) -> None:
    models = typer.Typer(no_args_is_help=True, help="Trained models in MLflow.")
    commands: dict[str, Callable[..., None]] = {
        "list": list_command,
        "best": best_command,
        "show": show_command,
        "compare": compare_command,
        "promote": promote_command,
        "pull": pull_command,
    }
    for name, command in commands.items():
        models.command(name)(command)
    app.add_typer(models, name="models")


def list_command(
    name: Annotated[str | None, typer.Argument(help="Of this model alone.")] = None,
    uri: Uri = None,
    as_json: Json = False,
) -> None:
    """The registered versions, newest first."""
    from mim_ray.tracking.registry import versions
    from mim_ray.tracking.run import resolved_uri

    found = versions(resolved_uri(uri), name)
    if as_json:
        print_json({"models": [one._asdict() for one in found]})
        return
    rows = [(f"{one.name}/{one.version}", ", ".join(one.aliases), one.run_id or "") for one in found]
    print_table(("model", "aliases", "run"), rows)


def best_command(
    where: Words = None,
    metric: Metric = KNN,
    more: Annotated[list[str] | None, typer.Option("--where", help="The same words, once more each.")] = None,
    space: Annotated[str | None, typer.Option(help="Of this search space alone.")] = None,
    data: Annotated[str | None, typer.Option(help="The checksum of the set that scores come from.")] = None,
    uri: Uri = None,
    track: Track = True,
    as_json: Json = False,
) -> None:
    """The best run that ended, its registered version if it has one, and why others were left out."""
    from mim_ray.tracking.ranking import differences, ranking
    from mim_ray.tracking.registry import versions
    from mim_ray.tracking.run import resolved_uri

    if "tracking.uri" in (asked := parse([*(where or []), *(more or [])])):
        raise Mistake(
            f"tracking.uri={asked['tracking.uri']}: expected --uri: a word here is what a run was trained with"
        )
    home = resolved_uri(uri)
    named = {"space": space, "data": data}
    words = [*(where or []), *(more or []), *(f"{name}={value}" for name, value in named.items() if value)]
    found = ranking(home, metric, parse(words))
    for name, reason in found.left_out:
        print(f"left out: {name} {reason}", file=sys.stderr)
    if not found.candidates:
        raise Failure(" ".join([f"no run that ended has {metric}", *words]))
    best = found.candidates[0]
    apart = {line for one in found.candidates[1:] for line in differences(best, one)}
    if apart:
        raise Mistake(f"{metric} cannot be compared: {'; '.join(sorted(apart))}: say which, as in data=CHECKSUM")
    mine = next((one for one in versions(home) if one.run_id == best.run_id), None)
    result: dict[str, Any] = {
        "name": best.name if mine is None else mine.name,
        "version": None if mine is None else mine.version,
        "run_id": best.run_id,
        "metric": metric,
        "value": best.value,
        "left_out": [f"{name} {reason}" for name, reason in found.left_out],
    }
    if as_json:
        print_json(result)
    else:
        ranked = [(one.name, f"{one.value:.4f}", one.run_id) for one in found.candidates[:10]]
        print_table(("run", metric, "id"), ranked)
        model = result["name"] if mine is None else f"{mine.name}/{mine.version}"
        print(f"load it: python -c 'import mim_ray; print(mim_ray.load(\"{model}\").card)'")
    if track:
        keep("best", result, metrics={metric: best.value}, uri=home)


def show_command(model: str, uri: Uri = None, as_json: Json = False) -> None:
    """A model's card."""
    from mim_ray.model_card import described
    from mim_ray.models import load

    card = load(model, uri).card
    if as_json:
        print_json(card.model_dump(mode="json"))
    else:
        print(described(card))


def compare_command(
    models: Annotated[list[str], typer.Argument(help="Runs or registered versions.")],
    metric: Metric = KNN,
    picture: Annotated[Path | None, typer.Option(help="A new file for the picture, .png or .svg.")] = None,
    uri: Uri = None,
    track: Track = True,
    as_json: Json = False,
) -> None:
    """Scores side by side, what they depend on beside the models, and a picture of the settings that differ."""
    from mim_ray.charts import parallel_coordinates
    from mim_ray.tracking.ranking import differences, score, unlike
    from mim_ray.tracking.registry import run_of
    from mim_ray.tracking.run import resolved_uri

    home = resolved_uri(uri)
    scores = {model: score(home, run_of(home, model), metric) for model in models}
    first = next(iter(scores.values()))
    rows = [
        {
            "model": model,
            "run_id": one.run_id,
            metric: one.value,
            "unlike_the_first": "; ".join(differences(first, one)),
        }
        for model, one in scores.items()
    ]
    if as_json:
        print_json({"metric": metric, "models": rows})
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    settings = unlike(list(scores.values()))
    lines = [
        {path: one.settings.get(path, "") for path in settings} | {metric: one.value} for one in scores.values()
    ]
    with tempfile.TemporaryDirectory() as aside:
        drawn = Path(aside, "compare.png" if picture is None else picture.name)
        parallel_coordinates(lines, metric, drawn)
        if picture is not None:
            shutil.copyfile(drawn, picture)
        if track:
            metrics = {f"{metric}/{number}": one.value for number, one in enumerate(scores.values())}
            keep("compare", {"metric": metric, "models": rows}, metrics=metrics, files=[drawn], uri=home)


def promote_command(
    model: Annotated[str, typer.Argument(help="name/version")],
    alias: Annotated[str, typer.Option(help="What it is to be called.")] = "champion",
    metric: Metric = KNN,
    protocol: Annotated[str | None, typer.Option(help="Judgings by this one alone: linear.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the scores are.")] = False,
    uri: Uri = None,
    as_json: Json = False,
) -> None:
    """Gives the alias to a version that is better, by a score of the same data and protocol."""
    from mim_ray.promotion import promoted
    from mim_ray.tracking.run import resolved_uri

    result = promoted(resolved_uri(uri), model, metric, alias, protocol=protocol, force=force)
    if as_json:
        print_json(result)
    else:
        before = f", before it {result['previous']}" if result["previous"] else ""
        print(f"{result['name']}@{alias} is version {result['version']}{before}")


def pull_command(
    model: str,
    to: Annotated[Path, typer.Option(help="A new folder.")],
    form: Annotated[str, typer.Option("--format", help="Also timm, hf, torch-export, onnx.")] = "safetensors",
    uri: Uri = None,
    as_json: Json = False,
) -> None:
    """A model's files in a format, proven: checksum, stored features, and the export against the source."""
    from mim_ray.exports import pull

    result = pull(model, form, to, uri)
    if as_json:
        print_json(result)
    else:
        print_table((), [(name, str(value)) for name, value in result.items()])
