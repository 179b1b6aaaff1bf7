"""`train` in this process: what it refuses, what it leaves behind, and how it goes on."""

import json
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager
from torch.fx import GraphModule

from mim_ray.data.importer import Import, import_set
from mim_ray.data.sources import open_source
from mim_ray.errors import Failure, Mistake
from mim_ray.launch import train
from mim_ray.methods import resolved
from mim_ray.revision import SAID
from mim_ray.storage import Folder
from mim_ray.training.place import Place
from mim_ray.training.worker import loader_for
from tests.databases import fresh

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
SMALL: dict[str, object] = {
    "encoder": "micro",
    "data.train": "sample:shapes:n=32",
    "data.backend": "torch",
    "precision": "fp32",
    "batch": 8,
    "steps": 4,
    "workers": 0,
    "tracking.every_steps": 2,
    "checkpoint.every_steps": 2,
    "schedule.warmup_epochs": 0.5,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh(tmp_path))
    return tmp_path


def test_a_run_leaves_everything_about_itself_in_mlflow(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SAID, "0123abc")
    result = train("rmae", {**SMALL, "name": "first"})
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    run = client.get_run(result["run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.data.params["method.measure.penalty"] == "1.0"
    assert run.data.tags["mim_ray.method"] == "rmae"
    assert "mim-ray train rmae" in run.data.tags["mim_ray.replay"]
    assert run.data.tags["mim_ray.timm"] == version("timm")
    assert run.data.tags["mim_ray.commit"] == "0123abc"
    assert [one.step for one in client.get_metric_history(result["run_id"], "train/loss")] == [2, 4]
    assert {"train/distance", "train/autoencoder", "train/lr", "train/gradient_norm"} <= run.data.metrics.keys()
    assert {"speed/images_per_second", "speed/data_wait", "memory/gigabytes"} <= run.data.metrics.keys()
    assert Path(result["checkpoint"]).is_dir()
    assert (result["steps"], result["unsent"], len(result["weights_sha256"])) == (4, 0, 64)


def test_a_finished_run_resumes_to_nothing_left_to_do() -> None:
    first = train("mae", {**SMALL, "name": "done"}, track=False)
    again = train(resume="done")
    assert again["weights_sha256"] == first["weights_sha256"]


@pytest.mark.parametrize(
    ("method", "overrides", "words"),
    [
        ("maee", {}, "no method 'maee': did you mean 'mae'?"),
        ("mae", {"data.train": "none"}, "data.train=none: expected a beton"),
        ("mae", {"data.train": "nowhere.beton"}, "nowhere.beton: no such file"),
        ("mae", {"workers": "three"}, "workers=three: expected a number, such as 4"),
        ("mae", {"workers": "4:2"}, "workers=4:2: the least is above the most: expected 2:4"),
        ("mae", {"name": "a/b"}, "name=a/b: expected letters, digits"),
        ("mae", {"storage": "nonsense://x"}, "storage=nonsense://x: "),
        ("mae", {"optim.clip": 0}, "optim.clip=0: expected a number greater than 0"),
        ("mae", {"optim.betas": "1.5,2"}, "optim.betas=1.5,2: "),
        (
            "mae",
            {"checkpoint.best": "eval/knn_topp1"},
            "checkpoint.best=eval/knn_topp1: expected one of eval/knn_top1",
        ),
        ("mae", {"batch": 64}, "batch=64 is larger than an epoch of 32 samples"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(method: str, overrides: dict[str, object], words: str) -> None:
    with pytest.raises(Mistake) as refusal:
        train(method, {**SMALL, **overrides}, track=False)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_of_the_users_own_is_no_place_for_a_run() -> None:
    own = Path("runs", "photos")
    own.mkdir(parents=True)
    (own / "holiday.txt").write_text("mine")
    with pytest.raises(Mistake, match=r"name=photos: .* holds holiday.txt, which is no run's"):
        train("mae", {**SMALL, "name": "photos", "batch": 100_000}, track=False)
    assert (own / "holiday.txt").read_text() == "mine"


def test_a_secret_in_where_weights_come_from_is_refused() -> None:
    for start in ("https://user:hunter2@host/a.safetensors", "https://host/a.safetensors?X-Amz-Signature=abc"):
        with pytest.raises(Mistake, match=r"start: expected no password") as refusal:
            train("mae", {**SMALL, "start": start}, track=False)
        assert not {"hunter2", "abc"} & set(str(refusal.value).replace("=", " ").split())


def test_a_bucket_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Unable to locate\ncredentials")

    monkeypatch.setattr(MemoryFileSystem, "exists", refuse)
    with pytest.raises(Failure, match=r"storage=memory://x.* cannot be read \(Unable to locate credentials\)"):
        train("mae", {**SMALL, "storage": "memory://x"}, track=False)


def test_an_epoch_of_few_pictures_is_one_of_all_but_for_labels() -> None:
    few: dict[str, object] = {**SMALL, "encoder": "micro", "data.few.n": 16}
    of_all = loader_for(resolved("mae", {**few}), Place())
    of_labels = loader_for(resolved("supervised", {**few, "method.measure.classes": 8}), Place())
    whole = loader_for(resolved("mae", SMALL), Place())
    assert (of_all.steps_per_epoch, of_labels.steps_per_epoch, whole.steps_per_epoch) == (4, 2, 4)
    assert whole.order.samples_per_epoch is None  # or what is left of an epoch would go into the next


def test_a_name_is_taken_once() -> None:
    train("mae", {**SMALL, "name": "taken"}, track=False)
    with pytest.raises(Mistake, match=r"name=taken: .* has a run of that name: resume it with --resume taken"):
        train("mae", {**SMALL, "name": "taken"}, track=False)


def test_what_a_resumed_run_may_not_change_is_refused() -> None:
    train("mae", {**SMALL, "name": "fixed"}, track=False)
    with pytest.raises(Mistake, match=r"optim.blr=1: would change what fixed computes"):
        train(resume="fixed", overrides={"optim.blr": 1})
    with pytest.raises(Mistake, match=r"data.few.n=9: would change what fixed computes"):
        train(resume="fixed", overrides={"data.few.n": 9})
    with pytest.raises(Mistake, match=r"fixed is a run of mae, not of rmae"):
        train("rmae", resume="fixed")
    with pytest.raises(Mistake, match=r"no run 'fixd' in .*: did you mean 'fixed'"):
        train(resume="fixd")
    assert train(resume="fixed", overrides={"checkpoint.keep": 1})["steps"] == 4


def test_a_copied_or_renamed_folder_goes_on_under_its_own_name_alone() -> None:
    train("mae", {**SMALL, "name": "own"}, track=False)
    before = sorted(path.name for path in Path("runs/own/checkpoints").iterdir())
    shutil.copytree("runs/own", "runs/copy")
    for kept in ("copy", "copy/"):
        with pytest.raises(Mistake, match=r"runs/copy/? holds the run own, .* expected it to be called own"):
            train(resume=kept)
    Path("runs/own").rename("elsewhere")
    with pytest.raises(Mistake, match=r"runs/copy holds the run own"):
        train(resume="copy")
    assert not Path("runs/own").exists()
    Path("elsewhere").rename("runs/own")
    assert train(resume="own/")["name"] == "own"
    assert sorted(path.name for path in Path("runs/own/checkpoints").iterdir()) == before


def test_what_a_resume_changes_is_kept(here: Path) -> None:
    """By the next one and in MLflow, but for the parameters, which it never changes; not where it is refused."""
    result = train("mae", {**SMALL, "name": "kept"})
    train(resume="kept", overrides={"checkpoint.keep": 5})
    with pytest.raises(Mistake, match=r"nowhere\.beton"):
        train(resume="kept", overrides={"checkpoint.keep": 6, "data.train": "nowhere.beton"})
    train(resume="kept", overrides={"eval.most": 9})
    kept = json.loads((here / "runs" / "kept" / "run.json").read_text())["overrides"]
    assert (kept["checkpoint.keep"], kept["eval.most"], kept["data.train"]) == ("5", "9", "sample:shapes:n=32")
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    assert "checkpoint.keep=5 eval.most=9" in client.get_run(result["run_id"]).data.tags["mim_ray.replay"]
    config = json.loads(Path(client.download_artifacts(result["run_id"], "config.json")).read_text())
    assert (config["checkpoint.keep"], config["eval.most"]) == ("5", "9")


def test_a_dataset_that_was_moved_is_named_anew(here: Path) -> None:
    """Its checkpoint knows whether it is the same."""
    for name, pictures in (("set", 32), ("other", 40)):
        source = open_source(f"sample:shapes:n={pictures}")
        import_set(source, here / f"{name}.beton", Import(workers=1, max_resolution=None))
    whole = train("mae", {**SMALL, "name": "moved", "data.train": "set.beton"}, track=False)
    (here / "runs" / "moved" / "checkpoints" / "step-000000004").rename(here / "aside")
    (here / "set.beton").rename(here / "there.beton")
    with pytest.raises(Mistake, match=r"is of other pictures than .*other.beton holds now"):
        train(resume="moved", overrides={"data.train": "other.beton"})
    again = train(resume="moved", overrides={"data.train": "there.beton"})
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert train(resume="moved")["weights_sha256"] == whole["weights_sha256"]
    shutil.rmtree(here / "runs" / "moved" / "checkpoints")
    with pytest.raises(Mistake, match=r"data.train=other.beton: moved has no checkpoint that knows"):
        train(resume="moved", overrides={"data.train": "other.beton"})


def test_a_checkpoint_of_another_method_is_refused(here: Path) -> None:
    train("mae", {**SMALL, "name": "one"}, track=False)
    job = here / "runs" / "one" / "run.json"
    begun = json.loads(job.read_text())
    job.write_text(json.dumps(begun | {"overrides": begun["overrides"] | {"method.measure.head.depth": "1"}}))
    with pytest.raises(Mistake, match=r"step-000000004 is of another method \(mae, of one\): remove it"):
        train(resume="one")


def test_storage_that_cannot_be_written_is_told_at_once(here: Path) -> None:
    (here / "file").write_text("")
    with pytest.raises(Failure, match=r"storage=.*file.*: cannot be written"):
        train("mae", {**SMALL, "storage": "file"}, track=False)


def test_a_run_is_trained_by_one_process_at_a_time(here: Path) -> None:
    train("mae", {**SMALL, "name": "busy"}, track=False)
    with (
        Folder(f"{here}/runs/busy").held("never read"),
        pytest.raises(Mistake, match="busy is being trained by another process: wait for it, or stop it"),
    ):
        train(resume="busy")
    assert train(resume="busy")["steps"] == 4


@pytest.mark.parametrize("changes", [{"compile": True}, {"precision": "bf16"}], ids=str)
def test_a_run_that_is_compiled_or_of_less_precision_stays_close(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled as far as its graphs; `tests/methods` has the generated code."""
    graphs: list[object] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain = train("mae", {**SMALL, "name": "plain"}, track=False)["metrics"]["train/loss"]
    assert graphs == []
    loss = train("mae", {**SMALL, "name": "other", **changes}, track=False)["metrics"]["train/loss"]
    assert len(graphs) == (1 if "compile" in changes else 0)
    assert loss == pytest.approx(plain, rel=0.02)
    assert ("compile" in changes) or loss != plain
