"""The command that searches."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mim_ray.config import parse
from mim_ray.errors import Failure, Mistake
from mim_ray.options import Address, Json, Overrides, Track, apart
from mim_ray.output import print_json, print_table

PLACES = ("storage", "tracking.uri")
"""Where a search that goes on is looked for."""


def add_search_command(app: typer.Typer) -> None:
    app.command("search")(search_command)


def search_command(
    space: Annotated[str | None, typer.Argument(help="As `mim-ray list` names them, or a file.")] = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this search.")] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Say what it would take, and end.")] = False,
    address: Address = None,
    track: Track = True,
    as_json: Json = False,
) -> None:
    """Searches a space: trials= concurrent= metric= scheduler= searcher= time_budget= finalists= retrain= …"""
    try:
        from mim_ray.search import search as search_room
        from mim_ray.search.again import ANEW
        from mim_ray.search.plan import Search
    except ModuleNotFoundError as missing:
        raise Failure(f"a search needs {missing.name}: make setup, or pip install 'mim_ray[search]'") from None

    def say(words: str) -> None:
        print(words, file=sys.stderr)

    if resume is not None:
        if only_plan or not track:
            raise Mistake(f"--{'plan' if only_plan else 'no-track'}: a search goes on as it began: leave it out")
        words = parse([*([] if space is None else [space]), *(overrides or [])])
        if wrong := [path for path in words if path not in (*PLACES, *ANEW)]:
            path, free = wrong[0], ", ".join(ANEW)
            raise Mistake(f"{path}={words[path]}: a search goes on as it began, but for {free}: leave it out")
        where, uri = map(words.get, PLACES)
        anew = {path: words[path] for path in ANEW if path in words}
        result = search_room.resumed(resume, where, uri, anew, address=address)
    elif space is None or "=" in space:
        raise Mistake("which space? `mim-ray list` names them; or a file, or --resume NAME")
    else:
        own, fixed = apart(Search(), overrides)
        result = search_room.search(space, own, fixed, address=address, track=track, only_plan=only_plan, say=say)
    if as_json:
        print_json(result)
    elif only_plan:
        print_table((), list(result.items()))
    else:
        _print(result)


def _print(result: dict[str, object]) -> None:
    trials, best = result["trials"], result["best"]
    assert isinstance(trials, list)
    assert isinstance(best, dict)
    heads = list(dict.fromkeys(name for row in trials for name in row))
    print_table(heads, [[_cell(row.get(name)) for name in heads] for row in trials])
    spread = "" if best["std"] is None else f" ± {best['std']:.4f} over {best['seeds']} seeds"
    if result["busy_share"] is not None:
        print(f"the workers trained {100 * float(str(result['busy_share'])):.0f} % of the time")
    if isinstance(front := result.get("front"), list):
        print(f"than these trials none is better in every metric: {', '.join(map(str, front))}")
    print(f"best: trial {best['trial']}, {best['value']:.4f}{spread}\n{best['command']}")
    if isinstance(winner := result.get("retrained"), dict):
        print(_of_the_winner(winner))


def _of_the_winner(winner: Mapping[str, Any]) -> str:
    trained = f"winner: {winner['model'] or winner['checkpoint']}, trained for {winner['steps']} steps"
    if winner["judged"] is None:
        return f"{trained}, not judged yet"
    scores = ", ".join(f"{name} {value:.4f}" for name, value in winner["judged"].items())
    return f"{trained}, judged: {scores}\n{_of_its_promotion(winner)}"


def _of_its_promotion(winner: Mapping[str, Any]) -> str:
    if winner["model"] is None:
        return "not promoted: it is not registered, for want of tracking.model="
    if "alias" not in winner:
        return f"not promoted: {winner.get('refusal')}"
    before = "" if winner["previous"] is None else f", before it version {winner['previous']}"
    return f"promoted: it is {winner['alias']} now{before}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
