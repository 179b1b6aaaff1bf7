"""The commands that use a model: `eval`, `embed`."""

from pathlib import Path
from typing import Annotated

import typer

from mim_ray.options import Address, Json, OfEval, OfModel, Overrides, Track, apart
from mim_ray.output import print_json, print_table


def add_eval_commands(app: typer.Typer) -> None:
    app.command("eval")(eval_command)
    app.command("embed")(embed_command)


def eval_command(
    protocol: Annotated[str, typer.Argument(help="finetune, linear, knn, fewshot or a recipe of them.")],
    model: Annotated[
        str,
        typer.Argument(help="A run, name@alias, name/version, a checkpoint, a timm name or random:WORD."),
    ],
    overrides: Overrides = None,
    address: Address = None,
    track: Track = True,
    as_json: Json = False,
) -> None:
    """A model judged by data.train=… data.val=…; layer= pool= k= fraction= per_class= weights= seeds=."""
    from mim_ray.judge import evaluate

    own, words = apart(OfEval(), overrides)
    result = evaluate(protocol, model, words, weights=own.weights, seeds=own.seeds, address=address, track=track)
    if as_json:
        print_json(result)
        return
    spread = result.get("std", {})
    rows = [
        (name, f"{value:.4f}" + (f" ± {spread[name]:.4f}" if name in spread else ""))
        for name, value in result["metrics"].items()
    ]
    print_table((), [("run", result["run_id"] or result["names"][0]), ("protocol", protocol), *rows])


def embed_command(
    model: Annotated[str, typer.Argument(help="As for eval.")],
    pictures: Annotated[str, typer.Argument(help="A beton, a sample: set, or a folder of pictures.")],
    out: Annotated[Path, typer.Argument(help="A new parquet file.")],
    overrides: Overrides = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """The feature of every picture with its name and labels; the same command goes on after a stop; weights=."""
    from mim_ray.embed import embed

    own, words = apart(OfModel(), overrides)
    result = embed(model, pictures, out, weights=own.weights, words=words, address=address)
    if as_json:
        print_json(result)
    else:
        print_table((), list(result.items()))
