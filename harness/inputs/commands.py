"""Commands that are shown to be copied."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

FETCHED_TO = "HARNESS_FETCHED_TO"
"""The variable of a submitted job: where its results will be, for whoever reads its output."""


def command(*words: object) -> str:
    """Return a command of this program, called as it was this time, in the quotes of a shell."""
    program = ["harness"] if Path(sys.argv[0]).name == "harness" else ["python", "-m", "harness"]
    return shlex.join([*program, *map(str, words)])


def run_words(location: str) -> list[str]:
    """Return the run at a path or URL as a command takes it: `mine --results elsewhere`."""
    folder, slash, name = location.rpartition("/")
    return [name, *results_words(folder or slash or ".")]


def as_read(location: str) -> str:
    """Return where a run is for whoever reads the output: that of a job is fetched."""
    fetched_to = os.environ.get(FETCHED_TO)
    return f"{fetched_to.rstrip('/')}/{location.rpartition('/')[2]}" if fetched_to else location


def results_words(results: str) -> list[str]:
    """Return `--results` and a folder, or nothing for the default one."""
    return [] if results == "results" else ["--results", results]
