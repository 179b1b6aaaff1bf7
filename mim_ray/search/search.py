"""`mim-ray search`: a question put to a cluster, remembered so that it can be gone on with, and answered."""

import json
import logging
import secrets
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mim_ray.errors import Failure, Mistake
from mim_ray.methods import resolved
from mim_ray.ray_room import check_room, resources_of_a_worker
from mim_ray.ray_train import connected
from mim_ray.resume import absolute, refuse_secrets
from mim_ray.run import Run
from mim_ray.search import report
from mim_ray.search.advice import Adviser
from mim_ray.search.asking import REHEARSAL, asked_of, check_end, described, facts, looked_at, sized
from mim_ray.search.finale import retrained
from mim_ray.search.home import Home, with_home
from mim_ray.search.live import Live
from mim_ray.search.memory import Memory, Record
from mim_ray.search.plan import PLAN, Plan, Search, imposed, read_plan, refuse_words_of_a_search
from mim_ray.search.prospect import concurrency
from mim_ray.search.results import best_of, front, ranked, rows, seeds_of, spread
from mim_ray.search.space import check, load, run_of
from mim_ray.search.study import Study, scheduler_for
from mim_ray.search.tuning import tuned
from mim_ray.storage import LOCK, Folder
from mim_ray.tracking.run import End, find_run, resolved_uri
from mim_ray.training.asked import Asked, asking

logger = logging.getLogger("mim_ray")
ANSWER = "answer.json"
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
    refuse_words_of_a_search(own, fixed)
    refuse_secrets(fixed)
    fixed = {path: absolute(text) if path in ("data.train", "data.val") else text for path, text in fixed.items()}
    space = load(where, fixed)
    own = sized(own, space)
    name = own.name or f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    own = own.model_copy(update={"name": name, "metric": own.metric or (space.goal,)})
    run = run_of(space, {}, fixed | imposed(own))
    fixed = fixed | looked_at(own, space, run)
    check(space, fixed | imposed(own))
    check_end(own, fixed, run.tracking.model)
    folder = Folder(absolute(run.storage)).below(name)
    if folder.has(PLAN):
        raise Mistake(f"name={name}: {folder.url} has it: go on with mim-ray search --resume {name}, or rename")
    if others := set(folder.names()) - {LOCK, REHEARSAL}:
        raise Mistake(f"name={name}: {folder.url} holds {min(others)}, which is no search's: rename")
    with connected(address, dashboard=True), folder.held(f"{name} is being searched by another process"):
        try:
            asked = asked_of(own, space, fixed, run, track, address)
            say(described(asked))
            if only_plan:
                return {"name": name, "run_id": None, **facts(asked)}
            asked.plan.write()
            plan = with_home(asked.plan, run.tracking.experiment, facts(asked))
        finally:
            if not folder.has(PLAN):
                with suppress(OSError, FileNotFoundError):
                    folder.remove("")
        return _searched(plan)


def resumed(name: str, storage: str | None, uri: str | None, *, address: str | None) -> dict[str, Any]:
    """On with what was begun, wherever its folder is."""
    folder = _folder_of(name, Folder(absolute(storage or Run().storage)), resolved_uri(uri))
    with connected(address, dashboard=True), folder.held(f"{name} is being searched by another process"):
        plan = read_plan(folder)
        if uri is not None:
            plan = plan._replace(tracking_uri=resolved_uri(uri))
        run = resolved(*plan.of_trial(Record(0, {}, {})))
        needed = resources_of_a_worker(run)
        check_room(run, needed, word="workers_per_trial")
        with suppress(Mistake):
            plan = plan._replace(concurrent=concurrency(plan.search, needed))
        plan = with_home(plan, run.tracking.experiment, {})
        return _searched(plan)


def _folder_of(name: str, storage: Folder, uri: str) -> Folder:
    if storage.below(name).has(PLAN):
        return storage.below(name)
    known = None
    with suppress(Failure):
        known = find_run(uri, name)
    if known is not None and Folder(known["tags"].get("mim_ray.folder", name)).has(PLAN):
        return Folder(known["tags"]["mim_ray.folder"])
    raise Mistake(f"no search {name!r} in {storage.url} or MLflow: expected its name, or storage=")


