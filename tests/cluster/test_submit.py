"""What `mim-ray submit` and `mim-ray cluster fake` refuse before anything starts, and what they print."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from mim_ray import cli, cluster_cli, fake_cluster, submit
from mim_ray.errors import Mistake
from mim_ray.revision import SAID

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_cluster_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ADDRESS", "API_SERVER_ADDRESS", "AUTH_MODE", "AUTH_TOKEN", "AUTH_TOKEN_PATH"):
        monkeypatch.delenv(f"RAY_{name}", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: str) -> tuple[int, str, str]:
        code = cli.run(words)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(*_: object) -> None:
        raise AssertionError("sent")

    monkeypatch.setattr(submit, "_client", sent)


@pytest.mark.usefixtures("nothing_is_sent")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shwo", "mae"], "no command 'shwo': did you mean 'show'?"),
        (["show", "mea"], "no method 'mea': did you mean 'mae'?"),
        (["show", "mae", "sed=1"], "no field 'sed': did you mean 'seed'?"),
        (["show", "mae", "--jsno"], "No such option: --jsno"),
        (["eval", "linaer", "first"], "no protocol 'linaer': did you mean 'linear'?"),
        (["eval", "linear", "first", "optim.brl=1"], "no field 'optim.brl': did you mean 'optim.blr'?"),
        (["eval", "linear", "first", "seeds=0"], "seeds=0: expected an integer greater than 0"),
        (["eval", "linear", "first", "seeds=²", "weights=x.pth"], "seeds=²: expected an integer"),
        (["eval", "linear", "first", "seeds=2", "seeds=3"], "'seeds' is given twice: '2' and '3'"),
        (["eval", "knn", "first", "data.val=s3://me:secret@here/x.beton"], "expected no password"),
        (["data"], "no command ''"),
        (["data", "imprt"], "no command 'imprt': did you mean 'import'?"),
        (["data", "info"], "Missing argument 'beton'"),
        (["submit", "list"], "'submit' is a command for this side"),
        (["cluster", "fake"], "'cluster' is a command for this side"),
    ],
)
def test_words_are_read_before_they_are_sent(say: Say, words: list[str], said: str) -> None:
    code, out, err = say("submit", "--", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("nothing_is_sent")
def test_a_training_is_resolved_before_it_is_sent() -> None:
    """With a `train` of the promised form, whoever brings it."""
    app = typer.Typer()
    cluster_cli.add_cluster_commands(app)

    @app.command()
    def train(method: str, overrides: list[str], resume: str | None = None) -> None:
        raise AssertionError(f"trained here: {method} {overrides} {resume}")

    for words, said in ((["mea"], "no method 'mea'"), (["mae", "sed=1", "--resume", "x"], "no field 'sed'")):
        with pytest.raises(Mistake, match=said):
            app(["submit", "--", "train", *words, "seed=1"], standalone_mode=False)
    with pytest.raises(AssertionError, match="sent"):
        app(["submit", "--", "train", "mae", "seed=1"], standalone_mode=False)


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://head:10001", "auto", "http://"])
def test_an_address_that_is_no_url_is_a_mistake(say: Say, address: str) -> None:
    code, _, err = say("submit", "--address", address, "--", "list")
    assert code == 2
    assert "the URL of the head's dashboard is expected" in err


def test_where_nobody_answers_is_told_at_once(say: Say) -> None:
    code, _, err = say("submit", "--address", "http://127.0.0.1:9", "--", "list")
    assert code == 1
    assert err.startswith("mim-ray: no Ray dashboard answers at http://127.0.0.1:9 (")
    assert err.count("\n") == 1


def test_a_file_without_a_token_is_a_mistake(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    for text in (None, " \n"):
        if text:
            (tmp_path / "token").write_text(text)
        code, _, err = say("submit", "--", "list")
        assert code == 2
        assert "no file with a token" in err


def test_a_folder_that_is_not_there_is_a_mistake(say: Say) -> None:
    code, _, err = say("submit", "--working-dir", "nowhere", "--", "list")
    assert (code, "nowhere: no such folder" in err) == (2, True)


def test_no_password_travels_with_a_job(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in "https://me:secret@tracking.invalid", "https://secret@tracking.invalid":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        code, _, err = say("submit", "--", "list")
        assert code == 2
        assert "MLFLOW_TRACKING_PASSWORD" in err
        assert "secret" not in err


@pytest.mark.parametrize("sentence", [("mae",), ("--resume", "first")])
def test_no_password_travels_in_the_words(say: Say, sentence: tuple[str, ...]) -> None:
    code, _, err = say("submit", "--", "train", *sentence, "data.train=s3://key:secret@bucket/train.beton")
    assert code == 2
    assert "data.train: expected no password" in err
    assert "secret" not in err


def test_a_tracking_file_is_that_of_the_head() -> None:
    with pytest.warns(UserWarning, match="on the head node"):
        assert submit._forwarded({"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"})


def test_the_commit_of_a_package_that_is_sent_goes_with_it(tmp_path: Path) -> None:
    assert submit._commit(None) == submit._commit(tmp_path) == {}
    (tmp_path / "mim_ray").mkdir()
    (tmp_path / "mim_ray" / "__init__.py").touch()
    assert submit._commit(tmp_path) == {SAID: ""}
    for words in ("init --quiet", "add .", "-c user.name=x -c user.email=x@example.org commit --quiet -m x"):
        subprocess.run(["git", "-C", tmp_path, *words.split()], check=True)
    head = subprocess.check_output(["git", "-C", tmp_path, "rev-parse", "HEAD"], text=True).strip()
    assert submit._commit(tmp_path) == {SAID: head}


def test_a_missing_token_is_not_told_as_a_wrong_one() -> None:
    assert "wants a token" in submit._refusal(
        "Authentication required: Unauthorized: Missing authentication token"
    )
    assert "refused" in submit._refusal("Authentication failed: Forbidden: Invalid authentication token")


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, submit.TUNNEL),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, submit.TUNNEL),
        ({"RAY_ADDRESS": "http://a:1"}, "http://a:1"),
        ({"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:2/"}, "http://b:2"),
    ],
)
def test_the_dashboard_is_found_where_ray_finds_it(environment: dict[str, str], url: str) -> None:
    assert submit._dashboard(None, environment) == url
    assert submit._dashboard("https://c", environment) == "https://c"


@pytest.mark.parametrize("settings", [{"workers": 0}, {"workers": 1.5}, {"cpus": True}, {"idle_seconds": "60"}])
def test_a_fake_cluster_takes_whole_numbers(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(Mistake, match=f"^{name}=.*whole number"), fake_cluster.fake_cluster(**settings):
        pass


@pytest.mark.parametrize("words", [["--workers", "1.5"], ["--cpus", "0"], ["--idle-seconds", "-1"]])
def test_the_command_takes_whole_numbers(say: Say, words: list[str]) -> None:
    code, _, err = say("cluster", "fake", *words)
    assert code == 2
    assert words[0] in err


class Head(NamedTuple):
    ends: BaseException | None

    def wait(self) -> None:
        if self.ends:
            raise self.ends


@pytest.mark.parametrize(("ends", "code"), [(KeyboardInterrupt(), 130), (None, 1)])
def test_the_command_prints_what_a_shell_needs(
    say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: BaseException | None, code: int
) -> None:
    (tmp_path / "head.log").write_text("its last words")
    ended = []

    @contextmanager
    def one(*settings: int) -> Iterator[fake_cluster.FakeCluster]:
        assert settings == (3, 1, 60)
        head: Any = Head(ends)
        try:
            yield fake_cluster.FakeCluster("10.0.0.1:6379", "http://127.0.0.1:8265", "t", tmp_path, "m", head)
        finally:
            ended.append(True)

    monkeypatch.setattr(fake_cluster, "fake_cluster", one)
    handlers = [signal.getsignal(number) for number in cluster_cli.ENDS]
    said, out, err = say("cluster", "fake", "--workers", "3")
    assert [signal.getsignal(number) for number in cluster_cli.ENDS] == handlers
    assert (said, ended) == (code, [True])
    assert ("its last words" in err) == (code == 1)
    shell = f"{out}\necho $RAY_AUTH_MODE $RAY_AUTH_TOKEN $RAY_ADDRESS $RAY_API_SERVER_ADDRESS"
    assert subprocess.check_output(["bash", "-c", shell], text=True).split() == [
        "token",
        "t",
        "10.0.0.1:6379",
        "http://127.0.0.1:8265",
    ]
