"""All runs of a results folder in the order of time: how fast and accurate each backend was.

A series holds only what is alike: the same task on the same kind of machine and device, with the
same number of threads, timed in the same way, and as many seeds trained at once. Runs with other
trials beside them (packed) count for accuracy only. A series has a row per run, with

- the training time per epoch, and its ratio to that of a reference backend in the same blocks,
  which does not depend on the state of the machine on that day,
- the error over seeds which are the same for all backends and in nearly all of their runs, since
  another seed is another problem. Where a backend lacks them, its row says which seeds it has.

Software (system, Python, drivers, packages) may differ within a series: a history shows what they
change. A change point names those that changed there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import UnknownName
from harness.history import wording
from harness.history.archive import read_archive
from harness.history.series import (
    HISTORY,
    Group,
    Measure,
    Series,
    errors_of,
    groups_of,
    logarithms,
    reference_of,
    rows_of,
)
from harness.stats.changepoints import FEWEST, ChangePoint, find_change_points
from harness.tables.columns import columns

CHANGE_POINTS = columns(
    "measure backend device relative_to task node_kind timing at_once run started_utc commit "
    "last_run last_commit earliest_run latest_run change low high p runs_before runs_after "
    "also_changed words"
)
# Fields of an environment that other columns hold, or that are the same on all nodes of a kind.
_NO_CHANGE = re.compile(r"(commit|dirty):|(cores|cores_used|memory_gb|cpu|cpu_quota|gpu|nice)$")
_SAME_MSE = 0.01
"""Errors nearer than this are the same, as in the comparison of backends."""


class History:
    """The runs of a results folder as series.

    `backends` are those to be shown; `relative_to` is the reference, by default the backend in most
    runs. Raises `InvalidInput` if there are no runs, and `UnknownName` for a backend in none.
    """

    def __init__(
        self,
        results: str | Path = "results",
        backends: Sequence[str] = (),
        relative_to: str | None = None,
    ) -> None:
        self.location = str(results)
        archive = read_archive(results)
        self.warnings: list[str] = archive.warnings
        """A sentence for each run or record that was left out."""
        self.runs = len(archive.runs)
        known = sorted(set(archive.trials["backend"]))
        for name in [*backends, *([relative_to] if relative_to is not None else [])]:
            if name not in known:
                raise UnknownName("backend", name, known, hint=f" in the runs in `{results}`")
        self._environments = archive.environments
        self._numbers = {run.name: number for number, run in enumerate(archive.runs)}
        self.references: dict[Group, str | None] = {}
        """The backend that the ratios of a group are formed with, if there is one."""
        self.mse_seeds: dict[Group, str] = {}
        """The seeds that the errors of a group are over, as `0-2`, unless a row says others."""
        self.parts: list[tuple[Group, str, pd.DataFrame]] = []
        """The rows of each backend in each group, the oldest run first."""
        for group, trials in groups_of(archive):
            reference = self.references[group] = reference_of(trials, relative_to)
            self.mse_seeds[group], errors = errors_of(trials)
            for backend in sorted(set(trials["backend"])):
                if not backends or backend in backends:
                    rows = rows_of(group, backend, reference, trials, errors[backend], archive)
                    self.parts.append((group, backend, rows))
        parts = [rows for *_, rows in self.parts]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*HISTORY])
        self.table = table.astype(HISTORY)
        """A row per run and series, with the columns `HISTORY`: by group, then in time."""

    @cached_property
    def series(self) -> list[Series]:
        """The series searched for change points: of each backend the ratio or time, and the error.

        The time is searched where the ratio is missing: for the reference, and for a backend that
        was mostly measured alone.
        """
        wanted: list[tuple[Group, str, Measure, pd.DataFrame]] = []
        for group, backend, rows in self.parts:
            with_ratio = int(rows["ratio"].notna().sum())
            time: Measure = "ratio" if 2 * with_ratio > rows["epoch_s"].notna().sum() else "epoch_s"
            measures: tuple[Measure, Measure] = (time, "final_mse")
            for measure in measures:
                known = rows[rows[measure] > 0].reset_index(drop=True)
                if len(known):
                    wanted.append((group, backend, measure, known))
        tests = sum(len(rows) >= FEWEST for *_, rows in wanted)
        return [
            Series(
                group,
                backend,
                self.references[group] if measure == "ratio" else None,
                measure,
                rows,
                find_change_points(
                    logarithms(rows, measure),
                    tests=tests,
                    margin=np.log1p(_SAME_MSE) if measure == "final_mse" else 0.0,
                    counts=None if measure == "final_mse" else rows["blocks"].to_numpy(),
                ),
                len(rows) >= FEWEST,
            )
            for group, backend, measure, rows in wanted
        ]

    @cached_property
    def change_points(self) -> pd.DataFrame:
        """A row per change point, with the columns `CHANGE_POINTS`, the newest first."""
        rows = [
            self._row(series, number)
            for series in self.series
            for number in range(len(series.change_points))
        ]
        rows.sort(key=lambda row: (row["started_utc"], row["run"]), reverse=True)
        return pd.DataFrame(rows, columns=list(CHANGE_POINTS)).astype(CHANGE_POINTS)

    @cached_property
    def latest(self) -> pd.DataFrame:
        """The newest row of each series of the table, with `runs`: how many it has."""
        rows = [rows.iloc[-1:].assign(runs=len(rows)) for *_, rows in self.parts]
        return pd.concat(rows, ignore_index=True).astype(HISTORY | {"runs": "int64"})

    def _row(self, series: Series, number: int) -> dict[str, Any]:
        rows, point = series.rows, series.change_points[number]
        edges = [0, *(other.at for other in series.change_points), len(rows)]
        first, last = rows.iloc[point.at], rows.iloc[point.at - 1]
        change, low, high = map(np.exp, (point.change.value, *point.change.interval()))
        row = {
            "measure": series.measure,
            "backend": series.backend,
            "relative_to": series.relative_to,
            **series.group.columns,
            "run": first["run"],
            "started_utc": first["started_utc"],
            "commit": first["commit"],
            "last_run": last["run"],
            "last_commit": last["commit"],
            "earliest_run": rows["run"].iloc[point.earliest],
            "latest_run": rows["run"].iloc[point.latest],
            "change": change,
            "low": low,
            "high": high,
            "p": point.p,
            "runs_before": point.at - edges[number],
            "runs_after": edges[number + 2] - point.at,
            "also_changed": "; ".join(self._also_changed(series, last["run"], first["run"])),
        }
        text = wording.sentence(row, series, self._reference_moved(series, point))
        return row | {"words": text + wording.conditions(series.group, list(self.references))}

    def _also_changed(self, series: Series, before: str, after: str) -> Iterator[str]:
        """Yield what else differs between two runs: packages, the system, settings."""
        seen = set()
        for backend in filter(None, (series.backend, series.relative_to)):
            old, new = (
                self._environments.get(
                    (self._numbers[run], backend, series.group.device, series.group.node_kind), {}
                )
                for run in (before, after)
            )
            for name in dict.fromkeys([*old, *new]):
                was, became = old.get(name, "none"), new.get(name, "none")
                if was != became and not _NO_CHANGE.match(name) and name not in seen:
                    seen.add(name)
                    yield f"{name.removeprefix('version:')} {was} -> {became}"
            was, became = (env.get("commit:harness", "") for env in (old, new))
            if was != became and old.get("commit:backend") != was and "harness" not in seen:
                seen.add("harness")
                was, became = (wording.short_commit(commit) or "none" for commit in (was, became))
                yield f"harness {was} -> {became}"

    def _reference_moved(self, series: Series, point: ChangePoint) -> bool:
        """Whether the time of the reference may have changed at the same runs as this ratio."""
        if not series.relative_to:
            return False
        runs = set(series.rows["run"].iloc[point.earliest : point.latest + 1])
        return any(
            not runs.isdisjoint(other.rows["run"].iloc[its.earliest : its.latest + 1])
            for other in self.series
            if (other.group, other.backend) == (series.group, series.relative_to)
            and other.measure == "epoch_s"
            for its in other.change_points
        )
