"""`mim-ray models`: the best of many runs, promotions, and models in the formats of others."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

import mim_ray
from mim_ray import cli, models
from mim_ray.errors import Failure, Mistake
from mim_ray.exports import FORMATS, pull
from mim_ray.methods import resolved
from mim_ray.model_card import ModelCard
from mim_ray.models import save_encoder
from mim_ray.promotion import promoted
from mim_ray.tracking import registry
from mim_ray.tracking.ranking import ranking
from mim_ray.tracking.registry import Version, set_champion, version_of, versions
from mim_ray.tracking.run import find_run
from tests.databases import fresh
from tests.tracking.servers import Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
KNN = "eval/knn_top1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.wait()
    yield server
    with suppress(ProcessLookupError):  # the last test ends it
        server.kill()


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return fresh(tmp_path)


def run_of(uri: str, name: str, metrics: Mapping[str, float], status: str = "FINISHED", **changes: Any) -> str:
    """A run as training leaves it, as far as its numbers go."""
    client = MlflowClient(uri)
    home = client.get_experiment_by_name("mim_ray")
    place = client.create_experiment("mim_ray") if home is None else home.experiment_id
    tags = {"mim_ray.method": "rmae", "mim_ray.dataset_checksum": "abc", **changes.get("tags", {})}
    run_id = str(client.create_run(place, run_name=name, tags=tags).info.run_id)
    for path, value in {"eval.share": "0.875", **changes.get("params", {})}.items():
        client.log_param(run_id, path, value)
    for metric, value in metrics.items():
        client.log_metric(run_id, metric, value)
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def test_the_best_of_twenty_runs_is_one_that_counts(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := server.uri)
    for number in range(15):
        run_of(uri, f"run{number}", {KNN: 0.01 * ((7 * number) % 15), "train/loss": 1 - 0.01 * number})
    run_of(uri, "broken", {KNN: 0.9}, "FAILED")
    run_of(uri, "cut", {KNN: 0.9}, "KILLED")
    run_of(uri, "busy", {KNN: 0.9}, "RUNNING")
    run_of(uri, "odd", {KNN: float("nan")})
    run_of(uri, "silent", {})
    run_of(uri, "other", {KNN: 0.8}, tags={"mim_ray.method": "mae"})
    capsys.readouterr()  # MLflow's own words, of runs that are made by hand
    assert cli.run(["models", "best", "method=rmae", "--json", "--no-track"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert (result["name"], result["metric"], result["value"]) == ("run2", KNN, pytest.approx(0.14))
    assert sorted(result["left_out"]) == [
        "broken failed", "busy still running", "cut was stopped", "odd has eval/knn_top1 = nan",
        "silent has no eval/knn_top1",
    ]  # fmt: skip
    assert "left out: broken failed" in said.err
    assert ranking(uri, KNN, {}).candidates[0].name == "other"
    assert ranking(uri, "train/loss", {"method": "rmae"}).candidates[0].name == "run14"
    none = ranking(uri, KNN, {"method": "rmae", "data": "none"})
    assert none.candidates == []
    assert ("run2", "has no eval/knn_top1 data=none") in none.left_out
    assert cli.run(["models", "best", "method=none"]) == 1


def test_what_is_found_is_kept_where_it_was_looked_for(uri: str, tmp_path: Path) -> None:
    there = f"sqlite:///{tmp_path}/there.db"
    shutil.copyfile(uri.removeprefix("sqlite:///"), tmp_path / "there.db")
    run_of(there, "one", {KNN: 0.3})
    assert cli.run(["models", "best", "--uri", there]) == 0
    assert find_run(there, "best") is not None
    assert find_run(uri, "best") is None


def test_words_for_the_place_are_not_taken_for_words_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", "best", "tracking.uri=http://127.0.0.1:9"]) == 2
    assert "tracking.uri=http://127.0.0.1:9: expected --uri" in capsys.readouterr().err


def test_a_server_that_is_down_is_one_line() -> None:
    command = [sys.executable, "-m", "mim_ray", "models", "best", "--uri", "http://127.0.0.1:9"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("mim-ray: MLflow at http://127.0.0.1:9 cannot be reached (Connection refused)")


def test_the_best_is_sought_among_like_scores(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = run_of(uri, "one", {KNN: 0.3})
    run_of(uri, "easy", {KNN: 0.9}, tags={"mim_ray.dataset_checksum": "easy"})
    run_of(uri, "probe", {"eval/top1": 0.7}, tags={"mlflow.parentRunId": one, "mim_ray.protocol": "linear"})
    run_of(uri, "tuned", {"eval/top1": 0.9}, tags={"mlflow.parentRunId": one, "mim_ray.protocol": "finetune"})
    assert cli.run(["models", "best", "--no-track"]) == 2
    assert "eval/knn_top1 cannot be compared: data is easy and abc: say which, as in" in capsys.readouterr().err
    for words, name in ((["data=abc"], "one"), (["--data", "easy"], "easy"), (["--where", "data=abc"], "one")):
        assert cli.run(["models", "best", *words, "--json", "--no-track"]) == 0
        assert json.loads(capsys.readouterr().out)["name"] == name
    for protocol, value in (("linear", 0.7), ("finetune", 0.9)):
        words = ["--metric", "eval/top1", f"protocol={protocol}", "--json", "--no-track"]
        assert cli.run(["models", "best", *words]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["name"], result["value"]) == ("one", value)


def test_scores_of_other_judgings_are_not_compared(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    def judged(name: str, value: float, **tags: str) -> None:
        parent = {"mlflow.parentRunId": by_name[name], "mim_ray.protocol": "linear"}
        ours = {"mim_ray.settings": "the recipe's", "mim_ray.val_checksum": "v", **tags}
        run_of(
            uri, f"{name}-linear", {"eval/top1": value}, tags=parent | ours, params={"data.val": f"{name}.beton"}
        )

    by_name = {name: run_of(uri, name, {KNN: 0.1}) for name in ("one", "long", "other", "part", "like")}
    judged("one", 0.5)
    judged("long", 0.9, **{"mim_ray.settings": "epochs=900"})
    judged("other", 0.9, **{"mim_ray.val_checksum": "w"})
    judged("part", 0.9, **{"mim_ray.part": "best"})
    judged("like", 0.6)
    words = ["models", "compare", "one", "--metric", "eval/top1", "--json", "--no-track"]
    for name, why in (
        ("long", "settings is the recipe's and epochs=900"),
        ("other", "val is v and w"),
        ("like", ""),
    ):
        assert cli.run([*words[:3], name, *words[3:]]) == 0
        assert json.loads(capsys.readouterr().out)["models"][1]["unlike_the_first"] == why
    assert cli.run([*words[:3], "part", *words[3:]]) == 2
    assert "part has no eval/top1" in capsys.readouterr().err


def registered(uri: str, run_id: str, name: str = "mim-encoder") -> str:
    from mim_ray.tracking.registry import register

    return register(uri, name, run_id)


def test_a_promotion_keeps_the_one_before_and_is_earned(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"1": 0.3, "2": 0.5, "3": 0.4}
    for number, value in scores.items():
        registered(uri, run_of(uri, f"run{number}", {KNN: value}))
    registered(uri, run_of(uri, "elsewhere", {KNN: 0.9}, tags={"mim_ray.dataset_checksum": "other"}))
    registered(uri, run_of(uri, "closer", {KNN: 0.9}, params={"eval.share": "1.0"}))
    assert cli.run(["models", "promote", "mim-encoder/1"]) == 0
    assert cli.run(["models", "promote", "mim-encoder/2"]) == 0
    capsys.readouterr()
    for number, reason in (
        ("3", "mim-encoder/3 is not better: eval/knn_top1 is 0.4000, and 0.5000 of mim-encoder@champion: --force"),
        ("4", "cannot be compared: data is other and abc"),
        ("5", "cannot be compared: eval.share is 1.0 and 0.875"),
        ("9", "no version 'mim-encoder/9': expected one of mim-encoder/5, "),
    ):
        assert cli.run(["models", "promote", f"mim-encoder/{number}"]) == 2
        assert reason in capsys.readouterr().err
    aliases = {one.version: one.aliases for one in versions(uri, "mim-encoder")}
    assert aliases == {"1": ["previous"], "2": ["champion"], "3": [], "4": [], "5": []}
    assert cli.run(["models", "promote", "mim-encoder/3", "--force"]) == 0
    assert version_of(uri, "mim-encoder@champion").version == "3"
    assert version_of(uri, "mim-encoder@previous").version == "2"
    assert registry.run_of(uri, "champion") == version_of(uri, "mim-encoder/3").run_id
    assert cli.run(["models", "list", "mim-encodr"]) == 2
    assert "did you mean 'mim-encoder'?" in capsys.readouterr().err


def test_a_promotion_compares_judgings_by_one_protocol(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever else the two were judged by since, or were worth to themselves while they were trained."""
    champion, new = (run_of(uri, name, {KNN: value}) for name, value in (("old", 0.8), ("new", 0.7)))
    scores = (
        (champion, "linear", "eval/top1", 0.5), (champion, "knn", KNN, 0.3),
        (champion, "finetune", "eval/top1", 0.9),
        (new, "linear", "eval/top1", 0.6), (new, "knn", KNN, 0.4),
    )  # fmt: skip
    for parent, protocol, metric, value in scores:
        tags = {"mlflow.parentRunId": parent, "mim_ray.protocol": protocol}
        run_of(uri, f"{protocol}-{value}", {metric: value}, tags=tags)
    registered(uri, champion)
    registered(uri, new)
    promoted(uri, "mim-encoder/1", KNN)
    with pytest.raises(Mistake, match="protocol is linear and finetune"):
        promoted(uri, "mim-encoder/2", "eval/top1")
    with pytest.raises(Mistake, match=r"is not better: eval/knn_top1 is 0\.7000, and 0\.8000"):
        promoted(uri, "mim-encoder/2", KNN)
    with pytest.raises(Mistake, match="new has no eval/top1 protocol=finetune"):
        promoted(uri, "mim-encoder/2", "eval/top1", protocol="finetune")
    assert promoted(uri, "mim-encoder/2", KNN, "by_knn", protocol="knn")["previous"] is None
    assert promoted(uri, "mim-encoder/2", KNN, protocol="knn")["previous"] == "1"
    set_champion(uri, version_of(uri, "mim-encoder/1"))
    words = ["models", "promote", "mim-encoder/2", "--metric", "eval/top1", "--protocol", "linear"]
    assert cli.run(words) == 0
    assert "mim-encoder@champion is version 2, before it 1" in capsys.readouterr().out


