"""How often are profiles, and what is said of them, wrong?

Runs of healthy backends at three sizes, and of backends that waste time in one way each
(`benchmarks.helpers.wasteful`): whether the waste is named first, whether anything is said of a
healthy one, and how far the parts of an epoch add up to its time in the timed turns.

    python -m benchmarks.profiles healthy [--runs N] [--only NAME,...]
    python -m benchmarks.profiles planted [--runs N] [--only NAME,...]

All backends of a row of a table are a block: they are alive together, on one core, as in a run.
Parity is not checked here: the tests do that. It takes hours, and the machine to itself.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.diagnosis.findings_on_time import on_time
from harness.diagnosis.types import Id
from harness.measure import machine
from harness.measure.block import measure
from harness.measure.clock import timestamp
from harness.measure.trial import Host
from harness.runs.profiled import short
from harness.runs.request import RunRequest
from harness.runs.settings import Settings
from harness.tables.from_records import trials_table
from harness.tables.profile import profile_table
from harness.tables.text import render
from harness.task.task import Task
from harness.trial.record import Record
from harness.trial.sweep import SweepPoint

HEALTHY = ("torch", "torch-tuned", "jax", "jax-step", "jax-tuned", "floor", "reference")
SIZES: Mapping[str, dict[str, Any]] = {
    "default": {},
    "small": {"n_steps": 20, "batch_size": 8, "hidden": 4},
    "large": {"hidden": 64, "batch_size": 256},
}
_MODULE = "benchmarks.helpers.wasteful:"
PLANTED: Mapping[Id, tuple[str, ...]] = {
    "copies": ("JaxCopies", "FloorCopies"),
    "path-loop": ("TorchPathLoop",),
    "double-precision": ("TorchDouble",),
    "recompiles": ("JaxRecompiles",),
    "garbage": ("TorchCollects", "JaxCollects", "FloorCollects"),
    "allocation": ("TorchAllocates", "JaxAllocates", "FloorAllocates"),
    "threads-fight": ("TorchFights", "JaxFights"),
    "sleeps": ("TorchSleeps", "JaxSleeps", "FloorSleeps"),
    "predicts": ("TorchEvaluates", "JaxEvaluates", "FloorEvaluates"),
    "repeated-call": ("TorchNoOps",),
}


SHORT_CALLS = Task(epochs=200)
"""Calls of ten epochs."""
_SLOW: set[Id] = {"path-loop", "garbage", "allocation"}
"""Planted, these take up to a tenth of a second for an epoch."""


class Profiled(NamedTuple):
    """What a run showed of a backend."""

    found: list[str]
    """The rules that applied, the first first; warnings only."""
    bound: list[str]
    """What its time is bound by."""
    sum: float
    """The parts of an epoch together, as a ratio to its time in the timed turns."""
    wall_s: float


def task_of(rule: Id) -> Task:
    """Return the task on which a fault is planted: the default one, but for the calls."""
    return SHORT_CALLS if rule in _SLOW else Task()


def profiled(backends: Sequence[str], task: Task) -> dict[str, Profiled]:
    """Run a block with profiles."""
    request = short(RunRequest(task, Settings(backends=tuple(backends), devices=("cpu",))))
    plan = request.settings.plan("benchmark", request.task or task, has_gpu=False)
    records: list[Record] = []

    def hear(event: object) -> None:
        if isinstance(event, Record):
            records.append(event)

    measure(next(plan.blocks()), Host(), hear)
    for record in records:
        if record.status != "ok" or record.profile is None or record.profile.problem:
            print(record.backend, record.status, record.error, record.profile, file=sys.stderr)
    table = profile_table(records)
    said: dict[str, list[Any]] = defaultdict(list)
    for one in on_time(table, trials_table(records), [SweepPoint({}, request.task or task)]):
        if len(one.subjects) == 1:
            said[one.subjects[0].removesuffix(" on cpu")].append(one)
    seconds = table[table["kind"] == "time"].set_index(["backend", "name"])["seconds"]
    return {
        record.backend: Profiled(
            [one.rule.id for one in said[record.backend] if one.rule.severity == "warning"],
            [one.rule.id for one in said[record.backend] if one.rule.severity != "warning"],
            float(seconds[record.backend, "epoch"] / seconds[record.backend, "timed"]),
            record.wall_s,
        )
        for record in records
        if record.profile and record.profile.seconds
    }


def healthy(runs: int, only: Sequence[str]) -> pd.DataFrame:
    """Return a row per size and backend: what was wrongly said, and how the parts add up."""
    rows = []
    for size, changes in SIZES.items():
        seen: dict[str, list[Profiled]] = defaultdict(list)
        for run in range(runs):
            for backend, one in profiled(only or HEALTHY, Task(**changes)).items():
                seen[backend].append(one)
                print(size, run, backend, *one, file=sys.stderr, flush=True)
        for backend in only or HEALTHY:
            sums = np.array([one.sum for one in seen[backend]])
            rows.append(
                {
                    "size": size,
                    "backend": backend,
                    "runs": len(sums),
                    "something wrong was said": sum(bool(one.found) for one in seen[backend]),
                    "within 10 %": int((np.abs(sums - 1) <= 0.1).sum()),
                    "sum / time": f"{np.median(sums):.3f} [{sums.min():.3f}, {sums.max():.3f}]",
                    "bound by": _counted(name for one in seen[backend] for name in one.bound),
                }
            )
    return pd.DataFrame(rows)


def planted(runs: int, only: Sequence[str]) -> pd.DataFrame:
    """Return a row per fault and backend: how often it was named first, and what else was."""
    rows = []
    for rule, names in PLANTED.items():
        chosen = [name for name in names if not only or name in only]
        seen: dict[str, list[Profiled]] = defaultdict(list)
        for run in range(runs if chosen else 0):
            for backend, one in profiled([_MODULE + n for n in chosen], task_of(rule)).items():
                seen[backend.removeprefix(_MODULE)].append(one)
                print(rule, run, backend.removeprefix(_MODULE), *one, file=sys.stderr, flush=True)
        for name in chosen:
            first = [one.found[0] if one.found else "nothing" for one in seen[name]]
            others = [other for one in seen[name] for other in one.found if other != rule]
            named = f"{first.count(rule)} of {runs}"
            rows.append(
                {"backend": name, "rule": rule, "named first": named, "also": _counted(others)}
            )
    return pd.DataFrame(rows)


def _counted(names: Any) -> str:
    counts = pd.Series(list(names), dtype=str).value_counts()
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def main() -> None:
    """Run one of the two and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["healthy", "planted"])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--only", default="", help="backends, separated by commas")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    make = {"healthy": healthy, "planted": planted}[options.what]
    table = make(options.runs, only)
    print(f"{timestamp()}, {machine.describe()['cpu']}, {options.runs} runs each\n")
    print(render(table, "markdown"))


if __name__ == "__main__":
    main()
