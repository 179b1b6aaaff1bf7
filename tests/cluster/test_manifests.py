"""The files of cluster/: what Ray and KubeRay would find wrong with them, and what we promise of them."""

import copy
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from mim_ray.cli import app
from mim_ray.revision import SAID
from tests.cluster.structural import ROOT, faults, schema_of

CLUSTER = ROOT / "cluster"
KINDS = {"raycluster": "ray.io_rayclusters", "rayjob": "ray.io_rayjobs"}


def load(path: str) -> Any:
    return yaml.safe_load((CLUSTER / path).read_text())


@pytest.fixture
def aws() -> Any:
    return load("ray-up/aws.yaml")


def test_ray_accepts_the_file_of_ray_up(aws: Any) -> None:
    validate_config(prepare_config(copy.deepcopy(aws)))


def test_ray_refuses_a_field_that_is_not_one(aws: Any) -> None:
    with pytest.raises(Exception, match="idle_minutes"):
        validate_config(prepare_config(aws | {"idle_minutes": 5}))


def test_the_head_is_on_demand_and_without_work_and_workers_are_spot_from_none(aws: Any) -> None:
    head, worker = (aws["available_node_types"][name] for name in ("head", "gpu_spot"))
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (worker["min_workers"], worker["max_workers"]) == (0, aws["max_workers"])


def test_every_shell_line_of_the_file_is_one(aws: Any) -> None:
    lines = [line for name, value in aws.items() if name.endswith("_commands") for line in value]
    assert any("--dashboard-host=127.0.0.1" in line for line in lines)
    for line in [*lines, *(script.read_text() for script in CLUSTER.rglob("*.sh"))]:
        subprocess.run(["bash", "-n", "-c", line], check=True)
    for name in re.findall(r"~/mim_ray/(cluster/\S+)", "\n".join(lines)):
        assert (ROOT / name.strip("'")).is_file(), name


def test_nodes_ask_for_a_token(tmp_path: Path) -> None:
    script = f". {CLUSTER / 'ray-up' / 'node-environment.sh'}; echo $RAY_AUTH_MODE"
    assert (
        subprocess.check_output(["bash", "-c", script], env={"HOME": str(tmp_path)}, text=True).strip() == "token"
    )


@pytest.mark.parametrize("name", KINDS)
def test_the_api_server_would_accept(name: str) -> None:
    assert faults(load(f"kuberay/{name}.yaml"), schema_of(KINDS[name])) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda spec: spec.update(enableAutoscaling=True), "$.spec.enableAutoscaling: no such field"),
        (lambda spec: spec["authOptions"].update(mode="tokens"), "'tokens' is not one of"),
        (lambda spec: spec["workerGroupSpecs"][0].pop("groupName"), "'groupName' is a required property"),
        (
            lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(envs=[]),
            "containers[0].envs: no such field",
        ),
    ],
)
def test_the_api_server_would_refuse(spoil: Callable[[Any], None], said: str) -> None:
    cluster = load("kuberay/raycluster.yaml")
    spoil(cluster["spec"])
    (fault,) = faults(cluster, schema_of(KINDS["raycluster"]))
    assert said in fault


def test_the_job_brings_the_cluster_of_the_other_file() -> None:
    assert load("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"] == load("kuberay/raycluster.yaml")["spec"]


