"""`mim-ray search`: a question put to a cluster, remembered so that it can be gone on with, and answered."""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mim_ray.errors import Failure, Mistake
from mim_ray.methods import resolved
from mim_ray.ray_train import connected
from mim_ray.resume import absolute, refuse_secrets
from mim_ray.run import Run
from mim_ray.search import report
from mim_ray.search.again import begun_in, fitted, of_any_trial, with_trials
from mim_ray.search.answer import answer_of, best_values, known_answer, written_down
from mim_ray.search.asking import REHEARSAL, asked_of, check_end, check_labels, described, facts, looked_at, sized
from mim_ray.search.busy import busy_share
from mim_ray.search.finale import retrained
from mim_ray.search.home import Home, with_home
from mim_ray.search.memory import Memory
from mim_ray.search.plan import PLAN, Plan, Search, imposed, read_plan, refuse_idle_words, refuse_words_of_a_search
from mim_ray.search.points import check
from mim_ray.search.sitting import Sitting
from mim_ray.search.space import load, run_of
from mim_ray.storage import LOCK, Folder
from mim_ray.tracking.run import End, find_run, resolved_uri
from mim_ray.training.asked import asking
from mim_ray.training.job import CHECKPOINTS

logger = logging.getLogger("mim_ray")
LOCAL = ("data.train", "data.val", "start")
"""Paths that trials read, who stand in another folder."""

Say = Callable[[str], None]


def search(
    where: str,
    own: Search,
    fixed: Mapping[str, str],
    *,
    address: str | None,
    track: bool,
    only_plan: bool,
    say: Say,
) -> dict[str, Any]:
    """A new one; `say`: told the plan before anything begins."""
    refuse_idle_words(own, fixed)
    refuse_words_of_a_search(own, fixed)
    refuse_secrets(fixed)
    fixed = {path: absolute(text) if path in LOCAL else text for path, text in fixed.items()}
    space = load(where, fixed)
    own = sized(own, space)
    name = own.name or f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    own = own.model_copy(update={"name": name, "metric": own.metric or (space.goal,)})
    run = run_of(space, {}, imposed(own) | fixed)
    fixed = fixed | looked_at(own, space, run)
    check(space, imposed(own) | fixed)
    check_end(own, fixed, run.tracking.model)
    check_labels(own, fixed)
    folder = Folder(absolute(run.storage)).below(name)
    if folder.has(PLAN):
        raise Mistake(f"name={name}: {folder.url} has it: go on with mim-ray search --resume {name}, or rename")
    if others := set(folder.names()) - {LOCK, REHEARSAL}:
        raise Mistake(f"name={name}: {folder.url} holds {min(others)}, which is no search's: rename")
    with connected(address, dashboard=True), folder.held(f"{name} is being searched by another process"):
        try:
            asked = asked_of(own, space, fixed, run, track=track, address=address, only_plan=only_plan)
            say(described(asked))
            if only_plan:
                return {"name": name, "run_id": None, **facts(asked)}
            plan = asked.plan._replace(prospect=facts(asked))
            plan.write()
            plan = with_home(plan, run.tracking.experiment)
        finally:
            if not folder.has(PLAN):
                with suppress(OSError, FileNotFoundError):
                    folder.remove("")
        return _searched(plan, address)


def resumed(
    name: str, storage: str | None, uri: str | None, anew: Mapping[str, str], *, address: str | None
) -> dict[str, Any]:
    """On with what was begun, wherever its folder is; `anew`: words of ANEW."""
    folder = _folder_of(name, Folder(absolute(storage or Run().storage)), resolved_uri(uri))
    with folder.held(f"{name} is being searched by another process"):
        plan = with_trials(read_plan(folder), anew.get("trials"))
        plan = plan._replace(tracking_uri=plan.uri if uri is None else resolved_uri(uri))
        if (answer := known_answer(plan)) is not None:
            _ended(plan)
            return answer
        with connected(address, dashboard=True):
            experiment = of_any_trial(plan).tracking.experiment
            now = fitted(plan, anew)
            return _searched(now._replace(run_id=with_home(plan, experiment).run_id), address)


