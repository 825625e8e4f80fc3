"""What is comparable over time: groups of runs, and in each the rows and series of a backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.backend.protocol import Array
from harness.history.archive import Archive, Environment, RunInfo
from harness.stats import estimates
from harness.stats.changepoints import ChangePoint
from harness.stats.estimates import Estimate
from harness.tables.columns import columns
from harness.tables.from_records import IntArray
from harness.tables.metrics import METRICS
from harness.tables.pairs import ArmKey, of_arm, pair
from harness.tables.summary import FLOOR
from harness.task.task import PRESETS, Task

Measure: TypeAlias = Literal["ratio", "epoch_s", "final_mse"]

HISTORY = columns(
    "run started_utc task node_kind device timing at_once backend commit commit_backend "
    "dirty_backend commit_harness dirty_harness seeds trials noisy contended blocks epoch_s "
    "epoch_s_low epoch_s_high relative_to ratio ratio_low ratio_high final_mse final_mse_low "
    "final_mse_high mse_seeds",
    noisy="int64",
)
_MOST = 0.9
"""Errors are over the seeds that this share of the runs has."""


class Group(NamedTuple):
    """The conditions under which backends may be compared."""

    task: Task
    node_kind: str
    device: str
    timing: str
    at_once: int

    @property
    def task_name(self) -> str:
        """The preset, or the fields in which the task differs from the default."""
        for name in PRESETS:
            if self.task == Task.preset(name):
                return name
        changed = {n: v for n, v in self.task if v != getattr(Task(), n)}
        return ", ".join(f"{name}={value}" for name, value in changed.items())

    @property
    def columns(self) -> dict[str, Any]:
        """The conditions as columns of a table."""
        return self._asdict() | {"task": self.task_name}


@dataclass(frozen=True)
class Series:
    """A measure of a backend over time, and its change points."""

    group: Group
    backend: str
    relative_to: str | None
    measure: Measure
    rows: pd.DataFrame
    """Of `HISTORY`: the runs that have it, the oldest first."""
    change_points: Sequence[ChangePoint]
    tested: bool
    """Whether there are enough runs to find a change point."""

    @property
    def seeds(self) -> str | None:
        """The seeds that an error is over, the same in all rows; a time has none."""
        return str(self.rows["mse_seeds"].iloc[0]) if self.measure == "final_mse" else None

    @property
    def values(self) -> Array:
        """The logarithms [n] that are searched for change points."""
        return logarithms(self.rows, self.measure)


class Errors(NamedTuple):
    """The logarithms of the errors of a backend, by number of the run."""

    seeds: str
    of_run: Mapping[int, Estimate]


def logarithms(rows: pd.DataFrame, measure: Measure) -> Array:
    """Return the logarithm of a measure in each row [n]."""
    values: Array = np.log(rows[measure].to_numpy(dtype=float))
    return values


def groups_of(archive: Archive) -> Iterator[tuple[Group, pd.DataFrame]]:
    """Yield each group and its trials."""
    keys = ["task", "node_kind", "device", "timing", "together"]
    parts: Iterable[tuple[Any, pd.DataFrame]] = archive.trials.groupby(keys, sort=False)
    for (task, kind, device, timing, together), trials in parts:
        yield Group(archive.tasks[task], kind, device, timing, int(together)), trials


def reference_of(trials: pd.DataFrame, wanted: str | None) -> str | None:
    """Return the backend that ratios of a group are formed with, if there is one.

    It is `wanted`, or else the one in most runs; of several the floor, then the first by name.
    """
    timed = trials[(trials["status"] == "ok") & ~trials["contended"]]
    runs = timed.groupby("backend")["run"].nunique()
    if wanted is not None:
        return wanted if wanted in runs.index else None
    if len(runs) < 2:
        return None
    return str(min(runs.index, key=lambda name: (-runs[name], name != FLOOR[0], name)))


def rows_of(
    group: Group,
    backend: str,
    reference: str | None,
    trials: pd.DataFrame,
    errors: Errors,
    archive: Archive,
) -> pd.DataFrame:
    """Return the rows of a backend in a group, with the columns `HISTORY`, the oldest run first."""
    arm = (backend, group.device)
    whole = trials[_in_whole_block(trials, group.at_once)]
    timed = whole[whole["status"] == "ok"]
    times = _epoch_times(timed, arm)
    ratios: dict[int, Estimate] = {}
    if reference not in (None, backend):
        ratios = _ratios(timed, arm, (str(reference), group.device), archive.runs)
    rows = []
    for number, count in _counts(of_arm(trials, arm)):
        run = archive.runs[number]
        source = (number, backend, group.device, group.node_kind)
        rows.append(
            {
                "run": run.name,
                "started_utc": run.started.isoformat(),
                "backend": backend,
                "relative_to": reference if number in ratios else None,
                "blocks": times[number].n if number in times else 0,
                "mse_seeds": errors.seeds if number in errors.of_run else None,
            }
            | group.columns
            | _commits(archive.environments.get(source, {}))
            | count
            | _natural("epoch_s", times.get(number))
            | _natural("ratio", ratios.get(number))
            | _natural("final_mse", errors.of_run.get(number))
        )
    return pd.DataFrame(rows, columns=list(HISTORY)).astype(HISTORY)


def _commits(environment: Environment) -> dict[str, str | None]:
    """Return the commits of backend and harness; `commit` is the backend's if it has one.

    A `+` says that the code had uncommitted changes.
    """
    row: dict[str, str | None] = {"commit": None}
    for owner in ("harness", "backend"):
        commit, dirty = (environment.get(f"{name}:{owner}") for name in ("commit", "dirty"))
        row |= {f"commit_{owner}": commit, f"dirty_{owner}": dirty}
        if commit is not None:
            row["commit"] = commit + "+" * (dirty == "yes")
    return row


def _counts(trials: pd.DataFrame) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each run and the counts of its trials."""
    ok = trials["status"] == "ok"
    counted = trials.assign(ok=ok, noisy=ok & trials["noisy"].fillna(False)).groupby("run")
    counts = counted.agg(
        seeds=("ok", "sum"),
        trials=("ok", "size"),
        noisy=("noisy", "sum"),
        contended=("contended", "any"),
    )
    yield from zip(counts.index, counts.to_dict("records"), strict=True)