def test_pods_have_limits_and_no_privileges_and_workers_a_gpu_and_time_to_drain() -> None:
    spec = load("kuberay/raycluster.yaml")["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "mim-ray-token"}
    head, (group,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert group["minReplicas"] == group["replicas"] == 0
    for pod in (head["template"]["spec"], group["template"]["spec"]):
        (container,) = pod["containers"]
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    pod = group["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    drain = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    assert int(drain["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]


def test_objects_fit_the_shared_memory_and_runs_have_a_server() -> None:
    """Ray leaves /dev/shm for a disk where its store is larger; a file of MLflow's would go with its pod."""
    spec = load("kuberay/raycluster.yaml")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (memory,) = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
        assert (
            int(group["rayStartParams"]["object-store-memory"]) < int(memory["sizeLimit"].removesuffix("Gi")) << 30
        )
        (server,) = [one for one in pod["containers"][0]["env"] if one["name"] == "MLFLOW_TRACKING_URI"]
        assert server["valueFrom"] == {"configMapKeyRef": {"name": "mim-ray", "key": "MLFLOW_TRACKING_URI"}}


def test_code_on_a_cluster_knows_its_commit(aws: Any) -> None:
    """By the repository, which goes along, or by what an image was told."""
    assert [one for one in aws["rsync_exclude"] if ".git" in one] == [".git/config"]  # git does without
    built, said = (CLUSTER / "Dockerfile").read_text(), f"{SAID}=${SAID}"
    assert f"ARG {SAID}\n" in built
    assert said in next(line for line in built.splitlines() if line.startswith("ENV "))
    assert f"--build-arg {SAID}=" in built
    assert f"--build-arg {SAID}=" in (CLUSTER / "README.md").read_text()


def test_the_claim_is_the_one_that_pods_mount_and_many_may_write_it() -> None:
    claim = load("kuberay/storage.yaml")
    volumes = load("kuberay/raycluster.yaml")["spec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert volumes[0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_manifests_name_the_ray_that_is_locked() -> None:
    locked = re.findall(r"^ray==(\S+)|^ray\[.*\]==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert load("kuberay/raycluster.yaml")["spec"]["rayVersion"] in locked[0]


def test_the_entry_point_of_the_job_is_a_command_of_ours() -> None:
    python, module, name, command, *words = shlex.split(load("kuberay/rayjob.yaml")["spec"]["entrypoint"])
    assert (python, module, name, command) == ("python", "-m", "mim_ray", "train")
    assert all("=" in word for word in words[1:])
    assert any(one.callback is not None and one.callback.__name__ == command for one in app.registered_commands)


def test_what_has_to_be_set_says_so_and_nothing_else_does() -> None:
    places = {
        str(path.relative_to(CLUSTER))
        for path in CLUSTER.rglob("*")
        if path.is_file() and path.suffix != ".md" and "SET-ME" in path.read_text()
    }
    assert places == {
        "Dockerfile",
        "kuberay/raycluster.yaml",
        "kuberay/rayjob.yaml",
        "kuberay/storage.yaml",
        "ray-up/aws.yaml",
        "ray-up/node-environment.sh",
    }


def test_who_submits_has_the_token_of_the_secret(tmp_path: Path) -> None:
    """By the lines of the README, against a kubectl that has what they made."""
    readme = (CLUSTER / "README.md").read_text()
    (made,) = re.findall(r"kubectl create secret generic (\S+) --from-literal=(\w+)=", readme)
    (export,) = re.findall(r"^export RAY_AUTH_TOKEN=.*$", readme, re.MULTILINE)
    kubectl = tmp_path / "kubectl"
    wanted = f"get secret {made[0]} --output jsonpath={{.data.{made[1]}}}"
    kubectl.write_text(f'#!/bin/sh\n[ "$*" = "{wanted}" ] && printf its-own | base64\n')
    kubectl.chmod(0o755)
    shell = f'{export}; printf %s "$RAY_AUTH_TOKEN"'
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert subprocess.check_output(["bash", "-c", shell], text=True, env=environment) == "its-own"
    assert "RAY_AUTH_TOKEN_PATH=" not in readme
    assert load("kuberay/raycluster.yaml")["spec"]["authOptions"]["secretName"] == made[0]


def test_links_of_the_readme_lead_somewhere_and_there_is_no_python() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (CLUSTER / "README.md").read_text()):
        assert "://" in target or (CLUSTER / target).exists(), target
    assert not list(CLUSTER.rglob("*.py"))


def test_a_spot_notice_becomes_a_drain(tmp_path: Path) -> None:
    """Against a metadata service that gives notice at the second look; `ray` only says what it was asked."""
    looks = []

    class Metadata(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(200, b"a-token")

        def do_GET(self) -> None:
            looks.append((self.path, self.headers["X-aws-ec2-metadata-token"]))
            self.answer(404 if len(looks) == 1 else 200, b'{"action": "terminate"}')

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: object) -> None:
            pass

    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "ray $*"\n')
    ray.chmod(0o755)
    with HTTPServer(("127.0.0.1", 0), Metadata) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        environment = {
            "METADATA": f"http://127.0.0.1:{service.server_port}",
            "SECONDS_BETWEEN_LOOKS": "0.1",
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        }
        said = subprocess.check_output(
            [CLUSTER / "ray-up" / "spot-notice.sh"], env=environment, text=True, timeout=30
        )
        service.shutdown()
    assert looks == [("/latest/meta-data/spot/instance-action", "a-token")] * 2
    assert "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION" in said
