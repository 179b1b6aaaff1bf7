"""The search's own run in MLflow, the parent of its trials'."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mim_ray.config import flatten
from mim_ray.errors import Failure
from mim_ray.search.memory import Memory
from mim_ray.search.plan import Plan
from mim_ray.search.results import best_of
from mim_ray.search.space import WHERE, Space, paths_of
from mim_ray.search.trial import SEARCH_TAG, SPACE_TAG, STATE_TAG
from mim_ray.tracking.run import (
    End,
    add_documents,
    add_metrics,
    add_results,
    children,
    create_run,
    delete_runs,
    end_run,
    reopen_run,
    tag_run,
    tagged,
)

logger = logging.getLogger("mim_ray")
ID_TAG = "mim_ray.search_id"
MODEL_TAG, PROMOTED_TAG = "mim_ray.winner.model", "mim_ray.winner.promoted"
INTERRUPTED = "interrupted"
"""Of a trial that goes on in another sitting."""

STATUS: dict[str, End] = {"finished": "FINISHED", "failed": "FAILED", "lost": "FAILED"}
"""Of a trial's run; of all others KILLED."""


def with_home(plan: Plan, experiment: str) -> Plan:
    """The plan that knows its run in MLflow: a new one with space and plan, unless it has one."""
    uri = plan.uri
    if uri is None or plan.run_id is not None:
        return plan
    delete_runs(uri, tagged(uri, experiment, {ID_TAG: plan.id}))  # half made
    plan = plan._replace(run_id=_new_home(plan, uri, experiment))
    plan.write()
    return plan


def _new_home(plan: Plan, uri: str, experiment: str) -> str:
    folder = plan.folder
    words = {f"search.{path}": text for path, text in flatten(plan.search).items()}
    domains = {f"space.{path}": text for path, text in domains_of(plan.questions()).items()}
    tags = {
        SEARCH_TAG: plan.name,
        SPACE_TAG: plan.space,
        ID_TAG: plan.id,
        "mim_ray.folder": folder.url if folder.local is None else str(folder.local.absolute()),
    }
    run_id = create_run(uri, experiment, plan.name, {**plan.fixed, **words, **domains}, tags)
    add_documents(uri, run_id, {"space.py": plan.source, "plan.json": plan.prospect})
    return run_id


def domains_of(space: Space) -> dict[str, str]:
    """What each path is drawn from, in each of its cases."""
    found: dict[str, list[str]] = {}
    for name, domain in space.domains.items():
        _, where, case = name.partition(WHERE)
        for path in paths_of(name):
            found.setdefault(path, []).append(f"{domain}{where}{case}")
    return {path: "; ".join(texts) for path, texts in found.items()}


class Home:
    """MLflow need not be there while a search goes on: what it was not told is in the folder."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._uri, self._told = plan, plan.uri, -1

    def open(self, memory: Memory) -> None:
        if self._uri is not None and self._plan.run_id is not None:
            with suppress(Failure):
                reopen_run(self._uri, self._plan.run_id)
                self._end_trials(self._uri, memory)

    def tell(self, memory: Memory) -> None:
        """The best so far, over how many have ended."""
        ended = sum(not record.is_open for record in memory)
        best = best_of(memory, self._plan.search)
        if self._uri is None or self._plan.run_id is None or best is None or ended == self._told:
            return
        self._told = ended
        values = {f"best/{metric}": best.last(metric) for metric in self._plan.search.metric}
        with suppress(Failure):
            found = {name: value for name, value in values.items() if value is not None}
            add_metrics(self._uri, self._plan.run_id, found, ended)

    def crown(self, winner: Mapping[str, Any]) -> None:
        """What became of the best that was retrained."""
        if self._uri is None or self._plan.run_id is None:
            return
        tags = {MODEL_TAG: winner.get("model"), PROMOTED_TAG: winner.get("alias") or winner.get("refusal")}
        judged = {f"winner/{name}": value for name, value in (winner.get("judged") or {}).items()}
        try:
            add_results(self._uri, self._plan.run_id, {"winner/steps": winner["steps"], **judged}, [])
            tag_run(self._uri, self._plan.run_id, {tag: text for tag, text in tags.items() if text is not None})
        except Failure as failure:
            logger.warning("the winner is told in the search's folder only: %s", failure)

    def close(self, files: list[Path], metrics: Mapping[str, float], status: End, memory: Memory) -> None:
        if self._uri is None or self._plan.run_id is None:
            return
        try:
            self._end_trials(self._uri, memory)
            for record in memory:
                if record.is_open and record.run_id is not None:  # its own process took it to be over
                    tag_run(self._uri, record.run_id, {STATE_TAG: INTERRUPTED})
            add_results(self._uri, self._plan.run_id, metrics, files)
            end_run(self._uri, self._plan.run_id, status)
        except Failure as failure:
            logger.warning("the search is told in its folder only: %s", failure)

    def _end_trials(self, uri: str, memory: Memory) -> None:
        """Runs that say RUNNING though nobody trains them: of whoever was lost before saying how they ended."""
        assert self._plan.run_id is not None
        by_id = {record.run_id: record for record in memory}
        for run_id in children(uri, self._plan.run_id, {}, running=True):
            record = by_id.get(run_id)
            state = INTERRUPTED if record is None or record.is_open else record.state
            tag_run(uri, run_id, {STATE_TAG: state})
            end_run(uri, run_id, STATUS.get(state, "KILLED"))
