"""What a search was asked for, as it is written down, and what that makes of each trial."""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from mim_ray.config import Spec, resolve
from mim_ray.errors import Failure, Mistake, without_secrets
from mim_ray.run import Run
from mim_ray.scores import LINEAR, LOOKED_AT
from mim_ray.search.memory import Record
from mim_ray.search.space import Space, of_source
from mim_ray.storage import Folder
from mim_ray.tracking.run import resolved_uri

PLAN = "search.json"
SECONDS = {"s": 1, "m": 60, "h": 3600}
LOOKS, CORES = "eval.every_epochs", "cpus_per_worker"
SEARCHES = {"steps": "epochs", "workers": "workers_per_trial", LOOKS: "rungs", "eval.patience": "scheduler"}
"""Words of a run that a search says in its own way."""


class Search(Spec):
    """The words of a search itself; all others are settings that every trial shares."""

    name: str = Field("", description="what to call the search; empty: the space and a time")
    trials: PositiveInt = 20
    concurrent: PositiveInt | None = Field(
        None, description="trials at the same time; none: as many as the cluster has room for"
    )
    metric: tuple[str, ...] = Field(
        (),
        description="what is searched for; none given: the space's GOAL; several: their trade-off",
    )
    scheduler: Literal["asha", "median", "none"] = Field("asha", description="who ends a trial before its time")
    searcher: Literal["optuna", "random", "grid"] = Field("optuna", description="who says what to try next")
    points: PositiveInt = Field(3, description="of a range in a grid")
    time_budget: str | None = Field(None, description="90m, 8h: after it no more is begun or gone on with")
    workers_per_trial: PositiveInt = 1
    reduction: int = Field(3, ge=2, description="asha: one of so many trials passes a rung")
    rungs: PositiveInt = Field(
        2, description="asha: how many before the end: of 9 epochs after 1 and 3; a trial is looked at as often"
    )
    finalists: NonNegativeInt = Field(0, description="how many of the best are trained again with other seeds")
    seeds: PositiveInt = Field(3, description="of each finalist, the first trial among them")
    retrain: PositiveInt | None = Field(
        None, description="epochs that the best is trained for anew; it is then judged, registered, promoted"
    )
    protocol: str = Field("linear", description="how it is judged")
    retrain_workers: str | None = Field(
        None, description="its workers, as in 8 or 2:8; none: as many as all trials at a time have, as they come"
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_folders(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.-]*", name) or name.startswith("."):
            raise ValueError("expected letters, digits, - _ and . only: a folder is called so")
        return name

    @field_validator("searcher", mode="before")
    @classmethod
    def _bohb_is_no_longer_kept(cls, word: object) -> object:
        if word == "bohb":
            raise ValueError(
                "its library (hpbandster) is no longer kept: expected optuna with scheduler=asha, "
                "which learns from the rungs as BOHB does"
            )
        return word

    @field_validator("retrain_workers")
    @classmethod
    def _workers_are_those_of_a_run(cls, text: str | None) -> str | None:
        least, _, most = (text or "1").partition(":")
        if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", text or "1") or int(least) > int(most or least):
            raise ValueError("expected a number, such as 4, or the least and the most, such as 2:8")
        return text

    @field_validator("time_budget")
    @classmethod
    def _budget_is_a_time(cls, text: str | None) -> str | None:
        if text is not None and (not re.fullmatch(r"\d+(\.\d+)?[smh]", text) or not float(text[:-1])):
            raise ValueError("expected a time, such as 90m or 8h")
        return text

    @model_validator(mode="after")
    def _one_is_judged(self) -> "Search":
        if len(self.metric) > 1 and self.scheduler != "none":
            raise ValueError(
                f"scheduler={self.scheduler}: compares one metric, not {len(self.metric)}: expected none"
            )
        return self

    @property
    def seconds(self) -> PositiveFloat | None:
        return None if self.time_budget is None else float(self.time_budget[:-1]) * SECONDS[self.time_budget[-1]]

    @property
    def looks(self) -> int | None:
        """Of a whole trial, the last one at its end; None: as the run says."""
        return None if self.scheduler == "none" else int(self.reduction**self.rungs)


class Plan(NamedTuple):
    id: str
    """By which its run in MLflow is known, for names come again."""
    words: Mapping[str, str]
    """Of the search."""
    space: str
    source: str
    fixed: Mapping[str, str]
    """Settings that every trial shares."""
    storage: str
    concurrent: int
    tracking_uri: str | None
    run_id: str | None
    """The parent of the trials' runs in MLflow."""
    model: str | None
    """What the best is registered as."""
    prospect: Mapping[str, Any]
    """What it was expected to take."""
    cores: int | None = None
    """Of a worker, where nobody says: each sitting's own, for no result depends on them."""

    @property
    def search(self) -> Search:
        return resolve(Search(), self.words)

    @property
    def name(self) -> str:
        return self.words["name"]

    @property
    def folder(self) -> Folder:
        return Folder(self.storage).below(self.name)

    @property
    def runs(self) -> Folder:
        """Of the trials."""
        return self.folder.below("runs")

    @property
    def uri(self) -> str | None:
        """Files hold no password: the address of the environment is taken where it is the same but for that."""
        here = resolved_uri(self.fixed.get("tracking.uri"))
        return here if self.tracking_uri == without_secrets(here) else self.tracking_uri

    @property
    def share(self) -> dict[str, str]:
        """Of a worker in the cores of this sitting, as a word of each of its runs."""
        cores = self.fixed.get(CORES) if self.cores is None else self.cores
        return {} if cores is None else {CORES: str(cores)}

    def questions(self) -> Space:
        return of_source(self.space, self.source, self.fixed)

    def of_trial(self, record: Record) -> tuple[str, dict[str, str]]:
        """The method of a trial and all of its words."""
        method, drawn = self.questions().sentence(record.words)
        fixed = {path: text for path, text in self.fixed.items() if path != "method"}
        given = imposed(self.search) | fixed | self.share | drawn
        seed = int(given.get("seed", 0)) + record.seed
        own = {"name": record.name(self.name), "storage": self.runs.url, "seed": str(seed)}
        return method, given | own

    def write(self) -> None:
        uri = None if self.tracking_uri is None else without_secrets(self.tracking_uri)
        self.folder.write(PLAN, json.dumps(self._replace(tracking_uri=uri)._asdict(), indent=1).encode())


def read_plan(folder: Folder) -> Plan:
    """It goes on where it lies, though it may have begun in another place."""
    try:
        values: dict[str, Any] = json.loads(folder.read(PLAN))
        return Plan(**{"prospect": {}, **values})._replace(storage=folder.url.rpartition("/")[0])
    except (ValueError, TypeError) as error:
        raise Failure(f"{folder.url}/{PLAN} cannot be read: {error}") from None


def imposed(search: Search) -> dict[str, str]:
    """What a search says to every trial: where it works, when it is looked at, what its best is."""
    words = {"workers": str(search.workers_per_trial)}
    if search.metric and (search.metric[0] in LOOKED_AT or search.metric[0].startswith("train/")):
        words["checkpoint.best"] = search.metric[0]
    if LINEAR in search.metric:
        words["eval.linear"] = "true"
    return words


def workers_of_the_best(search: Search, concurrent: int, run: Run) -> str:
    """At length, and where it is judged: those of all trials, as they come. Where pictures are mixed in pairs
    not every number of workers can share a batch, so there it has those of one trial."""
    least = search.workers_per_trial
    most = least if run.method.shared.mixes else min(least * concurrent, run.batch)
    return search.retrain_workers or (f"{least}:{most}" if most > least else f"{least}")


def refuse_idle_words(search: Search, fixed: Mapping[str, str]) -> None:
    """Words that nothing would come of."""
    is_final, is_at_length = search.finalists > 0, search.retrain is not None
    for path, is_used, needs in (
        ("points", search.searcher == "grid", "searcher=grid"),
        ("rungs", search.scheduler == "asha", "scheduler=asha"),
        ("reduction", search.scheduler == "asha", "scheduler=asha"),
        ("seeds", is_final, "finalists="),
        ("protocol", is_at_length, "retrain="),
        ("retrain_workers", is_at_length, "retrain="),
    ):
        if not is_used and (value := getattr(search, path)) != getattr(Search(), path):
            raise Mistake(f"{path}={value}: says nothing without {needs}: add it, or leave {path}= out")
    if "tracking.model" in fixed and not is_at_length:
        raise Mistake(f"tracking.model={fixed['tracking.model']}: only the best is registered: add retrain=")


def refuse_words_of_a_search(search: Search, fixed: Mapping[str, str]) -> None:
    for path, instead in SEARCHES.items():
        if path in fixed and (path != LOOKS or search.looks is not None):
            raise Mistake(f"{path}={fixed[path]}: a search has its own word for it: expected {instead}=")
