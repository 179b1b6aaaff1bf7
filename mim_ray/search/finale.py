"""The winner at full length: trained anew, judged, registered, and promoted if it is better than the champion."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mim_ray.errors import Failure, Mistake
from mim_ray.judge import evaluate, verdict
from mim_ray.launch import train
from mim_ray.methods import recipe, resolved
from mim_ray.promotion import promoted
from mim_ray.run import Run
from mim_ray.search.memory import Record
from mim_ray.search.plan import LOOKS, Plan, workers_of_the_best
from mim_ray.search.trial import SEARCH_TAG, SPACE_TAG, STATE_TAG
from mim_ray.tracking.run import PARENT, children, delete_runs, resolved_uri, tag_run
from mim_ray.training.job import JOB

logger = logging.getLogger("mim_ray")
WINNER = "winner"
WINNER_TAG = "mim_ray.winner"
WARMUP = "schedule.warmup_epochs"
ALSO_JUDGED_WITH = (
    "data.train", "data.val", "data.backend", "data.threads", "data.ahead", "data.stage", "cpus_per_worker",
    "gpus_per_worker", "resources", "tracking.experiment",
)  # fmt: skip
"""Words of the trials that say where and from what, and nothing of how."""


def retrained(plan: Plan, words: Mapping[str, str], address: str | None) -> dict[str, Any]:
    """Goes on with what an earlier sitting began."""
    own = plan.search
    result = _trained(plan, words, address)
    if plan.uri is not None and result["run_id"] is not None:
        with suppress(Failure):  # or one whose driver was lost would stay interrupted
            tag_run(plan.uri, result["run_id"], {STATE_TAG: "finished"})
    found: dict[str, Any] = {key: result[key] for key in ("name", "run_id", "steps", "checkpoint")}
    found["model"], found["judged"] = result.get("model"), None
    try:
        found["judged"] = _judged(plan, words, result, address)
    except (Mistake, Failure) as trouble:
        logger.warning("%s is trained and not judged: %s", found["name"], trouble)
        return found
    if plan.uri is not None and found["model"] is not None:
        metric = "eval/knn_top1" if own.protocol == "knn" else "eval/top1"
        try:
            found |= promoted(plan.uri, found["model"], metric, protocol=own.protocol)
        except (Mistake, Failure) as refusal:
            logger.warning("%s is not promoted: %s", found["model"], refusal)
            found["refusal"] = str(refusal)
    return found


def _trained(plan: Plan, words: Mapping[str, str], address: str | None) -> dict[str, Any]:
    method, given = plan.of_trial(Record(0, {}, dict(words)))
    name = f"{plan.name}-{WINNER}"
    if plan.runs.below(name).has(JOB):
        return train(resume=name, overrides=_here(plan), address=address)
    given |= _at_length(plan, resolved(method, given), given) | _here(plan) | {"name": name}
    given.pop(LOOKS, None)  # that of trials
    if plan.model is not None:
        given["tracking.model"] = plan.model
    tags = {SPACE_TAG: plan.space, SEARCH_TAG: plan.name, WINNER_TAG: "true"}
    if plan.uri is not None and plan.run_id is not None:
        delete_runs(plan.uri, children(plan.uri, plan.run_id, {WINNER_TAG: "true"}))  # half made
        tags[PARENT] = plan.run_id
    return train(method, given, address=address, track=plan.uri is not None, tags=tags)


def _at_length(plan: Plan, trial: Run, given: Mapping[str, str]) -> dict[str, str]:
    """What was said of a trial's warm-up is a share of its epochs; a recipe's own is meant for a whole run."""
    epochs = plan.search.retrain or trial.epochs
    workers = workers_of_the_best(plan.search, plan.concurrent, trial)
    warmup = trial.schedule.warmup_epochs * epochs / trial.epochs
    return {"epochs": str(epochs), "workers": workers} | ({WARMUP: f"{warmup:.4g}"} if WARMUP in given else {})


def _judged(
    plan: Plan, words: Mapping[str, str], trained: Mapping[str, Any], address: str | None
) -> dict[str, float]:
    protocol, track = plan.search.protocol, plan.uri is not None
    name = f"{plan.name}-{WINNER}-{protocol}"
    if plan.runs.below(name).has(JOB):
        return dict(verdict(protocol, [train(resume=name, overrides=_here(plan), address=address)])["metrics"])
    _, given = plan.of_trial(Record(0, {}, dict(words)))
    shared = {path: text for path, text in given.items() if path in ALSO_JUDGED_WITH}
    model = trained["run_id"] if track else trained["checkpoint"]
    how = recipe("finetune" if protocol == "fewshot" else protocol)
    workers = workers_of_the_best(plan.search, plan.concurrent, how)
    judging = {**shared, **_here(plan), "name": name, "workers": workers}
    return dict(evaluate(protocol, model, judging, address=address, track=track)["metrics"])


def _here(plan: Plan) -> dict[str, str]:
    elsewhere = plan.uri is not None and plan.uri != resolved_uri()
    server = {"tracking.uri": str(plan.tracking_uri)} if elsewhere else {}
    return {"storage": plan.runs.url} | plan.share | server
