"""Histories of runs: copies of a real run, as it might have come out on other days."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness import Run
from harness.store.remote import Folder
from harness.store.results_folder import open_folder
from harness.store.run_folder import RunFolder
from harness.tables.stored import files
from harness.trial.record import Record

START = datetime.fromisoformat("2026-01-01T02:00:00+00:00")
TWIN = "benchmarks.helpers.looped:Looped"
"""The reference in all but name, which trains seeds at once, too."""
BACKENDS = ("reference", TWIN)


def real_run(results: Path, run_id: str = "real", **settings: Any) -> Run:
    """Measure a tiny task, the same every time, on two backends that start fast."""
    task = harness.Task(n_steps=20, batch_size=8, epochs=100, eval_paths=50, curve_points=10)
    how: dict[str, Any] = {"backends": list(BACKENDS), "seeds": 3, "dispatch": "inline"}
    return harness.run(task, results=results, run_id=run_id, **(how | settings))


def commit_of(number: int) -> str:
    """Return a commit; two runs in turn have the same one."""
    return hashlib.sha1(str(number // 2).encode()).hexdigest()


def copy(
    real: Run,
    results: str | Path,
    run: str,
    number: int,
    *,
    times: Mapping[str, float] | None = None,
    errors: Mapping[str, float] | None = None,
    environment: Mapping[str, str] | None = None,
    noise: float = 0.0,
    tables: bool = True,
    leave_out: str = "",
    **plan: Any,
) -> Folder:
    """Write a run of its own, in the real format, as measured `8 * number` hours after `START`.

    `times` and `errors` of backends are multiplied; every trial's time also by its own `noise`.
    """
    rng = np.random.default_rng(number)
    arms = tuple(arm for arm in real.manifest.plan.arms if arm.backend != leave_out)
    changed = real.manifest.plan.model_copy(update={"run": run, "arms": arms} | plan)
    moment = (START + timedelta(hours=8 * number)).isoformat()
    dates = {"started_utc": moment, "finished_utc": moment}
    manifest = real.manifest.model_copy(update=dates | {"plan": changed})
    folder = open_folder(str(results)).folder(run)
    if isinstance(results, Path):
        (results / run / "records").mkdir(parents=True)
    put(folder, "manifest.json", manifest.model_dump_json(indent=1).encode())
    commits = {f"commit:{whose}": commit_of(number) for whose in ("backend", "harness")}
    clean = {"dirty:backend": "no", "dirty:harness": "no"}
    for record in real.records:
        time = (times or {}).get(record.backend, 1.0) * float(np.exp(rng.normal(0, noise)))
        error = (errors or {}).get(record.backend, 1.0)
        if record.backend != leave_out:
            there = scaled(record, run, time, error, commits | clean | dict(environment or {}))
            put(folder, f"records/{there.trial}.json", there.model_dump_json(indent=1).encode())
    if tables:
        written = Run.of(RunFolder(folder))
        for name, content in files("trials", written.trials, written.stored.source()):
            put(folder, name, content)
    return folder


def put(folder: Folder, name: str, content: bytes) -> None:
    """Write a file; on a disk without waiting for it to be safe there."""
    where = folder.file(name)
    if "://" in where:
        folder.write(name, content)
    else:
        Path(where).write_bytes(content)


def scaled(
    record: Record, run: str, time: float, error: float, environment: Mapping[str, str]
) -> Record:
    """Return a record of another run, its training times and errors multiplied."""
    fields: dict[str, Any] = json.loads(record.model_dump_json())
    for chunk in fields["chunks"]:
        chunk["wall_s"] *= time
        chunk["waited_s"] *= time
    for point in fields["points"]:
        point["train_s"] *= time
        point["eval_mse"] *= error
    fields["step_mse"] = [mse * error for mse in fields["step_mse"]]
    fields |= {"run": run, "environment": fields["environment"] | dict(environment)}
    return Record.model_validate_json(json.dumps(fields))
