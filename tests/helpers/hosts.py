"""Network namespaces as hosts: each has an address, a name, processes, /tmp and a home of its own.

All of them hang on a bridge that leads nowhere else, and all of it is gone when its processes are:
homes are kept in memory, so that gigabytes of virtual environments need not be deleted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = ["ip", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "unshare", "/usr/sbin/sshd"]

_MEMORY_KB = 10_000_000
# Nothing survives the test process, however it ends: the first process of a PID namespace takes
# all others with it.
_DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
_SPACES = ["--net", "--mount", "--pid", "--uts", "--ipc"]
_HOST = [*_DIES_WITH_US, "unshare", "--kill-child", "--fork", *_SPACES]

# What a host is in its own name spaces: $1 its name, $2 its folder, $3 its home, $4 what to run,
# and then folders of this machine's /tmp that it sees in its own.
_INIT = """
set -e
mount -t proc proc /proc
hostname "$1"
[ ! -f "$2/cpuinfo" ] || mount --bind "$2/cpuinfo" /proc/cpuinfo
[ ! -d "$2/share" ] || mount --bind -o ro "$2/share" /mnt
mount --bind "$2/etc_hosts" /etc/hosts
mount -t tmpfs tmpfs "$3"
cp -a "$2/home/." "$3"
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
ip link set lo up
for folder in "${@:5}"; do
    mkdir -p "$2$folder"
    mount --bind "$folder" "$2$folder"
done
mount --rbind "$2/tmp" /tmp
cd /
mkdir /run/sshd /run/ready
eval "exec $4"
"""


@dataclass(frozen=True)
class Host:
    """A host that runs; `pid` is its first process as this machine sees it."""

    name: str
    address: str
    home: Path
    """The home, as this machine sees it while the host runs."""
    tmp: Path
    pid: int

    def command(self, *arguments: object) -> list[str]:
        """Return the command that runs another one on this host."""
        return ["nsenter", "--target", str(self.pid), *_SPACES, *map(str, arguments)]

    def processes(self) -> dict[int, str]:
        """Return the command line of every process of this host."""
        space = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "ns/pid") == space:
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    found[int(folder.name)] = line
            except OSError:  # It ended meanwhile.
                continue
        return found


def missing() -> list[str]:
    """Return what this machine lacks for hosts."""
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    small = not available or int(available[1]) < _MEMORY_KB
    return lacking + ["root"] * (os.geteuid() != 0) + ["10 GB of free memory"] * small


class Network:
    """A bridge in a namespace of its own, to which hosts are plugged."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._addresses = {name: f"10.99.0.{number}" for number, name in enumerate(names, 1)}
        self._stack = ExitStack()

    def __enter__(self) -> Network:
        switch = self._start(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        )
        self._switch = ["nsenter", "--net", "--target", str(switch.pid)]
        _until(
            lambda: os.readlink(f"/proc/{switch.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        )
        _run(*self._switch, "ip", "link", "add", "bridge", "type", "bridge")
        _run(*self._switch, "ip", "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def host(
        self,
        name: str,
        home: str,
        run: str,
        share: Path | None = None,
        cpu: str = "",
        visible: Sequence[Path] = (),
    ) -> Host:
        """Start a host that runs `run`, and sees the folder `share` under /mnt.

        Its home, at `home`, begins as the folder NAME/home. `cpu` is what its /proc/cpuinfo calls
        the processor. A host has a /tmp of its own; it sees the folders `visible` nevertheless.
        """
        folder = self._folder / name
        (folder / "home").mkdir(parents=True, exist_ok=True)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        names = "".join(f"{address} {name}\n" for name, address in self._addresses.items())
        (folder / "etc_hosts").write_text("127.0.0.1 localhost\n" + names)
        if share:
            (folder / "share").symlink_to(share)
        if cpu:
            lines = Path("/proc/cpuinfo").read_text().splitlines(keepends=True)
            (folder / "cpuinfo").write_text(
                "".join(f"model name\t: {cpu}\n" if "model name" in x else x for x in lines)
            )
        hidden = [str(path) for path in visible if path.is_relative_to("/tmp")]
        arguments = ["bash", "-c", _INIT, "host", name, str(folder), home, run, *hidden]
        started = self._start(_HOST + arguments, folder / "log")
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
        _until(lambda: children.read_text() != "")
        pid = int(children.read_text())
        _until(Path(f"/proc/{pid}/root/run/ready").exists)
        plug = f"ip link add {name} type veth peer name eth0 netns {pid}"
        _run(*self._switch, *plug.split())
        _run(*self._switch, "ip", "link", "set", name, "master", "bridge", "up")
        host = Host(
            name, self._addresses[name], Path(f"/proc/{pid}/root{home}"), folder / "tmp", pid
        )
        inside = ["nsenter", "--net", "--target", str(pid)]
        _run(*inside, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        _run(*inside, "ip", "link", "set", "eth0", "up")
        # As on any host, there is a way to elsewhere by which Ray finds the own address; it ends at
        # the bridge.
        _run(*inside, "ip", "route", "add", "default", "dev", "eth0")
        return host

    def _start(self, command: list[str], log: Path | None = None) -> subprocess.Popen[bytes]:
        return self._stack.enter_context(_running(command, log))


@contextmanager
def _running(command: list[str], log: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    with open(log or os.devnull, "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "a host did not start"
        time.sleep(0.05)
