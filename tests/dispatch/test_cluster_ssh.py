"""`ray up cluster.yaml`, the file of this repository, over real SSH: from bare hosts to results.

Every node installs the project for real, from a folder of wheels: there is no way to the internet.
"""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, TINY_RUN
from tests.helpers.hosts import Host, Network, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=f"hosts need {', '.join(missing())}"),
]

CLUSTER = ROOT / "cluster.yaml"
NODES = ["head", "worker1", "worker2"]
DASHBOARD = "http://127.0.0.1:8265"
MAKE_TOKEN = "(umask 077; ray get-auth-token --generate > /dev/null)"

SSHD = "/usr/sbin/sshd -D -e -f /root/.ssh/sshd_config"
SSHD_CONFIG = """
HostKey /root/.ssh/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
PidFile none
"""
# The only difference to a node with internet; byte-compiling later halves the time on two cores.
PIP_CONFIG = """
[global]
no-index = true
find-links = /mnt
[install]
compile = false
"""


@dataclass(frozen=True)
class Cluster:
    """The hosts, and the one that the user sits at."""

    laptop: Host
    nodes: Sequence[Host]

    def user(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the user's checkout, as it stands in the documentation."""
        return subprocess.run(
            self.typed(command), capture_output=True, text=True, timeout=400, cwd=ROOT
        )

    def typed(self, command: str) -> list[str]:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        environment = ["HOME=/srv", f"PATH={path}"]
        shell = f"cd {ROOT} && {command.replace('cluster.yaml', '/srv/cluster.yaml')}"
        return self.laptop.command("env", "-i", *environment, "bash", "-c", shell)

    def token(self) -> str:
        return (self.laptop.home / ".ray/auth_token").read_text().strip()


@pytest.fixture(scope="module")
def wheels(request: pytest.FixtureRequest) -> Path:
    """Return a folder with every wheel that an installation takes, kept for the next time."""
    assert request.config.cache
    locked = hashlib.sha256()
    for name in ("constraints.txt", "pyproject.toml"):
        locked.update((ROOT / name).read_bytes())
    folder = request.config.cache.mkdir("wheels") / locked.hexdigest()[:16]
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "-c", "constraints.txt"]
        subprocess.run([*pip, "-d", partial, ".", "setuptools"], cwd=ROOT, check=True)
        for old in folder.parent.iterdir():
            if old != partial:
                shutil.rmtree(old)
        partial.rename(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Cluster]:
    """Three hosts with nothing but a key, and a laptop with the edited file."""
    folder = tmp_path_factory.mktemp("hosts")
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", folder / name], check=True)
    with Network(folder, ["laptop", *NODES]) as network:
        nodes = []
        for name in NODES:
            home = folder / name / "home"
            _write(home / ".ssh/authorized_keys", (folder / "key.pub").read_text())
            _write(home / ".ssh/host_key", (folder / "host_key").read_text())
            _write(home / ".ssh/sshd_config", SSHD_CONFIG)
            _write(home / ".config/pip/pip.conf", PIP_CONFIG)
            # Hosts unlike each other, as hosts are.
            cpu = "Another Processor" if name == "worker2" else ""
            nodes.append(network.host(name, "/root", SSHD, share=wheels, cpu=cpu))
        home = folder / "laptop/home"
        _write(home / ".ssh/harness_cluster", (folder / "key").read_text())
        _write(home / "cluster.yaml", _edited([host.address for host in nodes]))
        here = [ROOT, Path(sys.prefix)]
        yield Cluster(network.host("laptop", "/srv", "sleep infinity", visible=here), nodes)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


def _edited(addresses: Sequence[str]) -> str:
    """Return cluster.yaml as a user edits it: the four lines at its top and nothing else."""
    head, *workers = addresses
    edited = CLUSTER.read_text()
    for field, value in {
        "head_ip": head,
        "worker_ips": f"[{', '.join(workers)}]",
        "ssh_user": "root",
        "ssh_private_key": "/srv/.ssh/harness_cluster",  # `~` is not $HOME to ssh.
    }.items():
        edited, count = re.subn(rf"(?m)^  {field}: .*$", f"  {field}: {value}", edited)
        assert count == 1
    return edited


