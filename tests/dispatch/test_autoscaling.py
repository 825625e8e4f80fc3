"""Waiting work makes Ray's autoscaler start nodes: both autoscalers, with nodes that are real.

The head and its nodes run in namespaces of their own, so that their ports and processes are
nobody else's, and nothing is left when the run has ended.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness import Run
from tests.helpers.commands import ROOT, TINY_RUN, command, overriding

_HEAD = "f" * 51 + "00000"
"""The id of the head that Ray's own fake provider of nodes believes in."""
_STORE_BYTES = 80 * 2**20
_EMPTY = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands"),
    *("setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
_NAMESPACES = ("unshare", "--pid", "--net", "--mount-proc", "--fork", "--kill-child")
_START = """
set -e
ip link set lo up
{ray} start --head --node-ip-address=127.0.0.1 --port=6379 --num-cpus=0 --include-dashboard=false \
    --object-store-memory={store} --temp-dir={temp} --autoscaling-config={config} >&2
"$@"
"""


def _namespaces() -> str:
    """Return why there can be none, or nothing."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "needs `unshare` and `ip`"
    possible = subprocess.run([*_NAMESPACES, "true"], capture_output=True).returncode == 0
    return "" if possible else "needs the right to make namespaces (root)"


def autoscaler(cpus: int, at_most: int) -> dict[str, object]:
    """Return the configuration of a cluster that starts its nodes on this machine."""
    worker = {"CPU": cpus, "object_store_memory": _STORE_BYTES}
    return {
        "cluster_name": "fake",
        "max_workers": at_most,
        "provider": {
            # By its class, because the package of Ray lacks the file that its short name reads.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": "127.0.0.1:6379",
            "head_node_id": _HEAD,
            "launch_multiple": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": worker,
                "node_config": {},
                "min_workers": 0,
                "max_workers": at_most,
            },
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        # `ray up` would have filled these in.
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in _EMPTY},
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("packed", [False, True], ids=["exclusive", "packed"])
@pytest.mark.parametrize("version", [1, 2])
def test_waiting_work_starts_nodes(tmp_path: Path, version: int, packed: bool) -> None:
    if missing := _namespaces():
        pytest.skip(missing)
    config = tmp_path / "autoscaling.json"
    config.write_text(json.dumps(autoscaler(cpus=1, at_most=2)))
    # Sockets are in it, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray-") as temp:
        script = _START.format(
            ray=Path(sys.executable).parent / "ray", store=_STORE_BYTES, temp=temp, config=config
        )
        long = ("--set", "epochs=300", "--set", "curve_points=50", "--seeds", 4)
        where = ("--address", "127.0.0.1:6379", "--results", tmp_path / "results")
        slow = ("--run-id", "x", "--backends", "tests.helpers.faulty:Slow", *long)
        run = command(*overriding(*TINY_RUN, *where, *slow), *["--packed"] * packed)
        done = subprocess.run(
            [
                *_NAMESPACES,
                "sh",
                "-c",
                script,
                "sh",
                *overriding(*run, *long),
                *["--packed"] * packed,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=280,
            env=os.environ
            | {
                "RAY_FAKE_CLUSTER": "1",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_enable_autoscaler_v2": str(version - 1),
                "RAY_CLOUD_INSTANCE_ID": _HEAD,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
                "RAY_AUTH_MODE": "disabled",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
        )
    assert done.returncode == 0, done.stderr
    trials = Run("x", tmp_path / "results").trials
    assert (trials["status"] == "ok").all()
    assert len(trials) == 4
    assert trials["node"].nunique() == 2, done.stderr