def _folder_of(name: str, storage: Folder, uri: str) -> Folder:
    if storage.below(name).has(PLAN):
        return storage.below(name)
    known = None
    with suppress(Failure):
        known = find_run(uri, name)
    if known is not None and Folder(known["tags"].get("mim_ray.folder", name)).has(PLAN):
        return Folder(known["tags"]["mim_ray.folder"])
    raise Mistake(f"no search {name!r} in {storage.url} or MLflow: expected its name, or storage=")


def _searched(plan: Plan, address: str | None) -> dict[str, Any]:
    """All trials, then the finalists' seeds, then the winner at length; each part is skipped that is done."""
    own, memory, home = plan.search, Memory(plan.folder), Home(plan)
    home.open(memory)
    status: End = "FAILED"
    files: list[Path] = []
    busy = {}
    began, before = time.monotonic(), sum(record.seconds for record in memory)
    try:
        with asking() as asked:
            is_done = Sitting(plan, memory, home, asked).is_done()
            is_late = not is_done and own.seconds is not None and time.monotonic() - began >= own.seconds
            trained = sum(record.seconds for record in memory) - before
            share = busy_share(plan.folder, trained, plan.concurrent * (time.monotonic() - began))
            busy = {} if share is None else {"search/busy_share": share}
            files = report.written([*memory], own, plan.questions(), _epochs(plan), _aside(plan))
            if asked:
                raise SystemExit(128 + int(asked.by or 0))
            result = answer_of(plan, memory) | {"busy_share": share and round(share, 3)}
            if is_done:
                result = _with_winner(plan, home, result, address)
            if result["finished"]:
                _tidied(plan, memory)
            status = "FINISHED" if result["finished"] else "KILLED"
            if not result["finished"]:
                logger.warning("%s", _what_is_left(plan, is_late))
            return result
    except (KeyboardInterrupt, SystemExit):
        logger.info("stopped: go on with mim-ray search --resume %s", plan.name)
        status = "KILLED"
        raise
    finally:
        home.close(files, best_values(memory, own) | busy, status, memory)


def _what_is_left(plan: Plan, is_late: bool) -> str:
    """Where the time was up, also how to come to an end without further trials."""
    own, begun = plan.search, begun_in(plan)
    words = f"it is not at its end: go on with mim-ray search --resume {plan.name}"
    if not is_late or own.searcher == "grid" or begun == own.trials:
        return words
    final = "finals" if own.finalists else "end"
    way = f"add trials={begun} to go to the {final} with these"
    return f"after {begun} of {own.trials} trials its time is up, and {words}; {way}"


def _with_winner(plan: Plan, home: Home, result: dict[str, Any], address: str | None) -> dict[str, Any]:
    """The answer, written down once it is whole; what was found stays where the winner cannot be trained."""
    if plan.search.retrain is not None:
        try:
            result |= {"retrained": retrained(plan, result["best"]["overrides"], address)}
            home.crown(result["retrained"])
            if result["retrained"]["judged"] is None:  # another sitting may have more luck
                return result
        except (Mistake, Failure) as trouble:
            logger.warning("the winner is not trained and judged: %s", trouble)
            return result
    return written_down(plan, result | {"finished": True})


def _tidied(plan: Plan, memory: Memory) -> None:
    """Nobody goes on with those that were stopped, so their checkpoints go; what MLflow has of them stays."""
    for record in memory:
        run = plan.runs.below(record.name(plan.name))
        if record.state == "stopped" and run.has(CHECKPOINTS):
            run.remove(CHECKPOINTS)


def _ended(plan: Plan) -> None:
    """Its run in MLflow, too, which its last process may not have reached any more."""
    if plan.run_id is not None:
        Home(plan).close([], {}, "FINISHED", Memory(plan.folder))


def _aside(plan: Plan) -> Path:
    """Where pictures are made: the search's folder, or one of this machine where that is elsewhere."""
    local = plan.folder.local
    return Path.cwd() / f"{plan.name}-report" if local is None else local / "report"


def _epochs(plan: Plan) -> int:
    method, _ = plan.questions().sentence({})
    fixed = {path: text for path, text in plan.fixed.items() if path != "method"}
    return resolved(method, fixed).epochs