def _public(pid: int) -> Iterator[bytes]:
    """Yield what a process was started with: its command line and its environment."""
    for name in ("cmdline", "environ"):
        with suppress(OSError):  # It ended meanwhile.
            yield Path(f"/proc/{pid}/{name}").read_bytes()


def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(4)


def test_without_a_token_nothing_starts(cluster: Cluster) -> None:
    done = cluster.user("ray up --yes cluster.yaml")
    assert done.returncode != 0
    assert done.stderr.strip().endswith("No such file or directory: '/srv/.ray/auth_token'")
    assert MAKE_TOKEN in CLUSTER.read_text(), "the file says how to make one"


def test_ray_up_brings_every_node(cluster: Cluster) -> None:
    assert cluster.user(MAKE_TOKEN).returncode == 0
    done = cluster.user("ray up --yes cluster.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    status = "ray exec cluster.yaml 'ray status'"
    _until(lambda: "3 local.cluster.node" in cluster.user(status).stdout, 400)
    found = cluster.user("ray exec cluster.yaml 'ray list nodes --format=json'").stdout
    assert all(f'"{host.address}"' in found for host in cluster.nodes)


def test_the_token_is_private_and_nowhere_else(cluster: Cluster) -> None:
    token = cluster.token().encode()
    assert len(token) >= 32
    for host in [cluster.laptop, *cluster.nodes]:
        assert (host.home / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
        assert not any(token in text for pid in host.processes() for text in _public(pid))
        logs = [p for p in host.tmp.rglob("*") if p.is_file()]
        assert not any(token in path.read_bytes() for path in logs)
    # A client without one is refused.
    stranger = cluster.user(
        f"ray exec cluster.yaml 'curl -sw %{{http_code}} {DASHBOARD}/api/jobs/'"
    ).stdout
    assert "401" in stranger


def test_the_dashboard_listens_on_loopback_alone(cluster: Cluster) -> None:
    head = cluster.nodes[0]
    listening = subprocess.run(
        head.command("ss", "-Hltn", "sport", "=", ":8265"), capture_output=True, text=True
    )
    assert [line.split()[3] for line in listening.stdout.splitlines()] == ["127.0.0.1:8265"]


def test_setting_up_again_costs_nothing(cluster: Cluster) -> None:
    stamp = cluster.nodes[0].home / "harness-node/.venv/installed"
    before = stamp.stat().st_mtime_ns
    done = cluster.user(
        "ray exec cluster.yaml 'bash ~/harness-node/deploy/setup_node.sh && echo again'"
    )
    assert "again" in done.stdout, done.stdout + done.stderr
    assert stamp.stat().st_mtime_ns == before
    assert (cluster.nodes[0].home / ".bashrc").read_text().count("env.sh ]") == 1
    assert not (cluster.nodes[0].home / "harness-node/results").exists()


def test_a_job_runs_on_the_workers_and_its_results_come_home(cluster: Cluster) -> None:
    tunnel = subprocess.Popen(
        cluster.typed("exec ray dashboard cluster.yaml"), stdin=subprocess.DEVNULL
    )
    try:
        submit = f"python -m harness submit --address {DASHBOARD} --wait --results /srv/results"
        run = f"{' '.join(TINY_RUN)} --backends reference --seeds 4 --run-id mine"
        reachable = f"RAY_AUTH_MODE=token ray job list --address {DASHBOARD}"
        _until(lambda: cluster.user(reachable).returncode == 0, 60)
        done = cluster.user(f"{submit} -- {run}")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        tunnel.terminate()
        tunnel.wait()
    with open(cluster.laptop.home / "results/mine/trials.csv") as file:
        trials = list(csv.DictReader(file))
    assert [trial["status"] for trial in trials] == ["ok"] * 4
    assert {trial["node"] for trial in trials} == {"worker1", "worker2"}
    assert {trial["contended"] for trial in trials} == {"False"}


def test_ray_down_leaves_no_process(cluster: Cluster) -> None:
    assert any("raylet" in line for line in cluster.nodes[1].processes().values())
    done = cluster.user("ray down --yes cluster.yaml")
    assert done.returncode == 0, done.stdout + done.stderr

    def left() -> list[str]:
        lines = [line for host in cluster.nodes for line in host.processes().values()]
        return [line for line in lines if re.search(r"\bray|harness", line)]

    _until(lambda: not left(), 240)
