"""Runs in processes of their own, and the processes of their trials."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil

from benchmarks.helpers.commands import ROOT, TINY_RUN, command, wait_for

__all__ = ["MARK", "inline", "start", "wait_for", "workers"]

# Every process that a test starts inherits this variable, which tells it from all others.
MARK = "HARNESS_TEST"


def inline(results: Path) -> tuple[object, ...]:
    return ("--dispatch", "inline", "--results", results, "--run-id", "x")


def start(
    results: Path, *arguments: object, backend: str = "tests.helpers.faulty:Slow"
) -> subprocess.Popen[str]:
    """Start a run of a slow backend under the id `x`."""
    given = ("--backends", backend, "--results", results, "--run-id", "x")
    return subprocess.Popen(
        command(*TINY_RUN, *given, *arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", MARK: str(results)},
    )


def workers(mark: object, *words: str, seed: int | None = None) -> list[psutil.Process]:
    """Return the processes of jobs with this mark whose command line has all the words.

    With a seed: those of its trials.
    """
    words += () if seed is None else (f'"seed": {seed}',)
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if "harness.worker" not in line or not all(word in line for word in words):
                continue
            if process.environ().get(MARK) == str(mark):
                found.append(process)
        except psutil.Error:  # It has ended, or is another user's.
            continue
    return found
