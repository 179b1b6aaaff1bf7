"""Runs: made once by whoever starts them, opened again to go on, ended. What they log goes through journal.py."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

from mim_ray.errors import Failure, without_secrets
from mim_ray.tracking.server import connected, needed, status_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
PARENT = "mlflow.parentRunId"
LONGEST_VALUE = 6000
LONGEST_DIGEST = 36
CONFIG = "config.json"
CUT = f" … (cut: all of it is in {CONFIG})"

End = Literal["FINISHED", "FAILED", "KILLED"]


class Dataset(NamedTuple):
    """What was trained on: a beton (path or URL) or a `sample:` set, and the checksum of what is in it."""

    path: str
    checksum: str


class KnownRun(TypedDict):
    run_id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]


def resolved_uri(given: str | None = None) -> str:
    """Where runs are kept. A database of this folder is named so that a worker elsewhere finds the same one."""
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{DATABASE}"
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def create_run(
    uri: str,
    experiment: str,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    dataset: Dataset | None = None,
) -> str:
    """A new run, RUNNING, that knows its whole configuration; half-made ones are marked FAILED."""
    with needed(uri):
        client = connected(uri)
        from mlflow.tracking.context.registry import resolve_tags

        home = _experiment(client, experiment, uri)
        run_id = str(client.create_run(home, tags=resolve_tags(dict(tags)), run_name=name).info.run_id)
        try:
            _describe(client, run_id, params, dataset)
        except BaseException:
            with suppress(Exception):
                client.set_terminated(run_id, "FAILED")
            raise
        return run_id


def reopen_run(uri: str, run_id: str) -> None:
    """RUNNING again, to go on after a restart."""
    with needed(uri):
        client = connected(uri)
        place = without_secrets(uri)
        from mlflow.exceptions import MlflowException

        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if status_of(error) != HTTPStatus.NOT_FOUND:
                raise
            raise Failure(
                f"MLflow at {place} has no run {run_id}: name the server that has it by tracking.uri=, "
                "or start a new run"
            ) from None
        if run.info.lifecycle_stage == "deleted":
            raise Failure(f"run {run_id} was deleted at {place}: {restore(run_id)}, or start a new run")
        client.update_run(run_id, status="RUNNING")


def describe_again(uri: str, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """What a run goes on with; its parameters stay what it began with, for MLflow never changes one."""
    tag_run(uri, run_id, tags)
    add_documents(uri, run_id, {CONFIG: params})


def end_run(uri: str, run_id: str, status: End) -> None:
    with needed(uri):
        connected(uri).set_terminated(run_id, status)


def tag_run(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    with needed(uri):
        client = connected(uri)
        for name, value in tags.items():
            client.set_tag(run_id, name, value)


def tags_of(uri: str, run_id: str) -> dict[str, str]:
    with needed(uri):
        return dict(connected(uri).get_run(run_id).data.tags)


def children(uri: str, parent: str, tags: Mapping[str, str], *, running: bool = False) -> list[str]:
    """Of a run, those with these tags; `running`: that say RUNNING alone."""
    which = _with_tags({PARENT: parent, **tags}) + " and attributes.status = 'RUNNING'" * running
    with needed(uri):
        client = connected(uri)
        home = client.get_run(parent).info.experiment_id
        return [run.info.run_id for run in client.search_runs([home], which, max_results=5000)]


def delete_runs(uri: str, run_ids: Sequence[str]) -> None:
    with needed(uri):
        for run_id in run_ids:
            connected(uri).delete_run(run_id)


def tagged(uri: str, experiment: str, tags: Mapping[str, str]) -> list[str]:
    """Runs of an experiment that have these tags."""
    with needed(uri):
        client = connected(uri)
        home = client.get_experiment_by_name(experiment)
        if home is None:
            return []
        return [run.info.run_id for run in client.search_runs([home.experiment_id], _with_tags(tags))]


def _with_tags(tags: Mapping[str, str]) -> str:
    return " and ".join(f"tags.`{name}` = {_quoted(value)}" for name, value in tags.items())


def add_results(uri: str, run_id: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
    """What was found out about a run after its end."""
    with needed(uri):
        client = connected(uri)
        for name, value in metrics.items():
            client.log_metric(run_id, name, value)
        for file in files:
            client.log_artifact(run_id, str(file), "pictures")


def add_metrics(uri: str, run_id: str, metrics: Mapping[str, float], step: int) -> None:
    with needed(uri):
        client = connected(uri)
        for name, value in metrics.items():
            client.log_metric(run_id, name, value, step=step)


def add_documents(uri: str, run_id: str, documents: Mapping[str, str | Mapping[str, object]]) -> None:
    """Texts, and what becomes JSON, by the names of their files."""
    with needed(uri):
        client = connected(uri)
        for name, content in documents.items():
            if isinstance(content, str):
                client.log_text(run_id, content, name)
            else:
                client.log_dict(run_id, dict(content), name)


def find_run(uri: str, name_or_id: str) -> KnownRun | None:
    """The run of this id, or else the newest of this name in any experiment; deleted ones are not found."""
    with needed(uri):
        client = connected(uri)
        homes = [experiment.experiment_id for experiment in client.search_experiments()]
        is_id = re.fullmatch("[0-9a-f]{32}", name_or_id)
        for attribute in ["run_id", "run_name"] if is_id else ["run_name"]:
            wanted = f"attributes.{attribute} = {_quoted(name_or_id)}"
            for run in client.search_runs(homes, wanted, max_results=1, order_by=["attributes.start_time DESC"]):
                return KnownRun(
                    run_id=run.info.run_id,
                    name=run.info.run_name,
                    status=run.info.status,
                    params=run.data.params,
                    tags=run.data.tags,
                )
        return None


def restore(run_id: str) -> str:
    """The way out for a deleted run."""
    return f"`mlflow runs restore --run-id {run_id}`"


def _experiment(client: "MlflowClient", name: str, uri: str) -> str:
    """The id of an experiment that may have to be made, and that another may make at the same time."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise Failure(
            f"experiment {name!r} was deleted at {without_secrets(uri)}: "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or choose another name"
        )
    return str(found.experiment_id)


def _describe(client: "MlflowClient", run_id: str, params: Mapping[str, str], dataset: Dataset | None) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(key, _short(value)) for key, value in params.items()])
    client.log_dict(run_id, dict(params), CONFIG)
    if dataset is not None:
        _tell_dataset(client, run_id, dataset)


def _tell_dataset(client: "MlflowClient", run_id: str, dataset: Dataset) -> None:
    """Once more where another run has told of the same one at the same moment, which a database refuses."""
    from mlflow.exceptions import MlflowException

    try:
        client.log_inputs(run_id, [_input(dataset)])
    except MlflowException as error:
        if "unique" not in str(error).lower():
            raise
        client.log_inputs(run_id, [_input(dataset)])


def _short(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else value[: LONGEST_VALUE - len(CUT)] + CUT


def _input(dataset: Dataset) -> "DatasetInput":
    from mlflow.entities import Dataset as Entity
    from mlflow.entities import DatasetInput, InputTag

    place = without_secrets(dataset.path)
    source = json.dumps({"uri": place})
    entity = Entity(Path(place).name, dataset.checksum[:LONGEST_DIGEST], "local", source)
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def _quoted(text: str) -> str:
    quote = '"' if "'" in text else "'"
    return f"{quote}{text}{quote}"
