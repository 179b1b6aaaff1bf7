"""`mim-ray eval`: a model judged by a protocol. Each is a run like any other, started from the model's weights."""

import secrets
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from mim_ray.config import changed, flatten
from mim_ray.data.beton import Beton
from mim_ray.data.loader import drawn
from mim_ray.data.place import local_beton
from mim_ray.encoders.cnn import CNN
from mim_ray.encoders.target import Labels
from mim_ray.errors import Mistake, nearest
from mim_ray.launch import checksums, train
from mim_ray.measures.classify import Classify, Probe
from mim_ray.methods import PROTOCOLS, recipe, resolved
from mim_ray.resume import PLACES, absolute, refuse_secrets
from mim_ray.run import Run
from mim_ray.storage import Folder
from mim_ray.subject import Subject, encoder_words, subject
from mim_ray.tracking.run import PARENT, add_results, create_run, end_run, reopen_run, resolved_uri, tags_of
from mim_ray.training.job import JOB, START, job_of
from mim_ray.weights.names import from_others

FOR_CNNS = {"finetune": "finetune_a3", "linear": "linear_r50"}
LAYER = "method.encoder.depth"
OF_THE_MODEL_OR_THE_PLACE = (
    "name", "seed", "storage", "start", "tracking.", "checkpoint.", "workers", "cpus_per_worker",
    "gpus_per_worker", "resources", "micro", "compile", "data.train", "data.val", "data.backend", "data.threads",
    "data.ahead", "data.stage", "data.crop.size", "eval.every_epochs", "eval.pictures", "eval.size", "eval.pool",
    "method.encoder", "method.mean", "method.std", "method.measure.classes", "method.measure.pool",
)  # fmt: skip
"""Settings of a judging that say nothing of how it judges."""

SHORT = {
    "layer": LAYER,
    "k": "eval.neighbours",
    "temperature": "eval.temperature",
    "per_class": "data.few.per_class",
    "fraction": "data.few.fraction",
    "classes": "method.measure.classes",
}
"""What is typed every day."""


def evaluate(
    protocol: str,
    model: str,
    overrides: Mapping[str, object] | None = None,
    *,
    weights: Path | None = None,
    seeds: int = 1,
    address: str | None = None,
    track: bool = True,
) -> dict[str, Any]:
    """`evaluate("linear", "mim-encoder@champion", {"data.train": …, "data.val": …})`; what comes back is JSON."""
    given = {SHORT.get(path, path): value for path, value in (overrides or {}).items()}
    uri = resolved_uri(str(given["tracking.uri"]) if "tracking.uri" in given else None)
    judged = subject(model, weights, uri)
    method, words = _sentence(protocol, judged, given)
    words |= {
        path: absolute(str(words[path]))
        for path in ("data.train", "data.val")
        if words.get(path, "none") != "none"
    }
    run = resolved(method, words)
    _check(protocol, run)
    name = run.name or f"{protocol}-{judged.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    tags = {"mim_ray.protocol": protocol, "mim_ray.model": model, "mim_ray.settings": settings(method, run, given)}
    if judged.run_id is not None:
        tags[PARENT] = judged.run_id
    if judged.part is not None:
        tags["mim_ray.part"] = judged.part
    if seeds == 1:
        found = [_trained(method, words | {"name": name}, judged, tags, address, track)]
        return verdict(protocol, found)
    each = [words | {"name": f"{name}-seed{seed}", "seed": seed} for seed in range(run.seed, run.seed + seeds)]
    summary = _summary(uri, name, run, tags, _folder_of(resolved(method, each[0]))) if track else None
    if summary is not None:
        tags[PARENT] = summary
    found = []
    try:
        for one in each:
            found.append(_trained(method, one, judged, tags, address, track, may_go_on=True))
    except BaseException:
        if summary is not None:
            end_run(uri, summary, "FAILED")
        raise
    result = verdict(protocol, found) | {"run_id": summary}
    if summary is not None:
        spread = {f"{metric}_std": value for metric, value in result["std"].items()}
        add_results(uri, summary, result["metrics"] | spread, [])
        end_run(uri, summary, "FINISHED")
    return result


def settings(method: str, run: Run, given: Mapping[str, object]) -> str:
    """How the judging differs from the recipe: what two scores must share beside data and protocol."""
    words = changed(recipe(method), run)
    asked = {LAYER} & set(given)  # or it is how deep the model itself is
    kept = (path for path in words if path in asked or not path.startswith(OF_THE_MODEL_OR_THE_PLACE))
    return " ".join(f"{path}={words[path]}" for path in sorted(kept)) or "the recipe's"


def check_words(protocol: str, overrides: Mapping[str, object]) -> None:
    """What can be said where neither the model nor the sets are at hand: that one of the recipes knows them."""
    method = _method_of(protocol)
    given = {_path_of(path, method): value for path, value in overrides.items()}
    refuse_secrets(given)
    problems = []
    for recipe_of_one in dict.fromkeys((method, FOR_CNNS.get(method, method))):
        try:
            resolved(recipe_of_one, given)
            return
        except Mistake as problem:
            problems.append(problem)
    raise problems[0]


def _method_of(protocol: str) -> str:
    known = [*PROTOCOLS, "fewshot"]
    if protocol not in known:
        raise Mistake(f"no protocol {protocol!r}{nearest(protocol, known)}")
    return "finetune" if protocol == "fewshot" else protocol


