"""Every YAML file that is shipped parses, has fields that Ray or KubeRay knows, and no secret."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.commands import ROOT

CLUSTERS = ["cluster.yaml", "deploy/aws.yaml"]
WORKFLOWS = [str(p.relative_to(ROOT)) for p in (ROOT / ".github").rglob("*.yml")]
SHIPPED = [*CLUSTERS, "deploy/kuberay.yaml", *WORKFLOWS]

# As `ray up` does before it touches a host or a cloud.
CHECK = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
prepared = {name: prepare_config(yaml.safe_load(open(name))) for name in sys.argv[1:]}
for config in prepared.values():
    validate_config(config)
print(json.dumps(prepared))
"""

# The fields of a RayCluster (ray.io/v1, KubeRay 1.6) that a manifest may set.
RAY_CLUSTER = {
    "spec": {
        "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions",
        "headGroupSpec headServiceAnnotations managedBy rayVersion suspend upgradeStrategy",
        "workerGroupSpecs",
    },
    "autoscaler": {
        "env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext",
        "upscalingMode version volumeMounts",
    },
    "head": {
        "enableIngress headService labels rayStartParams resources serviceType template",
    },
    "workers": {
        "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts rayStartParams",
        "replicas resources scaleStrategy suspend template",
    },
}
FIELDS = {part: {f for line in lines for f in line.split()} for part, lines in RAY_CLUSTER.items()}


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("name", SHIPPED)
def test_it_parses_and_carries_no_secret(name: str) -> None:
    assert isinstance(load(name), dict)
    assert not re.search(r"[0-9a-f]{32,}|AKIA|BEGIN .*PRIVATE", (ROOT / name).read_text())


@pytest.fixture(scope="module")
def prepared_all() -> dict[str, dict[str, Any]]:
    """Return what Ray makes of each cluster file, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHECK, *CLUSTERS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(params=CLUSTERS)
def prepared(
    request: pytest.FixtureRequest, prepared_all: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    return prepared_all[request.param]


def test_ray_accepts_the_cluster(prepared: dict[str, Any]) -> None:
    types = prepared["available_node_types"]
    workers = [t for name, t in types.items() if name != prepared["head_node_type"]] or [
        *types.values()
    ]
    assert sum(t["min_workers"] for t in workers) >= 1, "a run uses the nodes that are there"
    assert all(t["min_workers"] <= t["max_workers"] for t in workers)


def test_what_goes_to_the_nodes(prepared: dict[str, Any]) -> None:
    mounts = prepared["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    for remote, local in mounts.items():
        assert remote == f"~/harness-node/{local.removeprefix('./')}"
        assert (ROOT / local).exists()
    # What an installation in place reads is there; results, .git and virtual environments are not.
    wanted = {"harness", "backends", "deploy", "pyproject.toml", "constraints.txt"}
    assert {Path(local).name for local in mounts.values()} == wanted | {"README.md", "LICENSE"}


def test_the_dashboard_is_not_for_the_world(prepared: dict[str, Any]) -> None:
    start = " ".join(prepared["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "--num-cpus=0" in start
    every = [*prepared["head_start_ray_commands"], *prepared["worker_start_ray_commands"]]
    assert all(". ~/harness-node/deploy/env.sh" in c for c in every if "ray " in c)


def test_nodes_on_hosts_and_in_pods_have_the_same_environment() -> None:
    exports = re.findall(r"^export (RAY_\w+)=(\S+)", (ROOT / "deploy/env.sh").read_text(), re.M)
    # Only on hosts: unlike Pythons, and `ray down`.
    hosts = {"RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "RAY_gcs_rpc_server_reconnect_timeout_s"}
    pods = load("deploy/kuberay.yaml")["spec"]["autoscalerOptions"]["env"]
    assert {e["name"]: e["value"] for e in pods if "value" in e} == {
        name: value for name, value in exports if name not in hosts
    }


def test_kuberay_knows_every_field() -> None:
    manifest = load("deploy/kuberay.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    spec = manifest["spec"]
    assert spec.keys() <= FIELDS["spec"]
    assert spec["autoscalerOptions"].keys() <= FIELDS["autoscaler"]
    assert spec["headGroupSpec"].keys() <= FIELDS["head"]
    for group in spec["workerGroupSpecs"]:
        assert group.keys() <= FIELDS["workers"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    locked = (ROOT / "constraints.txt").read_text()
    assert f"\nray=={spec['rayVersion']}\n" in locked
    # Strings, as Kubernetes takes them to be.
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert all(isinstance(v, str) for g in groups for v in g["rayStartParams"].values())


def test_every_pod_has_its_cores_for_itself_and_the_token_from_the_secret() -> None:
    spec = load("deploy/kuberay.yaml")["spec"]
    pods = [g["template"]["spec"] for g in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len(containers) == 3
    for container in [*containers, spec["autoscalerOptions"]]:
        assert container["resources"]["requests"] == container["resources"]["limits"]
        token = next(e for e in container["env"] if e["name"] == "RAY_AUTH_TOKEN")
        assert token["valueFrom"] == {
            "secretKeyRef": {"name": "harness-token", "key": "auth_token"}
        }
        assert "value" not in token
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    ports = [p["containerPort"] for p in containers[0]["ports"]]
    assert sorted(set(ports)) == sorted(ports)
    gpus = [c["resources"]["limits"].get("nvidia.com/gpu", 0) for c in containers]
    assert gpus == [0, 0, 1]


@pytest.mark.parametrize("name", ["deploy/env.sh", "deploy/setup_node.sh"])
def test_bash_can_read_the_scripts(name: str) -> None:
    subprocess.run(["bash", "-n", ROOT / name], check=True)