def _natural(name: str, estimate: Estimate | None) -> dict[str, float]:
    """Return a value and its interval from the estimate of a logarithm."""
    names = (name, f"{name}_low", f"{name}_high")
    if estimate is None:
        return dict.fromkeys(names, float("nan"))
    values = np.exp([estimate.value, *estimate.interval()]).tolist()
    return dict(zip(names, values, strict=True))


def _in_whole_block(trials: pd.DataFrame, at_once: int) -> npt.NDArray[np.bool]:
    """Return for each trial whether its block has as many seeds as are trained at once.

    The last block may have fewer, which take longer each.
    """
    if at_once == 1:
        return np.ones(len(trials), dtype=bool)
    return (trials.groupby("block")["seed"].transform("nunique") == at_once).to_numpy()


def _epoch_times(trials: pd.DataFrame, arm: ArmKey) -> dict[int, Estimate]:
    """Estimate the logarithm of the training time of an epoch, in each run."""
    mine = of_arm(trials, arm)
    mine = mine[~mine["contended"]]
    values = mine[["run", "block"]].assign(value=METRICS["train_s"].values(mine)).dropna()
    by_block = values.groupby(["run", "block"], sort=True)["value"].mean()
    return _by_run(
        by_block.index.get_level_values("run").to_numpy(), by_block.to_numpy(dtype=float)
    )


def _ratios(
    trials: pd.DataFrame, arm: ArmKey, reference: ArmKey, runs: Sequence[RunInfo]
) -> dict[int, Estimate]:
    """Estimate the logarithm of the ratio of training times, in each run."""
    both = pair(trials, arm, reference, METRICS["train_s"])
    blocks = trials.drop_duplicates("block").set_index("block")[["run", "block_in_run"]]
    where = blocks.loc[both.blocks.tolist()]
    numbers = where["run"].to_numpy(dtype=np.int64)
    of_pilot = where["block_in_run"].to_numpy() < np.array([run.pilot for run in runs])[numbers]
    return _by_run(numbers, both.differences, of_pilot)


def _by_run(
    numbers: IntArray, values: Array, of_pilot: npt.NDArray[np.bool] | None = None
) -> dict[int, Estimate]:
    """Estimate the mean of the values of each run; the numbers of the runs are in order."""
    found, starts = np.unique(numbers, return_index=True)
    parts = np.split(values, starts[1:])
    pilots: Iterable[int] = [0] * len(parts)
    if of_pilot is not None:
        pilots = (int(part.sum()) for part in np.split(of_pilot, starts[1:]))
    return {
        int(run): estimates.mean(part, pilot)
        for run, part, pilot in zip(found, parts, pilots, strict=False)
    }


def errors_of(trials: pd.DataFrame) -> tuple[str, dict[str, Errors]]:
    """Choose the seeds of a group, and estimate the error of each of its backends over them.

    The seeds are those that nearly all runs have. A backend most of whose runs lack them has seeds
    of its own.
    """
    ok = trials[trials["status"] == "ok"]
    values = ok[["run", "backend", "seed"]].assign(value=METRICS["final_mse"].values(ok)).dropna()
    table = values.pivot_table(index=["backend", "run"], columns="seed", values="value", sort=True)
    shared = _common_seeds(table)
    errors = {}
    for backend in dict.fromkeys(trials["backend"]):
        mine = table[table.index.get_level_values("backend") == backend].droplevel("backend")
        seeds = shared
        if 2 * len(mine[seeds].dropna()) <= len(mine):
            seeds = _common_seeds(mine)
        chosen = mine[seeds].dropna()
        rows = zip(chosen.index, chosen.to_numpy(dtype=float), strict=True)
        of_run = {int(run): estimates.mean(row) for run, row in rows} if seeds else {}
        errors[backend] = Errors(seed_ranges(seeds), of_run)
    return seed_ranges(shared), errors


def _common_seeds(table: pd.DataFrame) -> list[int]:
    """Return the seeds (columns) that nearly all rows have, in order."""
    table = table.sort_index(axis="columns")
    there = table.notna().to_numpy()
    counts = there.sum(axis=0)
    have = np.ones(len(table), dtype=bool)
    common: list[int] = []
    for column in np.argsort(-counts, kind="stable"):
        with_it = have & there[:, column]
        if counts[column] and (not common or with_it.sum() >= _MOST * counts.max()):
            common.append(int(table.columns[column]))
            have = with_it
    return sorted(common)


def seed_ranges(seeds: Sequence[int]) -> str:
    """Return seeds in order as text: `0-2,5`."""
    ends: list[list[int]] = []
    for seed in seeds:
        if ends and seed == ends[-1][-1] + 1:
            ends[-1][1:] = [seed]
        else:
            ends.append([seed])
    return ",".join("-".join(map(str, end)) for end in ends)
