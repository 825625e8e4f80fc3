"""An S3 server in a process of its own, to be suspended, killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BUCKET = "results"


class S3Server:
    """moto's server on a port of its own; it keeps its data in memory."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "mine",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> S3Server:
        """Start it, without any data."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert self._process.poll() is None, "the server did not start"
                time.sleep(0.05)

    def make_bucket(self) -> S3Server:
        """Make the bucket; needs the environment."""
        self.system().mkdir(BUCKET)
        return self

    def system(self) -> Any:
        """Return a file system of its own for looking behind the scenes."""
        import s3fs

        return s3fs.S3FileSystem(
            key="mine",
            secret="secret",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    def suspend(self) -> None:
        """Make it stop answering."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it answer again, with its data."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it; all it had is lost."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)
