"""What one core can do, measured by a process of its own: `backends.limits` says what and how."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Self

from harness.measure.clock import now
from harness.measure.process import Tree
from harness.measure.settings import THREAD_VARIABLES
from harness.task.task import Task
from harness.task.work import work

_LONGEST_S = 60.0
"""It compiles for some five seconds, and measures for one."""


class Limits:
    """The process. It begins to compile at once; leaving the context ends it.

    If it cannot do its work, it knows no cost, and that is all: nothing is raised.
    """

    def __init__(
        self,
        task: Task,
        cores: tuple[int, ...] | None,
        compile_on: tuple[int, ...] | None = None,
    ) -> None:
        """Take the cores that are measured, and those to compile on; None: any."""
        about = {
            "model": asdict(task.model),
            "n_steps": task.n_steps,
            "batch_size": task.batch_size,
            "work": work(task.model, task.n_steps, task.batch_size),
            "cores": cores,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "backends.limits"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ
            | dict.fromkeys(THREAD_VARIABLES, "1")
            | {"PYTHONPATH": os.pathsep.join(Tree.here().paths)},
            start_new_session=True,  # Ctrl-C is not for it.
        )
        if compile_on:
            with suppress(OSError):
                os.sched_setaffinity(self._process.pid, compile_on)
        self._compiled = False
        self._say(json.dumps(about))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def wait_until_compiled(self) -> None:
        """Return once the process has nothing more to compile, so that it disturbs no clock."""
        self._compiled = self._compiled or self._line() == b"ready\n"

    def __call__(self) -> Mapping[str, float]:
        """Return what things cost on the cores now, in seconds by name; nothing if it failed."""
        self.wait_until_compiled()
        self._say("")
        try:
            costs = json.loads(self._line())
        except ValueError:
            return {}
        return {str(name): float(seconds) for name, seconds in costs.items()}

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(f"{line}\n".encode())

    def _line(self) -> bytes:
        """Return the next line of the process, or what there is of it if it ends or hangs."""
        assert self._process.stdout is not None
        deadline, line = now() + _LONGEST_S, b""
        while not line.endswith(b"\n"):
            left_s = max(0.0, deadline - now())
            if not select.select([self._process.stdout], [], [], left_s)[0]:
                self._process.kill()
                break
            received = self._process.stdout.read(65536)
            if not received:
                break
            line += received
        return line