def test_of_two_promotions_at_one_moment_one_wins_and_nothing_is_lost(server: Server) -> None:
    uri = server.uri
    for number in range(5):
        registered(uri, run_of(uri, f"run{number}", {KNN: 0.1 * number}))
    found = versions(uri, "mim-encoder")
    set_champion(uri, found[-1])

    inside, longest = [0], [0]

    def promote(number: int) -> bool:
        def earned(before: Version) -> None:
            inside[0] += 1
            longest[0] = max(longest[0], inside[0])
            time.sleep(0.3)  # what others do meanwhile would be lost
            inside[0] -= 1
            if int(found[number].version) < int(before.version):
                raise Mistake("it is not better than the champion of now")

        try:
            set_champion(uri, found[number], earned=earned)
        except Mistake:
            return False
        return True

    with ThreadPoolExecutor(4) as together:
        won = list(together.map(promote, range(4)))
    assert longest == [1]
    assert won[0]  # the best of them, whenever its turn was
    champion, previous = (version_of(uri, f"mim-encoder@{alias}") for alias in ("champion", "previous"))
    assert champion.version == "5"
    assert previous.version == str(max(5 - number for number in range(1, 5) if number == 4 or won[number]))
    assert [one.name for one in versions(uri)] == ["mim-encoder"] * 5


