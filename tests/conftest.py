from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Most tests of `run` are not about its report, which takes seconds.
os.environ.setdefault("HARNESS_REPORT", "0")

ROOT = Path(__file__).parent.parent
# Small enough to train in a fraction of a second, long enough for late faults to show.
_TINY = {"n_steps": 5, "batch_size": 4, "epochs": 100, "curve_points": 10, "eval_paths": 20}
TINY = [argument for field in _TINY.items() for argument in ("--set", "{}={}".format(*field))]

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli() -> Cli:
    """Run the command line as a user does, in a process of its own, with output to pipes."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=170,
            env=os.environ | environment,
        )

    return run


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "harness", *map(str, arguments)]
