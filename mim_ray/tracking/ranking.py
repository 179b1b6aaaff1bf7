"""Which run is best, and why others do not count."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mim_ray.errors import Mistake, nearest
from mim_ray.scores import is_higher_better
from mim_ray.tracking.run import PARENT
from mim_ray.tracking.server import connected, needed

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAGS = {
    "method": "mim_ray.method",
    "space": "mim_ray.space",
    "data": "mim_ray.dataset_checksum",
    "val": "mim_ray.val_checksum",
    "protocol": "mim_ray.protocol",
    "settings": "mim_ray.settings",
}
"""Words for what runs are told apart by; any other is a setting's path."""

MEASURED_BY = (
    "data.val", "data.few.n", "data.few.per_class", "data.few.one_class", "data.few.fraction",
    "eval.most", "eval.share", "eval.size", "eval.pool", "eval.neighbours", "eval.temperature",
)  # fmt: skip
"""Settings that a score depends on beside the model."""

WHERE = ("name", "storage", "start", "tracking.", "data.val")
"""How the settings begin that make no other model."""

OF_SCORES = ("data", "val", "protocol", "settings", *MEASURED_BY)
"""Words that choose among a model's scores; all others choose among models."""

UNFINISHED = {"RUNNING": "still running", "SCHEDULED": "not begun", "FAILED": "failed", "KILLED": "was stopped"}


class Candidate(NamedTuple):
    run_id: str
    name: str
    value: float
    measured: str
    """The run in which it was found: this one, or the newest evaluation of it."""
    by: dict[str, str]
    """What the score depends on beside the model."""
    settings: dict[str, str]
    """Of the run that trained the model."""


class Ranking(NamedTuple):
    candidates: list[Candidate]
    """The best first."""
    left_out: list[tuple[str, str]]
    """Names and reasons, of those that were asked for."""


def ranking(uri: str, metric: str, where: Mapping[str, str]) -> Ranking:
    """Of all runs that train a model; of several scores of one its own counts, then the newest evaluation's."""
    with needed(uri):
        runs = all_runs(connected(uri))
    by_id = {run.info.run_id: run for run in runs}
    evaluations: dict[str, list[Any]] = {}
    for run in runs:  # newest first
        if run.data.tags.get(PARENT) in by_id and _is_a_finished_evaluation(run):
            evaluations.setdefault(run.data.tags[PARENT], []).append(run)
    of_models = {name: value for name, value in where.items() if name not in OF_SCORES}
    of_scores = {name: value for name, value in where.items() if name in OF_SCORES}
    models = [run for run in runs if {TAGS["method"], TAGS["protocol"]} & run.data.tags.keys() == {TAGS["method"]}]
    found, left_out = [], []
    for run in (run for run in models if _answers(run, of_models)):
        reason, candidate = _judged(run, evaluations.get(run.info.run_id, []), metric, of_scores)
        if candidate is None:
            left_out.append((run.info.run_name, reason))
        else:
            found.append(candidate)
    found.sort(key=lambda one: one.value, reverse=is_higher_better(metric))
    return Ranking(found, left_out)


def score(uri: str, run_id: str, metric: str, where: Mapping[str, str] | None = None) -> Candidate:
    """Of one run; `where`: of its scores those alone, as in {"protocol": "linear"}."""
    with needed(uri):
        client = connected(uri)
        run = client.get_run(run_id)
        below = all_runs(client, f"tags.`{PARENT}` = '{run_id}'")
        children = [one for one in below if _is_a_finished_evaluation(one)]
    reason, candidate = _judged(run, children, metric, where or {})
    if candidate is None:
        raise Mistake(f"{run.info.run_name} {reason}{nearest(metric, run.data.metrics)}")
    return candidate


def unlike(candidates: Sequence[Candidate]) -> list[str]:
    """The settings that are not the same for all, but for where things are."""
    paths = {path for one in candidates for path in one.settings if not path.startswith(WHERE)}
    return sorted(path for path in paths if len({one.settings.get(path) for one in candidates}) > 1)


def differences(one: Candidate, other: Candidate) -> list[str]:
    """Why two scores cannot be compared."""
    names = sorted(one.by.keys() | other.by.keys())
    return [
        f"{name} is {one.by.get(name, 'not said')} and {other.by.get(name, 'not said')}"
        for name in names
        if one.by.get(name) != other.by.get(name)
    ]


def all_runs(client: "MlflowClient", which: str = "") -> list[Any]:
    """Newest first, those that were deleted left out."""
    homes = [home.experiment_id for home in client.search_experiments()]
    runs: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            homes, which, max_results=1000, page_token=token, order_by=["attributes.start_time DESC"]
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _is_a_finished_evaluation(run: Any) -> bool:
    """One that goes on has scores of its beginning; one of a part of a run is of other weights than its last."""
    tags = run.data.tags
    return "mim_ray.protocol" in tags and "mim_ray.part" not in tags and run.info.status == "FINISHED"


def _answers(run: Any, where: Mapping[str, str]) -> bool:
    return all(
        run.data.tags.get(TAGS[name]) == value if name in TAGS else run.data.params.get(name) == value
        for name, value in where.items()
    )


def _judged(
    run: Any, evaluations: Sequence[Any], metric: str, where: Mapping[str, str]
) -> tuple[str, Candidate | None]:
    status = run.info.status
    if status in UNFINISHED:
        return UNFINISHED[status], None
    with_it = (one for one in [run, *evaluations] if metric in one.data.metrics)
    measured = next((one for one in with_it if _answers(one, where)), None)
    if measured is None:
        return " ".join([f"has no {metric}", *(f"{name}={value}" for name, value in where.items())]), None
    value = measured.data.metrics[metric]
    if not math.isfinite(value):
        return f"has {metric} = {value}", None
    tags, params = measured.data.tags, measured.data.params
    by = {name: params[name] for name in MEASURED_BY if name in params}
    by |= {word: tags[tag] for word, tag in TAGS.items() if word in OF_SCORES and tag in tags}
    if "val" in by:  # the same pictures, wherever they lie
        by.pop("data.val", None)
    return "", Candidate(run.info.run_id, run.info.run_name, value, measured.info.run_id, by, run.data.params)