def test_a_promotion_that_was_cut_short_stands_in_nobodys_way(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = server.uri
    registered(uri, run_of(uri, "only", {KNN: 0.1}), "mim-cut")
    MlflowClient(uri).create_registered_model("mim-cut.promoting")
    monkeypatch.setattr(registry, "PROMOTING_SECONDS", 1.0)
    assert set_champion(uri, version_of(uri, "mim-cut/1")) is None
    assert version_of(uri, "mim-cut@champion").version == "1"


def test_scores_are_compared_with_what_they_depend_on(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = run_of(uri, "one", {KNN: 0.3})
    run_of(uri, "other", {KNN: 0.4}, tags={"mim_ray.dataset_checksum": "other"})
    run_of(uri, "judged", {"eval/top1": 0.7}, tags={"mlflow.parentRunId": one, "mim_ray.protocol": "linear"})
    assert cli.run(["models", "compare", "one", "other", "--json", "--no-track"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert [(row["model"], row[KNN], row["unlike_the_first"]) for row in rows] == [
        ("one", 0.3, ""),
        ("other", 0.4, "data is abc and other"),
    ]
    going_on = {"mlflow.parentRunId": one, "mim_ray.protocol": "linear"}
    run_of(uri, "begun", {"eval/top1": 0.1}, "RUNNING", tags=going_on)
    assert cli.run(["models", "compare", "one", "--metric", "eval/top1", "--json", "--no-track"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["eval/top1"] == 0.7
    assert cli.run(["models", "compare", "one", "--metric", "eval/knn_topp1", "--no-track"]) == 2
    assert "did you mean 'eval/knn_top1'?" in capsys.readouterr().err


def folder_of(tmp_path: Path, method: str = "mae", **words: str) -> Path:
    """A trained model's folder, as a run leaves it."""
    torch.manual_seed(0)
    settings = {"encoder": "micro", **words}
    run = resolved(method, settings)
    model = run.method.build(run.data.crop.size)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    card = ModelCard(method=method, overrides=settings, steps=3, dataset="shapes", metrics={KNN: 0.5}, mim_ray="0")
    save_encoder(model.online.encoder.state_dict(), card, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("method", ["mae", "simmim_r50"])
def test_every_format_gives_the_same_outputs(tmp_path: Path, form: str, method: str) -> None:
    words = {} if method == "mae" else {"encoder": "resnet18", "data.crop.size": "64,64"}
    where = folder_of(tmp_path, method, **words)
    if (form, method) == ("hf", "simmim_r50"):
        with pytest.raises(Mistake, match="format=hf: expected a ViT"):
            pull(str(where), form, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    result = pull(str(where), form, tmp_path / "out")
    assert result["files"] == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert f"trained by `{method}`" in (tmp_path / "out" / "README.md").read_text()
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(Mistake, match="exists: name a new folder"):
        pull(str(where), form, tmp_path / "out")


def test_a_model_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    where = folder_of(tmp_path)
    weights = load_file(where / models.WEIGHTS)
    weights["blocks.0.attn.qkv.weight"] *= 2
    save_file(weights, where / models.WEIGHTS)
    with pytest.raises(Failure, match="is not as it was written: its checksum"):
        pull(str(where), "safetensors", tmp_path / "out")
    card = json.loads((where / models.CARD).read_text())
    card["weights_sha256"] = models.checksum_of(where / models.WEIGHTS)
    (where / models.CARD).write_text(json.dumps(card))
    with pytest.raises(Failure, match="makes other features than when it was stored"):
        pull(str(where), "safetensors", tmp_path / "out")
    (where / models.EXAMPLE).unlink()
    with pytest.raises(Failure, match=r"example.safetensors is missing: nothing proves"):
        pull(str(where), "safetensors", tmp_path / "out")
    (where / models.CARD).write_text(json.dumps(card | {"weights_sha256": None}))
    with pytest.raises(Failure, match="is not as it was written: its checksum"):
        pull(str(where), "safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    where = folder_of(tmp_path)
    torch.save({}, where / "model.pt")
    for _ in range(2):
        with pytest.raises(Mistake, match=r"holds model.pt, which may run anything"):
            pull(str(where), "safetensors", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (where / models.WEIGHTS).unlink(missing_ok=True)


def test_a_registered_model_is_pulled_where_nothing_was_trained(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    words = {"name": "first", "encoder": "micro", "batch": 24, "steps": 2, "workers": 0, "data.backend": "torch"}
    done = mim_ray.train("mae", {**words, "data.train": "sample:shapes:n=48", "tracking.model": "mim-pulled"})
    shutil.rmtree(tmp_path / "runs")
    assert cli.run(["models", "pull", "mim-pulled/1", "--to", "pulled", "--format", "timm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["README.md", "model.safetensors"]
    assert cli.run(["models", "show", "mim-pulled/1"]) == 0
    shown = capsys.readouterr().out
    assert done["run_id"] in shown
    assert "| data | `sample:shapes:n=48`, checksum " in shown
    (stored,) = server.folder.glob(f"served/*/{done['run_id']}/artifacts/encoder")
    for name, change in (("encoder.json", b" "), ("model.pkl", b"anything"), ("more.txt", b"anything")):
        path = stored / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes((before or b"") + change)
        assert cli.run(["models", "pull", "mim-pulled/1", "--to", "changed"]) in (1, 2)
        assert "not as they were logged" in (said := capsys.readouterr().err) or "may run anything" in said
        with pytest.raises((Failure, Mistake), match=r"not as they were logged|may run anything"):
            mim_ray.load("mim-pulled/1")
        path.unlink() if before is None else path.write_bytes(before)
    assert mim_ray.load("mim-pulled/1", size=(64, 64))(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[0] == 1
    server.kill()
    assert cli.run(["models", "pull", "mim-pulled/1", "--to", "again"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert not Path("again").exists()