def _searched(plan: Plan) -> dict[str, Any]:
    """All trials, then the finalists' seeds, then the winner at length; each part is skipped that is done."""
    own, space, memory, home = plan.search, plan.questions(), Memory(plan.folder), Home(plan)
    seed = int(plan.fixed.get("seed", 0))
    deadline = None if own.seconds is None else time.monotonic() + own.seconds
    home.open(memory)
    if (answer := _known_answer(plan)) is not None and not any(record.is_open for record in memory):
        home.close([], {}, "FINISHED", memory)
        return answer
    _reopen_the_lost(memory)
    status: End = "FAILED"
    files: list[Path] = []
    busy = {}
    began, before = time.monotonic(), sum(record.seconds for record in memory)
    try:
        with asking() as asked:
            adviser = Adviser(own, space, seed)
            is_done = _run(plan, Study(plan, space, memory, adviser), memory, home, asked, deadline, judging=True)
            if is_done:
                _name_finalists(own, memory)
                finals = Study(plan, space, memory, None)
                is_done = _run(plan, finals, memory, home, asked, deadline, judging=False)
            busy = {"search/busy_share": _busy_share(plan, memory, before, began)}
            files = report.written([*memory], own, space, _epochs(plan), _aside(plan))
            _refuse_the_fruitless(memory)
            if asked:
                status = "KILLED"
                logger.info("stopped: go on with mim-ray search --resume %s", plan.name)
                raise SystemExit(128 + int(asked.by or 0))
            result = _answer(plan, memory) | {"busy_share": round(busy["search/busy_share"], 3)}
            if not is_done:
                logger.warning("the time is up: go on with mim-ray search --resume %s", plan.name)
                status = "KILLED"
                return result
            if own.retrain is not None:
                result["retrained"] = retrained(plan, result["best"]["overrides"])
            plan.folder.write(ANSWER, json.dumps(result).encode())
            status = "FINISHED"
            return result
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        best = best_of(memory, own)
        metrics = {} if best is None else {metric: best.last(metric) or 0.0 for metric in own.metric}
        home.close(files, metrics | busy, status, memory)


def _busy_share(plan: Plan, memory: Memory, before: float, began: float) -> float:
    """Of the time that the search had its workers, how much they trained."""
    trained = sum(record.seconds for record in memory) - before
    return trained / (plan.concurrent * (time.monotonic() - began))


def _run(
    plan: Plan, study: Study, memory: Memory, home: Home, asked: Asked, deadline: float | None, *, judging: bool
) -> bool:
    """Whether all that was to be tried has ended."""
    if study.is_done:
        return True
    own = plan.search
    most = own.trials if judging else len(memory.records)
    with Live(own, plan.name, memory, most) as live:

        def look() -> None:
            news, study.news = study.news, []
            live.tell(news, study.progress)
            home.tell(memory)

        tuned(
            plan,
            study,
            scheduler_for(own, study, memory, judging=judging),
            asked=asked,
            deadline=deadline,
            look=look,
            say=lambda number, words: logger.warning("trial %d: %s", number, words),
        )
    return study.is_done


def _known_answer(plan: Plan) -> dict[str, Any] | None:
    """Of a search that was brought to its end."""
    return dict(json.loads(plan.folder.read(ANSWER))) if plan.folder.has(ANSWER) else None


def _reopen_the_lost(memory: Memory) -> None:
    """Trials whose processes were lost, or that could not even begin: another sitting may have more luck."""
    for record in memory:
        if record.state == "lost" or (record.state == "failed" and not record.looks):
            record.state = "waiting"
            memory.keep(record)


def _name_finalists(own: Search, memory: Memory) -> None:
    """Those that came to the end and are best there, with further seeds; named once."""
    ended = [record for record in ranked(memory, own) if record.state == "finished" and record.of is None]
    there = {(record.of, record.seed) for record in memory}
    for record in ended[: own.finalists]:
        for seed in range(1, own.seeds):
            if (record.number, seed) not in there:
                memory.add(record.draw, record.words, seed=seed, of=record.number)


def _refuse_the_fruitless(memory: Memory) -> None:
    failed = [record for record in memory if record.state == "failed"]
    if (failed and len(failed) == len(memory.records)) or (failed and not any(record.looks for record in memory)):
        raise Failure(f"no trial has found anything; the last one: {failed[-1].reason}")


def _answer(plan: Plan, memory: Memory) -> dict[str, Any]:
    own, best = plan.search, best_of(memory, plan.search)
    result: dict[str, Any] = {"name": plan.name, "run_id": plan.run_id, "metric": list(own.metric)}
    result["trials"] = rows(memory, own)
    if best is None:
        raise Failure(f"{plan.name}: no trial has a value of {own.metric[0]} yet: give it more time with --resume")
    mean, deviation = spread(best, memory, own.metric[0])
    method, words = plan.of_trial(best)
    result["best"] = {
        "trial": best.number,
        "method": method,
        "overrides": dict(best.words),
        "command": shlex.join(["mim-ray", "train", method, *_told(words)]),
        "value": mean,
        "std": deviation,
        "seeds": 1 + len(seeds_of(best, memory)),
        "run_id": best.run_id,
    }
    if len(own.metric) > 1:
        result["front"] = [record.number for record in front(memory, own)]
    return result


def _told(words: Mapping[str, str]) -> list[str]:
    """What a trial was given, but for its name and place."""
    return [f"{path}={text}" for path, text in words.items() if path not in ("name", "storage")]


def _aside(plan: Plan) -> Path:
    """Where pictures are made: the search's folder, or one of this machine where that is elsewhere."""
    local = plan.folder.local
    return Path.cwd() / f"{plan.name}-report" if local is None else local / "report"


def _epochs(plan: Plan) -> int:
    method, _ = plan.questions().sentence({})
    fixed = {path: text for path, text in plan.fixed.items() if path != "method"}
    return resolved(method, fixed).epochs