def _path_of(word: str, method: str) -> str:
    if word == "pool":
        return "eval.pool" if method == "knn" else "method.measure.pool"
    return SHORT.get(word, word)


def _sentence(protocol: str, judged: Subject, given: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """The recipe's name and what is changed of it: the model's encoder and pictures, the set's classes."""
    few, method = protocol == "fewshot", _method_of(protocol)
    if isinstance(judged.run.method.encoder, CNN):
        method = FOR_CNNS.get(method, method)
    default, words = recipe(method), encoder_words(judged.run)
    if words["method.encoder"] == default.method.encoder.kind:
        del words["method.encoder"]  # or the recipe's own settings of it would go
    words |= _pictures(judged.run, default)
    if method == "linear":
        words["method.measure.pool"] = judged.run.pool
    if method == "knn":
        words["eval.pool"] = judged.run.pool
    if few and not any(path.startswith("data.few.") for path in given):
        words["data.few.fraction"] = 0.01
    if isinstance(default.method.target, Labels) and "data.train" in given:
        sets = [str(given[path]) for path in ("data.train", "data.val") if given.get(path, "none") != "none"]
        words["method.measure.classes"] = max(map(classes_of, sets))
    words |= {_path_of(path, method): value for path, value in given.items()}
    if "data.train" in given and "batch" not in given:  # the learning rate follows it
        words["batch"] = min(default.batch, _pictures_to_learn_from(resolved(method, words)))
    return method, words


def _pictures(judged: Run, default: Run) -> dict[str, object]:
    """A ViT is bound to the pictures it was trained on; a CNN to none, but those of a small one stay small."""
    own, usual = judged.data.crop.size, default.data.crop.size
    if not isinstance(judged.method.encoder, CNN):
        return {"data.crop.size": own}
    return {"data.crop.size": own, "eval.size": None} if own < usual else {}


def _pictures_to_learn_from(run: Run) -> int:
    beton = beton_of(str(run.data.train))
    some = drawn(beton, next(iter(beton.labels.values()), None), run.data.few, run.seed)
    return len(beton) if some is None else len(some)


def _check(protocol: str, run: Run) -> None:
    if run.data.train is None:
        raise Mistake("data.train=none: expected a labelled beton (mim-ray data import makes one)")
    if run.data.val is None and isinstance(run.method.target, Labels):
        raise Mistake(f"data.val=none: {protocol} is judged by pictures it has not learnt from: expected a beton")
    if isinstance(run.method.measure, Classify | Probe):
        classes = run.method.measure.classes
        needed = max(classes_of(str(run.data.train)), classes_of(str(run.data.val)))
        if classes < needed:
            raise Mistake(f"classes={classes}: the sets have {needed}: expected that many, or more")


def beton_of(path: str) -> Beton:
    return Beton.open(local_beton(path))


def classes_of(path: str) -> int:
    labels = beton_of(path).labels
    if not labels:
        raise Mistake(f"{path} has no labels to learn from: expected a labelled set")
    return max(2, int(next(iter(labels.values())).max()) + 1)


def _trained(
    method: str,
    words: Mapping[str, object],
    judged: Subject,
    tags: Mapping[str, str],
    address: str | None,
    track: bool,
    *,
    may_go_on: bool = False,
) -> dict[str, Any]:
    """The weights go into the run's own folder, so that it can go on wherever that is."""
    run = resolved(method, words)
    folder, start = _folder_of(run), None
    if judged.weights is not None:
        start = save({name: weight.contiguous() for name, weight in from_others(judged.weights).items()})
        words = {**words, "start": f"{folder.url}/{START}"}
    if may_go_on and folder.has(JOB):
        there = job_of(folder.read(JOB))
        asked = resolved(method, {**words, "storage": there.run.storage})
        if (there.method, there.run) != (method, asked) or (start is not None and folder.read(START) != start):
            raise Mistake(f"name={run.name}: {folder.url} has another judging of that name: rename")
        places = {path: str(words[path]) for path in PLACES if path in words}
        return train(resume=run.name, overrides=places, address=address)
    if start is not None and not folder.has(JOB):  # a name that is taken is refused by what follows
        folder.write(START, start)
    return train(method, words, address=address, track=track, tags=tags)


def _folder_of(run: Run) -> Folder:
    return Folder(absolute(run.storage)).below(run.name)


def _summary(uri: str, name: str, run: Run, tags: Mapping[str, str], first: Folder) -> str:
    """The run in MLflow for all seeds: that of an earlier try, which its `first` seed knows, or a new one."""
    known = job_of(first.read(JOB)).run_id if first.has(JOB) else None
    if known is None:
        return create_run(uri, run.tracking.experiment, name, flatten(run), {**tags, **checksums(run)})
    summary = tags_of(uri, known)[PARENT]
    reopen_run(uri, summary)
    return summary


def verdict(protocol: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a run, or means and deviations over several with a seed each; not of eval/rate, which is a choice."""
    left_out = {"eval/rate"} if len(found) > 1 else set()
    names = [name for name in found[0]["metrics"] if name.startswith("eval/") and name not in left_out]
    columns = {name: [one["metrics"][name] for one in found] for name in names}
    result: dict[str, Any] = {
        "run_id": found[0]["run_id"],
        "protocol": protocol,
        "metrics": {name: statistics.fmean(column) for name, column in columns.items()},
        "names": [one["name"] for one in found],
    }
    if len(found) > 1:
        result["std"] = {name: statistics.stdev(column) for name, column in columns.items()}
    return result
