"""The command line, called in this process or run in one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from click.testing import CliRunner

from benchmarks.helpers.commands import ROOT as ROOT
from benchmarks.helpers.commands import TINY as TINY
from benchmarks.helpers.commands import TINY_FIELDS as TINY_FIELDS
from benchmarks.helpers.commands import TINY_RUN as TINY_RUN
from benchmarks.helpers.commands import command as command
from benchmarks.helpers.commands import overriding as overriding
from harness.cli import cli

Done = subprocess.CompletedProcess[str]


class Cli(Protocol):
    """`python -m harness` with these arguments and environment variables."""

    def __call__(self, *arguments: object, **environment: str) -> Done: ...


def shown(text: str) -> list[str]:
    """Return the commands of this program that a text shows, as they are to be typed."""
    return re.findall(r"python -m harness [^`\n]*", text)


def typed(line: str, **environment: str) -> Done:
    """Type a line into a shell in the current folder, where `python` is that of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", line],
        capture_output=True,
        text=True,
        timeout=170,
        env=os.environ | {"PATH": path} | environment,
    )


def in_this_process(*arguments: object, **environment: str) -> Done:
    """Call the command line. Saves the seconds that imports take."""
    words = [str(argument) for argument in arguments]
    environment = {"HARNESS_DEBUG": "1"} | environment
    result = CliRunner(env=environment).invoke(cli, words, prog_name="python -m harness")
    assert result.exit_code != 70, result.stderr
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
