"""The winner at full length: trained anew, judged, registered, and promoted if it is better than the champion."""

import logging
from collections.abc import Mapping
from typing import Any

from mim_ray.errors import Failure, Mistake
from mim_ray.judge import evaluate
from mim_ray.launch import train
from mim_ray.promotion import promoted
from mim_ray.search.memory import Record
from mim_ray.search.plan import LOOKS, Plan
from mim_ray.search.trial import SEARCH_TAG, SPACE_TAG
from mim_ray.storage import Folder
from mim_ray.tracking.run import resolved_uri
from mim_ray.training.job import JOB

logger = logging.getLogger("mim_ray")
WINNER = "winner"


def retrained(plan: Plan, words: Mapping[str, str]) -> dict[str, Any]:
    """Goes on with what an earlier sitting began."""
    own = plan.search
    method, given = plan.of_trial(Record(0, {}, dict(words)))
    name, storage = f"{plan.name}-{WINNER}", plan.folder.below("runs")
    given |= {"name": name, "storage": storage.url, "epochs": str(own.retrain)}
    given.pop(LOOKS, None)  # that of trials
    if plan.tracking_uri is not None and plan.uri != resolved_uri():
        given["tracking.uri"] = plan.tracking_uri
    if plan.model is not None:
        given["tracking.model"] = plan.model
    tags = {SPACE_TAG: plan.space, SEARCH_TAG: plan.name}
    if plan.run_id is not None:
        tags["mlflow.parentRunId"] = plan.run_id
    track = plan.uri is not None
    if Folder(storage.url).below(name).has(JOB):
        result = train(resume=name, overrides=_places(given))
    else:
        result = train(method, given, track=track, tags=tags)
    found: dict[str, Any] = {key: result[key] for key in ("name", "run_id", "steps", "checkpoint")}
    found["model"] = result.get("model")
    sets = {path: given[path] for path in ("data.train", "data.val")}
    if "data.val" not in sets:
        logger.warning("the winner is not judged by %s: that takes data.val=", own.protocol)
        return found
    model = result["run_id"] if track else result["checkpoint"]
    words_of_eval = {**sets, **_places(given), "workers": given["workers"]}
    judged = evaluate(own.protocol, model, words_of_eval, track=track)
    found["judged"] = judged["metrics"]
    if plan.uri is not None and found["model"] is not None:
        metric = "eval/knn_top1" if own.protocol == "knn" else "eval/top1"
        try:
            found |= promoted(plan.uri, found["model"], metric)
        except (Mistake, Failure) as refusal:
            logger.warning("%s is not promoted: %s", found["model"], refusal)
    return found


def _places(given: Mapping[str, str]) -> dict[str, str]:
    return {path: given[path] for path in ("storage", "tracking.uri") if path in given}
