"""The command line, called in this process or run in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from click.testing import CliRunner

from harness.cli import cli

ROOT = Path(__file__).parents[2]
# Small enough to train in a fraction of a second, long enough for late faults to show.
TINY_FIELDS = {"n_steps": 5, "batch_size": 4, "epochs": 100, "curve_points": 10, "eval_paths": 20}
TINY = [argument for field in TINY_FIELDS.items() for argument in ("--set", "{}={}".format(*field))]

Done = subprocess.CompletedProcess[str]


class Cli(Protocol):
    """`python -m harness` with these arguments and environment variables."""

    def __call__(self, *arguments: object, **environment: str) -> Done: ...


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "harness", *map(str, arguments)]


def in_this_process(*arguments: object, **environment: str) -> Done:
    """Call the command line. Saves the seconds that imports take; exceptions are raised."""
    words = [str(argument) for argument in arguments]
    result = CliRunner(env=environment).invoke(cli, words, prog_name="python -m harness")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(words, result.exit_code, result.stdout, result.stderr)


def in_a_process(*arguments: object, **environment: str) -> Done:
    """Run the command line as a user does, with output to pipes."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        env=os.environ | environment,
    )
