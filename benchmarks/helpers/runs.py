"""Runs for tests of what is made of them: real ones, and larger ones cloned from those."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pandas as pd

from benchmarks.helpers.commands import ROOT, TINY_RUN, command, overriding
from harness.runs.stored_tables import StoredTables
from harness.store.files import LocalFolder
from harness.store.manifest import MANIFEST, RECORDS
from harness.store.run_folder import RunFolder
from harness.tables.stored import Source, files


def measure(results: Path, run_id: str, *arguments: object, ok: bool = True) -> Path:
    """Run the harness inline on a tiny task and return the folder of the run."""
    done = subprocess.run(
        command(
            *overriding(
                *(*TINY_RUN, "--dispatch", "inline", "--results", results, "--run-id", run_id),
                *arguments,
            )
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return results / run_id


def cloned(source: Path, target: Path, seeds: int) -> Path:
    """Make a run of many seeds from the records of a real one, each cloned in turn."""
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["plan"] |= {"run": target.name, "seeds": list(range(seeds))}
    (target / "records").mkdir(parents=True)
    records = [json.loads(path.read_text()) for path in sorted((source / "records").glob("*"))]
    arms = {(record["backend"], record["device"]) for record in records}
    for backend, device in sorted(arms):
        mine = [r for r in records if (r["backend"], r["device"]) == (backend, device)]
        for seed in range(seeds):
            record = dict(mine[seed % len(mine)])
            trial = f"seed{seed}-{backend.replace(':', '.')}-{device}"
            record |= {"run": target.name, "trial": trial, "seed": seed, "block": seed}
            (target / "records" / f"{trial}.json").write_text(json.dumps(record))
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def repeated(source: Path, target: Path, times: int) -> Path:
    """Make a run of so many times as many seeds from the records and stored trials of another.

    Its records are links to the same files: only their names, sizes and dates can be looked at, and
    the first of each backend. So it has no disk of its own, and a million trials take a minute.
    """
    manifest = json.loads((source / MANIFEST).read_text())
    seeds = len(manifest["plan"]["seeds"])
    manifest["plan"] |= {"seeds": list(range(seeds * times))}
    (target / RECORDS).mkdir(parents=True)
    (target / MANIFEST).write_text(json.dumps(manifest))
    for path in (source / RECORDS).iterdir():
        seed, _, arm = path.name.partition("-")
        for part in range(times):
            number = int(seed.removeprefix("seed")) + part * seeds
            (target / RECORDS / f"seed{number}-{arm}").hardlink_to(path)
    trials = pd.read_parquet(source / "trials.parquet")
    parts = [_moved(trials, part * seeds) for part in range(times)]
    table = pd.concat(parts, ignore_index=True)
    run = RunFolder(LocalFolder(target))
    made_from = Source(StoredTables(run, run.manifest()).listing, "")
    for name, content in files("trials", table, made_from):
        if name.endswith(".parquet"):
            (target / name).write_bytes(content)
    return target


def _moved(trials: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Return the trials with other seeds."""
    arms = trials["trial"].str.partition("-")[2]
    names = "seed" + (trials["seed"] + seeds).astype("string") + "-" + arms
    return trials.assign(seed=trials["seed"] + seeds, block=trials["block"] + seeds, trial=names)
