"""The head of a Ray cluster for tests: a real one, with its dashboard and with tokens."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

TOKEN = "0123456789abcdef0123456789abcdef"


class Head:
    """`ray start --head` in a folder of its own, which is also the home of whoever uses it."""

    def __init__(self) -> None:
        # The paths of sockets are short.
        self.home = Path(tempfile.mkdtemp(prefix="hh-", dir="/tmp"))
        (self.home / ".ray").mkdir()
        (self.home / ".ray" / "auth_token").write_text(TOKEN)
        bin_ = Path(sys.executable).parent
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "HOME": str(self.home),
            "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        gcs, self.port, agent, client = free_ports(4)
        self.url = f"http://127.0.0.1:{self.port}"
        self.address = f"127.0.0.1:{gcs}"
        self._log = (self.home / "ray.log").open("w")
        self._process = subprocess.Popen(
            [
                *(bin_ / "ray", "start", "--head", "--block", "--num-cpus=2"),
                *(f"--port={gcs}", f"--dashboard-port={self.port}", "--dashboard-host=127.0.0.1"),
                *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
                *("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"),
                *("--include-log-monitor=false", f"--temp-dir={self.home / 'r'}"),
            ],
            env=self.environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 60
        while True:
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                if self.ask("/api/version"):
                    return self
            assert self._process.poll() is None, (self.home / "ray.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        # Told to stop, it would take half a minute to end what it started.
        everything = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everything, timeout=10)
        self._log.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def ask(self, path: str, method: str = "GET") -> Any:
        """Return what the dashboard answers."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(self.url + path, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def log(self, job: str) -> str:
        """Return all that a job has printed."""
        return str(self.ask(f"/api/jobs/{job}/logs")["logs"])


class Proxy:
    """Stands between a client and a server, and can be cut."""

    def __init__(self, port: int) -> None:
        self._server = port
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self._ends: list[socket.socket] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self.mend()

    def mend(self) -> None:
        """Take connections."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and take no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Break all connections, and go on taking new ones."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def freeze(self) -> None:
        """Let nothing more through the connections there are, and do not break them."""
        self._flowing.clear()
        self._flowing = threading.Event()
        self._flowing.set()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._ends += [client, server]
                for pair in ((client, server), (server, client)):
                    pump = threading.Thread(target=_pump, args=(*pair, self._flowing), daemon=True)
                    pump.start()


def _pump(source: socket.socket, sink: socket.socket, flowing: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            flowing.wait()
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
