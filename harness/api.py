"""The functions behind `harness.run`, `harness.resume` and `harness.load`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.runs.reporter import Reporter
from harness.runs.request import RunRequest
from harness.runs.results import Run
from harness.runs.settings import Settings, Site
from harness.runs.start import start
from harness.task.task import Task


def run(
    task: Task | None = None,
    *,
    dispatch: str = "ray",
    address: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    wait_s: float = 600.0,
    results: str | Path = "results",
    run_id: str = "",
    reporter: Reporter | None = None,
    **settings: Any,
) -> Run:
    """Measure a task (the default: preset `corrected`) on several backends and return the results.

    `settings` are those of `harness.runs.settings.Settings`: backends, seeds, devices, threads,
    rounds, packed, timeout_s, max_retries, precision (a share: 0.02 is 2 %), budget_s. The others
    are as on the command line: `dispatch` is "ray" or "inline", `address` that of a Ray cluster,
    `runtime_env` that of the Ray job, `wait_s` how long work waits for a node that can take it,
    `results` the folder that `run_id` is made in: a local path, or a URL as text.

    Raises `InvalidInput` or `Unavailable` before anything starts, and `StoreError` if the results
    cannot be written: it says what was kept, and where. A trial that fails is a row of `Run.trials`
    with its status and error.
    """
    site = Site(dispatch, address, results, runtime_env or {}, wait_s)
    return _whole(start(RunRequest(task, Settings(**settings), site, run_id), reporter))


def resume(
    run_id: str,
    *,
    timeout_s: float | None = None,
    dispatch: str = "ray",
    address: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    wait_s: float = 600.0,
    results: str | Path = "results",
    reporter: Reporter | None = None,
) -> Run:
    """Run the trials that a run still lacks, and return its results. Raises as `run` does."""
    site = Site(dispatch, address, results, runtime_env or {}, wait_s)
    settings = Settings(timeout_s=timeout_s)
    return _whole(start(RunRequest(None, settings, site, resume=run_id), reporter))


def load(run_id: str, results: str | Path = "results") -> Run:
    """Return the results of a run. Raises `InvalidInput` if there is no such run."""
    return Run(run_id, results)


def _whole(run: Run) -> Run:
    if run.unwritten:
        raise StoreError("\n".join(run.unwritten))
    return run
