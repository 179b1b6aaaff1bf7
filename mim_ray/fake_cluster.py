"""A Ray cluster on this machine whose worker nodes come when work waits for them and leave when they are idle.

Ray's autoscaler runs for real; only the machines are pretended: a worker node is one more raylet here, with
resources that nothing checks against the cores. Ray's own `AutoscalingCluster` does not serve: it opens a file
that is not in the wheel, takes fixed ports, and ends with `ray stop --force`, which ends every Ray on the machine.

This process never talks to the cluster, because Ray reads its token once per process: work for the cluster runs in
processes that get `FakeCluster.environment`.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mim_ray import processes
from mim_ray.errors import Failure, Mistake

MARK = "MIM_RAY_FAKE_CLUSTER"
HEAD_NODE = "f" * 51 + "00000"  # the only name that Ray's fake provider knows a head by
NODE_ID = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
OBJECT_STORE_BYTES = 100_000_000  # Ray's own choice is a third of the memory, for every node
LONGEST_FOLDER = 40  # a socket's path ends at 107 bytes, and Ray adds some 65 to the folder
SECONDS_TO_START = 120
SECONDS_TO_END = {signal.SIGTERM: 4, signal.SIGKILL: 20}


@dataclass(frozen=True)
class FakeCluster:
    """A running one."""

    address: str
    dashboard: str
    token: str
    folder: Path
    mark: str
    head: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
        }

    def processes(self) -> set[int]:
        """Everything that runs because of it: of the head's session (Ray writes titles over the environment that
        the mark is looked for in) or with its mark (a submitted job is a session of its own)."""
        return {
            process
            for process in processes.others()
            if (session := processes.session(process)) is not None
            and (session == self.head.pid or processes.environment(process).get(MARK) == self.mark)
        }

    def worker_nodes(self) -> dict[str, int]:
        """The process of the raylet by the id of the node; to kill it is to lose the machine."""
        raylets = (process for process in self.processes() if processes.program(process) == "raylet")
        nodes = {processes.environment(raylet).get(NODE_ID, HEAD_NODE): raylet for raylet in raylets}
        nodes.pop(HEAD_NODE, None)
        return nodes

    def last_words(self) -> str:
        return "\n".join((self.folder / "head.log").read_text(errors="replace").splitlines()[-20:])

    def end(self) -> None:
        for number, seconds in SECONDS_TO_END.items():
            told: set[int] = set()
            deadline = time.monotonic() + seconds
            while (left := self.processes()) and time.monotonic() < deadline:
                for process in left - told:
                    processes.send(process, number)
                told |= left
                time.sleep(0.1)
                self.head.poll()  # a dead child stays in the list until it is asked after
        if left:
            raise Failure(f"these processes of the fake cluster do not end: {sorted(left)}")
        self.head.wait()


@contextmanager
def fake_cluster(workers: int = 2, cpus: int = 1, idle_seconds: int = 60) -> Iterator[FakeCluster]:
    """A head that takes no work, and up to `workers` nodes of `cpus` CPUs; all of it ends with the block."""
    for name, number in (("workers", workers), ("cpus", cpus), ("idle_seconds", idle_seconds)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise Mistake(f"{name}={number!r}: a whole number of at least 1 is expected")
    if not processes.is_readable():
        raise Mistake("a fake cluster finds what it started in /proc: it needs Linux")
    folder = Path(tempfile.mkdtemp(prefix="mr-"))
    try:
        if len(str(folder)) > LONGEST_FOLDER:
            raise Mistake(f"{folder}: too long for the names of sockets; set TMPDIR to a shorter folder")
        cluster = _start(folder, _node_types(workers, cpus), idle_seconds)
        try:
            _wait_for(cluster)
            yield cluster
        finally:
            cluster.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _node_types(workers: int, cpus: int) -> dict[str, Any]:
    return {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": cpus, "object_store_memory": OBJECT_STORE_BYTES},
            "node_config": {},
            "min_workers": 0,
            "max_workers": workers,
        },
    }


def autoscaling_config(address: str, node_types: dict[str, Any], idle_seconds: int) -> dict[str, Any]:
    """What `ray up` would have read from a file. The provider's class is named here, because the type
    `fake_multinode` fills in its defaults from a file that the wheel lacks."""
    return {
        "cluster_name": "mim-ray-fake",
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
            "launch_multiple": True,
            "head_node_id": HEAD_NODE,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": node_types,
        "max_workers": sum(kind["max_workers"] for kind in node_types.values()),
        "idle_timeout_minutes": idle_seconds / 60,
        "upscaling_speed": 1.0,
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{
            name: []
            for name in (
                "initialization_commands",
                "setup_commands",
                "head_setup_commands",
                "worker_setup_commands",
                "head_start_ray_commands",
                "worker_start_ray_commands",
                "cluster_synced_files",
                "rsync_exclude",
                "rsync_filter",
            )
        },
        "file_mounts_sync_continuously": False,
    }


def _start(folder: Path, node_types: dict[str, Any], idle_seconds: int) -> FakeCluster:
    from ray.util import get_node_ip_address

    port, dashboard_port, client_port = _free_ports(3)
    address, token, mark = f"{get_node_ip_address()}:{port}", secrets.token_hex(32), secrets.token_hex(8)
    config = folder / "cluster.json"
    config.write_text(json.dumps(autoscaling_config(address, node_types, idle_seconds)))
    options = {
        "port": port,
        "autoscaling-config": config,
        "temp-dir": folder,
        "num-cpus": 0,
        "num-gpus": 0,
        "object-store-memory": OBJECT_STORE_BYTES,
        "include-dashboard": "true",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": client_port,
        "min-worker-port": 0,  # else Ray takes a fixed range, and refuses one of the free ports above in it
        "max-worker-port": 0,
    }
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [*ray, *(f"--{name}={value}" for name, value in options.items())],
            env=_environment_of_head(token, mark),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return FakeCluster(address, f"http://127.0.0.1:{dashboard_port}", token, folder, mark, head)


def _environment_of_head(token: str, mark: str) -> dict[str, str]:
    """The token is settled, because `ray start` takes one up from the user's home by itself and drivers do not."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        MARK: mark,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nothing here outlives the block
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_NODE,
        NODE_ID: HEAD_NODE,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }


def _wait_for(cluster: FakeCluster) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while "Ray runtime started" not in (cluster.folder / "head.log").read_text(errors="replace"):
        if cluster.head.poll() is not None:
            raise Failure(f"the head of the fake cluster did not start:\n{cluster.last_words()}")
        if time.monotonic() > deadline:
            raise Failure(f"the head did not start in {SECONDS_TO_START} s:\n{cluster.last_words()}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Held together, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
