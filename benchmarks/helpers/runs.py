"""Runs for tests of what is made of them: real ones, and larger ones cloned from those."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.helpers.commands import ROOT, TINY_RUN, command, overriding


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
