"""The commands that need a cluster that is not this process's own: `submit` and `cluster fake`."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mim_ray.errors import Failure, Mistake, nearest
from mim_ray.options import Json, OfEval, apart, sentence
from mim_ray.output import print_json

ENDS = (signal.SIGINT, signal.SIGTERM)


def add_cluster_commands(app: typer.Typer) -> None:
    app.command("submit")(submit_command)
    cluster = typer.Typer(no_args_is_help=True, help="A cluster to try things on.")
    cluster.callback()(lambda: None)  # so that one command alone keeps its name
    cluster.command("fake")(fake_command)
    app.add_typer(cluster, name="cluster")


def submit_command(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(help="-- train METHOD path=value …, or another command.")],
    address: Annotated[
        str | None,
        typer.Option(
            help="The dashboard of the cluster's head; else RAY_API_SERVER_ADDRESS, else a local tunnel."
        ),
    ] = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="A folder to send along; else what is installed on the cluster runs.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Show the job's output and end with its result.")] = True,
    as_json: Json = False,
) -> int:
    """One of these commands on a Ray cluster, as a job on its head."""
    from mim_ray.submit import submit

    check(words, context)
    job = submit(words, address, working_dir, wait, log=sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json(job._asdict())
    elif not wait:
        print(job.job)
    if wait and job.status != "SUCCEEDED":
        raise Failure(f"job {job.job} {job.status.lower()}: {job.message}")
    return 0


def check(words: list[str], context: typer.Context) -> None:
    """Reads the words as the command itself will, here, where a mistake costs nothing."""
    command, parent, rest = context.find_root().command, context.find_root(), list(words)
    while commands := getattr(command, "commands", None):
        if not rest or rest[0] not in commands:
            word = rest[0] if rest else ""
            raise Mistake(f"no command {word!r}{nearest(word, commands)}")
        name, *rest = rest
        command = commands[name]
        if not hasattr(command, "commands"):
            parent = command.make_context(name, rest, parent=parent)
    if words[0] in ("submit", "cluster"):
        raise Mistake(f"{words[0]!r} is a command for this side of the cluster")
    if "method" in parent.params:
        from mim_ray.methods import resolved
        from mim_ray.resume import refuse_secrets

        method, overrides = sentence(parent.params["method"], parent.params.get("overrides"))
        refuse_secrets(overrides)
        if method is not None:
            resolved(method, overrides)
    if "protocol" in parent.params:
        from mim_ray.judge import check_words

        _, given = apart(OfEval(), parent.params["overrides"])
        check_words(parent.params["protocol"], given)


def fake_command(
    workers: Annotated[int, typer.Option(min=1, help="How many worker nodes may come.")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of a worker node; they are only said to be there.")] = 1,
    idle_seconds: Annotated[int, typer.Option(min=1, help="How long a node stays without work.")] = 60,
    as_json: Json = False,
) -> None:
    """An autoscaling Ray cluster on this machine, until Ctrl-C."""
    from mim_ray.fake_cluster import fake_cluster

    print("starting a head node …", file=sys.stderr)
    with _ended_cleanly() as ending, fake_cluster(workers, cpus, idle_seconds) as cluster:
        if as_json:
            print_json({"address": cluster.address, "dashboard": cluster.dashboard, "token": cluster.token})
        else:
            for name, value in cluster.environment.items():
                print(f"export {name}={value}")
            print("# then, in that shell: mim-ray submit -- list --json")
        sys.stdout.flush()
        print(f"0 to {workers} worker nodes of {cpus} CPU; Ctrl-C ends all of it", file=sys.stderr)
        try:
            cluster.head.wait()
        finally:
            ending()
        raise Failure(f"the head of the fake cluster ended: {cluster.last_words()}")


@contextmanager
def _ended_cleanly() -> Iterator[Callable[[], None]]:
    """SIGTERM counts as Ctrl-C; from the call on neither counts, for what would be left is a cluster."""
    before = {number: signal.getsignal(number) for number in ENDS}

    def ending() -> None:
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
