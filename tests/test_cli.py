"""The command line: its JSON, its exit codes, and one clear line for every mistake."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from mim_ray import cli, output
from mim_ray.config import flatten
from mim_ray.data import importer
from mim_ray.errors import Failure
from mim_ray.methods import METHODS, PROTOCOLS, resolved
from mim_ray.progress import progress


class Said(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What a script reads: all of stdout is one object on one line."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out)


Say = Callable[..., Said]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder without an mlflow.db."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What would go to MLflow, by its command."""
    results: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(output, "keep_result", lambda command, **result: results.update({command: result}))
    return results


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """A command line, run in this process."""

    def run(*words: object) -> Said:
        capsys.readouterr()
        code = cli.run([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four pictures in two classes, and one that is empty."""
    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(2):
            pixels = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    (tmp_path / "photos" / "dog" / "empty.jpg").touch()
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.beton"


# data


def test_data_import_prints_one_object_and_names_what_it_skipped(say: Say, photos: Path, out: Path) -> None:
    said = say("data", "import", photos, out, "workers=1", "--json")
    result = said.json()
    assert list(result) == ["path", "samples", "classes", "skipped", "checksum"]
    assert result | {"checksum": ""} == {
        "path": str(out),
        "samples": 4,
        "classes": 2,
        "skipped": 1,
        "checksum": "",
    }
    assert re.fullmatch("[0-9a-f]{64}", result["checksum"])
    assert said.err.splitlines()[-1] == "skipped dog/empty.jpg: is empty"
    assert "import out.beton: 4/5 images" in said.err


def test_data_import_shows_the_card(say: Say, photos: Path, out: Path) -> None:
    said = say("data", "import", photos, out, "workers=1", "n=3", "max_resolution=none")
    assert said.code == 0
    assert re.search(r"^samples +3 *$", said.out, re.MULTILINE)
    assert re.search(r"^classes +2 \(cat, dog\) *$", said.out, re.MULTILINE)
    assert "n=3" in said.out
    assert "max_resolution=none" in said.out


def test_data_verify_and_info(say: Say, photos: Path, out: Path) -> None:
    say("data", "import", photos, out, "workers=1")
    assert say("data", "verify", out).out == f"{out}: all 4 samples are as they were written\n"
    assert say("data", "verify", out, "--json").json() == {"path": str(out), "samples": 4}
    card = say("data", "info", out, "--json").json()
    assert (card["samples"], card["classes"], card["class_counts"]) == (4, ["cat", "dog"], [2, 2])
    assert card["skipped"] == [["dog/empty.jpg", "is empty"]]
    shown = say("data", "info", out)
    assert re.search(r"^class_counts +2 to 2 images each *$", shown.out, re.MULTILINE)


def test_data_import_strict_fails_with_the_name(say: Say, photos: Path, out: Path) -> None:
    said = say("data", "import", photos, out, "workers=1", "--strict", "--json")
    assert (said.code, said.out) == (1, "")
    assert said.err == "mim-ray: dog/empty.jpg is empty: nothing was written (strict=true)\n"
    assert not out.exists()


def test_names_are_printed_as_they_are(say: Say, photos: Path, out: Path) -> None:
    (photos / "cat").rename(photos / "[red]:cat:")
    say("data", "import", photos, out, "workers=1")
    assert "2 ([red]:cat:, dog)" in say("data", "info", out).out


# list and show


def test_list_has_every_method(say: Say) -> None:
    result = say("list", "--json").json()
    assert list(result) == ["methods", "protocols", "spaces"]
    assert (result["methods"], result["protocols"]) == (list(METHODS), list(PROTOCOLS))
    assert isinstance(result["spaces"], list)
    assert re.search("^mae +Masked autoencoder", say("list").out, re.MULTILINE)


def test_show_tells_how_weights_are_trained(say: Say) -> None:
    groups = say("show", "finetune", "encoder=micro", "--optim", "--json").json()["groups"]
    assert groups[0] == {
        "lr": 0.004, "scale": 1.0, "weight_decay": 0.05, "weights": 1, "numbers": 128000,
        "first": "measure.head.weight", "last": "measure.head.weight",
    }  # fmt: skip
    assert [group["scale"] for group in groups[::2]] == pytest.approx(
        [0.65**layer for layer in range(8)], rel=1e-5
    )
    assert "online.encoder.cls_token" in say("show", "finetune", "encoder=micro", "--optim").out


def test_show_tells_of_a_recipe_that_trains_nothing(say: Say) -> None:
    assert say("show", "knn", "--optim") == (0, "knn trains nothing: steps=0\n", "")
    assert say("show", "knn", "--optim", "--json").json() == {"method": "knn", "groups": []}


CHANGES = ["encoder=micro", "storage=it's a 'folder' with $signs & spaces", "data.train=none", "optim.clip=0.5"]


@pytest.mark.parametrize("method", METHODS)
def test_what_show_prints_can_be_pasted_back(say: Say, method: str) -> None:
    shown = say("show", method, *CHANGES)
    assert shown.code == 0
    words = shlex.split(shown.out.replace(" \\\n", " "))
    assert words[:3] == ["mim-ray", "show", method]
    assert CHANGES[1] in words
    assert say(*words[1:]) == shown
    assert say(*words[1:], "--json").json()["overrides"] == flatten(
        resolved(method, dict(word.split("=", 1) for word in words[3:]))
    )


def test_what_show_prints_is_one_shell_command(say: Say) -> None:
    shown = say("show", "mae", *CHANGES).out
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", shown], env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_the_version(say: Say) -> None:
    assert say("--version") == (0, f"mim-ray {version('mim_ray')}\n", "")


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("lst", "No such command 'lst'. Did you mean 'list'"),
        ("data imprt a b", "No such command 'imprt'. Did you mean 'import'?"),
        ("list --jsn", "No such option: --jsn (Possible options: --json)"),
        ("show", "Missing argument 'method'."),
        ("data import", "Missing argument 'source'."),
        ("show mea", "no method 'mea': did you mean 'mae'?"),
        (
            "show mae method.t1.mask.raito=1",
            "no field 'method.t1.mask.raito': did you mean 'method.t1.mask.ratio'?",
        ),
        ("show mae batch", "'batch' is not of the form path=value"),
        ("show mae batch=1 batch=2", "'batch' is given twice: '1' and '2'"),
        ("show mae batch=zero", "batch=zero: expected an integer"),
        ("show mae encoder=micor", "encoder=micor: no such encoder: did you mean 'micro'?"),
        ("show mae method.encoder.size=micor", "method.encoder.size=micor: expected"),
        ("data import photos out.beton qualty=9", "no field 'qualty': did you mean 'quality'?"),
        ("data import photos out.beton format=jpg", "format=jpg: expected jpeg or raw: did you mean 'jpeg'?"),
        ("data import phtos out.beton", "cannot import from 'phtos': did you mean 'photos'?"),
        ("data import sample:shpes out.beton", "no sample 'shpes': did you mean 'shapes'?"),
        ("data import photos nowhere/out.beton", "nowhere/out.beton: there is no folder nowhere"),
        (
            "data import photos out.beton one_class=dgo",
            "one_class=dgo: no class of that name: did you mean 'dog'?",
        ),
        ("data import photos out.beton n=9", "n=9: the source has 5 images to draw from"),
        ("data verify out.beton", "no file out.beton: make one with mim-ray data import SOURCE out.beton"),
        ("data info out.beton", "no file out.beton"),
        ("bench speed", "no benchmark 'speed': choose from R1, R10, R11, R12, R13, R2,"),
        ("bench sizin", "no benchmark 'sizin': did you mean 'sizing'?"),
        ("bench R1 --pairs 0", "Invalid value for '--pairs'"),
        ("bench R1 --record photos/cat/0.png", "--record photos/cat/0.png: cannot be written (File exists)"),
        ("eval knn first seeds=²", "seeds=²: expected an integer"),
        ("eval knn first seeds=0", "seeds=0: expected an integer greater than 0"),
        ("eval knn first weights=nowhere.pt", "weights=nowhere.pt: only a timm name takes a file: first is none"),
        (
            "eval knn random:micro weights=x.pt",
            "weights=x.pt: only a timm name takes a file: random:micro is none",
        ),
        ("eval knn resnet18 weights=nowhere.pt", "weights: nowhere.pt does not exist: expected a .safetensors or"),
        ("doctor out.beton", "no file out.beton: make one with mim-ray data import SOURCE out.beton"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    say: Say, photos: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(photos.parent)
    said = say(*words.split())
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"mim-ray: {message}")
    assert said.err.count("\n") == 1
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("show mae --batch 64", "No such option: --batch: settings are written batch=value"),
        ("show mae --encoder=micro", "No such option: --encoder: settings are written encoder=value"),
        ("data import a b -n 5", "No such option: -n: settings are written n=value"),
        (
            "data import a b --max-resolution 64",
            "No such option: --max-resolution: settings are written max_resolution=value",
        ),
        ("data import a b --encoder micro", "No such option: --encoder"),
        ("show mae --jsn", "No such option: --jsn (Possible options: --json)"),
        ("--jsn list", "No such option: --jsn"),
        ("list --batch 64", "No such option: --batch"),
    ],
)
def test_an_option_that_is_a_setting_is_told_how_to_be_written(say: Say, words: str, message: str) -> None:
    assert say(*words.split()) == (2, "", f"mim-ray: {message}\n")


@pytest.mark.parametrize("words", [[], ["data"]])
def test_without_a_command_the_help_is_shown(say: Say, words: list[str]) -> None:
    said = say(*words)
    assert said.code == 2
    assert "Usage:" in said.out
    assert said.err == ""
    assert say(*words, "--help").code == 0


def test_failures_are_one_line_and_exit_code_1(
    say: Say, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say("data", "import", photos, out, "workers=1")
    os.truncate(out, out.stat().st_size - 5)
    said = say("data", "verify", out, "--json")
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert said.err.startswith(f"mim-ray: {out} is truncated")
    for error, line in (
        (Failure("first\n  second"), "first second"),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: Permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ):
        monkeypatch.setattr(importer, "import_set", raising(error))
        assert say("data", "import", photos, out) == (1, "", f"mim-ray: {line}\n")


def test_ctrl_c_is_one_line(say: Say, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "import_set", raising(KeyboardInterrupt()))
    assert say("data", "import", photos, out) == (130, "", "mim-ray: stopped\n")


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


# What goes to MLflow


def test_what_data_commands_print_is_kept_where_mlflow_is_in_use(
    say: Say, photos: Path, out: Path, kept: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {
        "data import": {"samples": 4, "classes": 2, "skipped": 1},
        "data verify": {"samples": 4},
        "data info": {"samples": 4, "kept_originals": 0},
    }
    lines = {command: [*command.split(), out] for command in numbers}
    lines["data import"] = ["data", "import", photos, out, "workers=1"]
    for words in lines.values():
        assert say(*words).code == 0
    assert kept == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    for command, words in lines.items():
        name = command.replace(" ", "-")
        result = say(*words, "--json").json()
        assert kept[name]["documents"] == {f"{name}.json": result}
        metrics = kept[name]["metrics"]
        assert numbers[command].items() <= {key.removeprefix(f"{name}/"): metrics[key] for key in metrics}.items()
        assert "4" not in kept[name]["params"].values()
    assert kept["data-verify"]["params"] == {"path": str(out)}
    kept.clear()
    for words in lines.values():
        assert say(*words, "--no-track").code == 0
    assert kept == {}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    Path("mlflow.db").touch()
    say("data", "verify", out)
    assert list(kept) == ["data-verify"]


def test_commands_that_measure_nothing_leave_mlflow_alone() -> None:
    script = "import sys; from mim_ray import cli; print(cli.run(sys.argv[1:]), 'mlflow' in sys.modules)"
    Path("mlflow.db").touch()
    for words in (["list"], ["show", "mae"], ["--help"]):
        said = subprocess.check_output([sys.executable, "-c", script, *words], text=True)
        assert said.splitlines()[-1] == "0 False"


# Progress


def test_on_a_terminal_progress_is_one_live_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress("import x.beton", 10, "images") as advance:
        advance(10)
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(r"import x\.beton .*10/10.* [\d,]+ images/s", said.err)


def test_in_a_log_progress_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress("import x.beton", 3000, "images") as advance:
        for _ in range(3):
            now[0] += 6
            advance(1000)
    assert capsys.readouterr() == (
        "",
        "import x.beton: 2,000/3,000 images, 167/s, 6 s left\n"
        "import x.beton: 3,000/3,000 images, 167/s, 0 s left\n",
    )


# Processes


def test_python_m_and_the_script_are_the_same(photos: Path, out: Path) -> None:
    module, script = [sys.executable, "-m", "mim_ray"], [Path(sys.executable).with_name("mim-ray")]
    words = ["data", "import", str(photos), str(out), "workers=1", "--json"]
    done = subprocess.run([*module, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["samples"] == 4
    assert done.stderr.splitlines()[-1] == "skipped dog/empty.jpg: is empty"
    again = subprocess.run([*script, "data", "verify", out, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["samples"] == 4
