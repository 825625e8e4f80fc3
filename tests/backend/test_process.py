"""Backends in a process of their own, through the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import Run
from tests.helpers.commands import ROOT, TINY, Cli
from tests.helpers.processes import inline

NUMPY = f"process:{sys.executable} {ROOT}/docs/process-worker/numpy_worker.py"


def test_a_worker_passes_parity_and_trains(cli: Cli, tmp_path: Path) -> None:
    given = ("--backends", f"{NUMPY},reference", "--seeds", "2")
    done = cli("run", *TINY, *given, *inline(tmp_path))
    assert done.returncode == 0, done.stderr
    run = Run("x", tmp_path)
    errors = run.trials.set_index(["backend", "seed"])["final_mse"]
    assert errors[NUMPY].to_list() == pytest.approx(errors["reference"].to_list(), rel=1e-4)
