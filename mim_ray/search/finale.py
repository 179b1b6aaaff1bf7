"""The winner at full length: trained anew, judged, registered, and promoted if it is better than the champion."""

import logging
from collections.abc import Mapping
from typing import Any

from mim_ray.errors import Failure, Mistake
from mim_ray.judge import evaluate, verdict
from mim_ray.launch import train
from mim_ray.promotion import promoted
from mim_ray.search.memory import Record
from mim_ray.search.plan import LOOKS, Plan
from mim_ray.search.trial import SEARCH_TAG, SPACE_TAG
from mim_ray.tracking.run import PARENT, children, delete_runs, resolved_uri
from mim_ray.training.job import JOB

logger = logging.getLogger("mim_ray")
WINNER = "winner"
WINNER_TAG = "mim_ray.winner"


def retrained(plan: Plan, words: Mapping[str, str], address: str | None) -> dict[str, Any]:
    """Goes on with what an earlier sitting began."""
    own = plan.search
    result = _trained(plan, words, address)
    found: dict[str, Any] = {key: result[key] for key in ("name", "run_id", "steps", "checkpoint")}
    found["model"] = result.get("model")
    found["judged"] = _judged(plan, words, result, address)
    if plan.uri is not None and found["model"] is not None:
        metric = "eval/knn_top1" if own.protocol == "knn" else "eval/top1"
        try:
            found |= promoted(plan.uri, found["model"], metric, protocol=own.protocol)
        except (Mistake, Failure) as refusal:
            logger.warning("%s is not promoted: %s", found["model"], refusal)
    return found


def _trained(plan: Plan, words: Mapping[str, str], address: str | None) -> dict[str, Any]:
    method, given = plan.of_trial(Record(0, {}, dict(words)))
    name = f"{plan.name}-{WINNER}"
    if plan.runs.below(name).has(JOB):
        return train(resume=name, overrides=_places(plan), address=address)
    given |= {**_places(plan), "name": name, "epochs": str(plan.search.retrain)}
    given.pop(LOOKS, None)  # that of trials
    if plan.model is not None:
        given["tracking.model"] = plan.model
    tags = {SPACE_TAG: plan.space, SEARCH_TAG: plan.name, WINNER_TAG: "true"}
    if plan.uri is not None and plan.run_id is not None:
        delete_runs(plan.uri, children(plan.uri, plan.run_id, {WINNER_TAG: "true"}))  # half made
        tags[PARENT] = plan.run_id
    return train(method, given, address=address, track=plan.uri is not None, tags=tags)


def _judged(
    plan: Plan, words: Mapping[str, str], trained: Mapping[str, Any], address: str | None
) -> dict[str, float]:
    protocol, track = plan.search.protocol, plan.uri is not None
    name = f"{plan.name}-{WINNER}-{protocol}"
    if plan.runs.below(name).has(JOB):
        return dict(verdict(protocol, [train(resume=name, overrides=_places(plan), address=address)])["metrics"])
    _, given = plan.of_trial(Record(0, {}, dict(words)))
    shared = {path: given[path] for path in ("data.train", "data.val", "workers", "cpus_per_worker")}
    model = trained["run_id"] if track else trained["checkpoint"]
    judging = {**shared, **_places(plan), "name": name}
    return dict(evaluate(protocol, model, judging, address=address, track=track)["metrics"])


def _places(plan: Plan) -> dict[str, str]:
    elsewhere = plan.uri is not None and plan.uri != resolved_uri()
    return {"storage": plan.runs.url} | ({"tracking.uri": str(plan.tracking_uri)} if elsewhere else {})
