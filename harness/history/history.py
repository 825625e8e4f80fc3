"""All runs among results, in the order of time: how fast and how accurate each backend was.

Only what is alike is in one series: the same task on the same kind of machine and device, with as
many threads, processes shared alike, and as many seeds trained at once. What was measured beside
other trials (packed runs) counts for accuracy only. A series has a row per run, which holds

- the training time per epoch, and as a ratio to that of a reference backend in the same blocks,
  which what the machine was like on the day has no part in,
- the error over seeds which are the same for all backends and in nearly all of their runs: another
  seed is another problem. Where a backend lacks them, it is said which its errors are over.

What of a machine is software (system, Python, drivers), and packages, may differ within a series:
to see what they change is what it is for. Where a step is found, it is said which of them changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.backend.protocol import Array
from harness.errors import UnknownName
from harness.history.archive import Archive, Environment, RunInfo, read_archive
from harness.stats import estimates
from harness.stats.changepoints import FEWEST, Step, find_steps
from harness.tables import numbers
from harness.tables.from_records import IntArray
from harness.tables.metrics import METRICS
from harness.tables.pairs import of_arm, pair
from harness.tables.summary import FLOOR
from harness.tables.text import render
from harness.task.task import PRESETS, Task

Measure: TypeAlias = Literal["ratio", "epoch_s", "final_mse"]

HISTORY = {
    "run": "string",
    "started_utc": "string",
    "task": "string",
    "node_kind": "string",
    "device": "string",
    "isolation": "string",
    "at_once": "int64",
    "backend": "string",
    "commit": "string",
    "commit_backend": "string",
    "dirty_backend": "string",
    "commit_harness": "string",
    "dirty_harness": "string",
    "seeds": "int64",
    "trials": "int64",
    "noisy": "int64",
    "contended": "bool",
    "blocks": "int64",
    "epoch_s": "float64",
    "epoch_s_low": "float64",
    "epoch_s_high": "float64",
    "relative_to": "string",
    "ratio": "float64",
    "ratio_low": "float64",
    "ratio_high": "float64",
    "final_mse": "float64",
    "final_mse_low": "float64",
    "final_mse_high": "float64",
    "mse_seeds": "string",
}
STEPS = {
    "measure": "string",
    "backend": "string",
    "device": "string",
    "relative_to": "string",
    "task": "string",
    "node_kind": "string",
    "isolation": "string",
    "at_once": "int64",
    "run": "string",
    "started_utc": "string",
    "commit": "string",
    "last_run": "string",
    "last_commit": "string",
    "earliest_run": "string",
    "latest_run": "string",
    "change": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "runs_before": "int64",
    "runs_after": "int64",
    "also_changed": "string",
    "words": "string",
}
# Of an environment, what is told elsewhere, and what all machines of a kind have in common.
_NO_CHANGE = re.compile(r"(commit|dirty):|(cores|cores_used|memory_gb|cpu|cpu_quota|gpu|nice)$")
_MOST = 0.9
"""The seeds that errors are over are those which this share of the runs has."""
_SAME_MSE = 0.01
"""Errors nearer than this are the same, as in the comparison of backends."""
_CONDITIONS = ("node_kind", "device", "isolation", "at_once")


class Group(NamedTuple):
    """What the backends in it may be compared in."""

    task: Task
    node_kind: str
    device: str
    isolation: str
    at_once: int

    @property
    def what(self) -> str:
        """The task, in words."""
        return name_of(self.task)


@dataclass(frozen=True)
class Series:
    """A measure of a backend over time, and its steps."""

    group: Group
    backend: str
    relative_to: str | None
    measure: Measure
    rows: pd.DataFrame
    """Of `HISTORY`: the runs that have it, the oldest first."""
    steps: Sequence[Step]
    tested: bool
    """Whether there are runs enough for a step to be found."""

    @property
    def seeds(self) -> str | None:
        """The seeds that an error is over, the same in all rows; a time has none."""
        return str(self.rows["mse_seeds"].iloc[0]) if self.measure == "final_mse" else None

    @property
    def values(self) -> Array:
        """What is searched for steps: logarithms [n]."""
        return _logarithms(self.rows, self.measure)


class _Errors(NamedTuple):
    """The logarithms of the errors of a backend, by number of the run."""

    seeds: str
    of_run: Mapping[int, estimates.Estimate]


class History:
    """The runs among results as series.

    Raises `InvalidInput` if there are none, and `UnknownName` for a backend that is in none.
    `backends` are those to be shown; `relative_to` is the reference, by default that in most runs.
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
        """A sentence for all that was left out."""
        self.runs = len(archive.runs)
        known = sorted(set(archive.trials["backend"]))
        for name in [*backends, *([relative_to] if relative_to is not None else [])]:
            if name not in known:
                raise UnknownName("backend", name, known, hint=f" in the runs in `{results}`")
        self._environments = archive.environments
        self._numbers = {run.name: number for number, run in enumerate(archive.runs)}
        self.references: dict[Group, str | None] = {}
        """The backend that ratios of a group are formed with, if there are any."""
        self.mse_seeds: dict[Group, str] = {}
        """The seeds that errors of a group are over, as `0-2`, where a row does not say others."""
        parts: list[pd.DataFrame] = []
        self._parts: list[tuple[Group, str, pd.DataFrame]] = []
        for group, trials in _groups(archive):
            reference = _reference(trials, relative_to)
            self.references[group] = reference
            seeds, errors = _errors(trials)
            self.mse_seeds[group] = _seed_ranges(seeds)
            for backend in dict.fromkeys(sorted(trials["backend"])):
                if not backends or backend in backends:
                    rows = _rows(group, backend, reference, trials, errors[backend], archive)
                    self._parts.append((group, backend, rows))
                    parts.append(rows)
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*HISTORY])
        self.table = table.astype(HISTORY)
        """A row per run and series, with the columns `HISTORY`: groups first, then in time."""

    @cached_property
    def series(self) -> list[Series]:
        """What is searched for steps: of each backend the ratio, or else the time, and the error.

        The reference has no ratio to itself, and what was mostly measured alone has none either.
        """
        wanted = []
        for group, backend, rows in self._parts:
            with_ratio = int(rows["ratio"].notna().sum())
            time: Measure = "ratio" if 2 * with_ratio > rows["epoch_s"].notna().sum() else "epoch_s"
            measures: tuple[Measure, Measure] = (time, "final_mse")
            for measure in measures:
                there = rows[rows[measure] > 0].reset_index(drop=True)
                if len(there):
                    wanted.append((group, backend, measure, there))
        tests = sum(len(there) >= FEWEST for *_, there in wanted)
        return [
            Series(
                group,
                backend,
                self.references[group] if measure == "ratio" else None,
                measure,
                there,
                find_steps(
                    _logarithms(there, measure),
                    tests=tests,
                    margin=np.log1p(_SAME_MSE) if measure == "final_mse" else 0.0,
                ),
                len(there) >= FEWEST,
            )
            for group, backend, measure, there in wanted
        ]

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A row per step, with the columns `STEPS`, the newest first."""
        rows = [self._step(series, step) for series in self.series for step in series.steps]
        rows.sort(key=lambda row: (row["started_utc"], row["run"]), reverse=True)
        return pd.DataFrame(rows, columns=list(STEPS)).astype(STEPS)

    @cached_property
    def latest(self) -> pd.DataFrame:
        """The newest row of each series of the table, with `runs`: how many it has."""
        rows = [part.iloc[-1:].assign(runs=len(part)) for _, _, part in self._parts]
        return pd.concat(rows, ignore_index=True).astype(HISTORY | {"runs": "int64"})

    @property
    def conclusion(self) -> list[str]:
        """What the steps come to, a sentence each."""
        tested = sum(series.tested for series in self.series)
        short = len(self.series) - tested
        said = self.steps["words"].tolist()
        if tested and not said:
            said = [f"no step shown in {tested} series"]
        if short:
            few = f"{short} series {'have' if short > 1 else 'has'} fewer than {FEWEST} runs"
            said.append(f"{few}: too few to look for a step")
        return said

    def newest(self) -> pd.DataFrame:
        """Return `latest` for people, with the last step of each series in time."""
        groups = list(self.references)
        rows = []
        for (group, backend, part), row in zip(
            self._parts, self.latest.to_dict("records"), strict=True
        ):
            steps = [
                (step, series)
                for series in self.series
                if (series.group, series.backend) == (group, backend)
                and series.measure != "final_mse"
                for step in series.steps
            ]
            seeds = row["mse_seeds"]
            differ = not pd.isna(seeds) and seeds != self.mse_seeds[group]
            other = f" (only seeds {seeds})" if differ else ""
            rows.append(
                ({"group": _letter(groups.index(group))} if groups[1:] else {})
                | {
                    "backend": backend,
                    "device": group.device,
                    "runs": len(part),
                    "newest": row["run"],
                    "commit": short(row["commit"]) or "-",
                    "ok": f"{row['seeds']}/{row['trials']}",
                    "ms/epoch": numbers.number(1e3 * row["epoch_s"]),
                    "ratio [95 %]": _value(row, "ratio"),
                    "MSE [95 %]": _value(row, "final_mse") + other,
                    "mse_seeds": "-" if pd.isna(seeds) else seeds,
                    "last step in time": _last_step(*steps[-1]) if steps else "-",
                }
            )
        return pd.DataFrame(rows)

    def legend(self) -> list[str]:
        """Say what the groups are, and with whom ratios are formed."""
        said = []
        for number, (group, reference) in enumerate(self.references.items()):
            what = f"{group.what}; {group.node_kind}; {group.device}"
            what += f"; isolation {group.isolation}" * (group.isolation != "process")
            what += f"; {group.at_once} seeds at once" * (group.at_once > 1)
            ratio = f"ratios to {reference}" if reference else "one backend: no ratios"
            letter = f"group {_letter(number)}: " if len(self.references) > 1 else ""
            seeds = self.mse_seeds[group]
            mse = f"; MSE over seeds {seeds}, where no others are named" if seeds else ""
            said.append(f"{letter}{what}; {ratio}{mse}")
        return said

    def render(self, kind: str, width: int = 80) -> str:
        """Return the history as text, in one of `harness.tables.text.FORMATS`.

        For people the steps in words and the newest row of each series; CSV has `table`, JSON
        `steps`, `latest` and `history`, each a list.
        """
        if kind == "csv":
            return render(self.table, kind)
        if kind == "json":
            parts = {"steps": self.steps, "latest": self.latest, "history": self.table}
            texts = (f'"{name}": {render(part, kind).rstrip()}' for name, part in parts.items())
            return "{" + ",\n".join(texts) + "}\n"
        bullet = "- " if kind == "markdown" else ""
        said, legend = (
            "".join(f"{bullet}{sentence}\n" for sentence in sentences)
            for sentences in (self.conclusion, self.legend())
        )
        keys = 1 + (len(self.references) > 1)
        table = render(self.newest(), kind, width, "Newest run of each series", keys=keys)
        return "\n".join((said, table, legend))

    def _step(self, series: Series, step: Step) -> dict[str, Any]:
        rows, group = series.rows, series.group
        first, last = rows.iloc[step.at], rows.iloc[step.at - 1]
        edges = [0, *(other.at for other in series.steps), len(rows)]
        number = edges.index(step.at)
        change, low, high = map(np.exp, (step.change.value, *step.change.interval()))
        told = {
            "measure": series.measure,
            "backend": series.backend,
            "relative_to": series.relative_to,
            "task": group.what,
            **{name: getattr(group, name) for name in _CONDITIONS},
            "run": first["run"],
            "started_utc": first["started_utc"],
            "commit": first["commit"],
            "last_run": last["run"],
            "last_commit": last["commit"],
            "earliest_run": rows["run"].iloc[step.earliest],
            "latest_run": rows["run"].iloc[step.latest],
            "change": change,
            "low": low,
            "high": high,
            "p": step.p,
            "runs_before": step.at - edges[number - 1],
            "runs_after": edges[number + 1] - step.at,
            "also_changed": "; ".join(self._also_changed(series, last["run"], first["run"])),
        }
        return told | {"words": self._words(series, step, told)}

    def _also_changed(self, series: Series, before: str, after: str) -> Iterator[str]:
        """Say what else differs between two runs: packages, the system, settings."""
        seen = set()
        for backend in filter(None, (series.backend, series.relative_to)):
            there, here = (
                self._environments.get(
                    (self._numbers[run], backend, series.group.device, series.group.node_kind), {}
                )
                for run in (before, after)
            )
            for name in dict.fromkeys([*there, *here]):
                old, new = there.get(name, "none"), here.get(name, "none")
                if old == new or _NO_CHANGE.match(name) or name in seen:
                    continue
                seen.add(name)
                yield f"{name.removeprefix('version:')} {old} -> {new}"
            old, new = (env.get("commit:harness", "") for env in (there, here))
            if old != new and there.get("commit:backend") != old and "harness" not in seen:
                seen.add("harness")
                yield f"harness {short(old) or 'none'} -> {short(new) or 'none'}"

    def _words(self, series: Series, step: Step, told: Mapping[str, Any]) -> str:
        """Say in a sentence what changed by how much, where, and what else did."""
        who = f"{series.backend} on {series.group.device}"
        what = _change(told, series.measure)
        if series.measure == "final_mse":
            said = f"the MSE of {who} {what}"
        else:
            said = f"{who} {what}"
            if series.relative_to:
                said += f" relative to {series.relative_to}"
        date = str(told["started_utc"])[:10]
        commit, last = (
            None if pd.isna(told[name]) else told[name] for name in ("commit", "last_commit")
        )
        if commit and commit != last:
            said += f" at {short(commit)} (run {told['run']}, {date})"
            worse = told["change"] > 1
            said += f", last {'good' if worse else 'before'} {short(last)}" if last else ""
        else:
            said += f" at run {told['run']}, {date}"
            said += f", with no change of commit ({short(commit)})" if commit else ""
        rows = series.rows
        if step.earliest < step.latest:
            ends = [rows["run"].iloc[end] for end in (step.earliest, step.latest)]
            said += f"; or anywhere from run {ends[0]} to {ends[1]}"
        changed = list(filter(None, str(told["also_changed"]).split("; ")))
        if changed:
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            said += f"; also changed: {', '.join(changed[:4])}{more}"
        if series.relative_to and self._reference_moved(series, step):
            said += f"; {series.relative_to} itself changed about there, too"
        return said + self._where(series.group)

    def _reference_moved(self, series: Series, step: Step) -> bool:
        """Whether the reference's own time has a step where that of the ratio may be."""
        runs = set(series.rows["run"].iloc[step.earliest : step.latest + 1])
        return any(
            not runs.isdisjoint(other.rows["run"].iloc[there.earliest : there.latest + 1])
            for other in self.series
            if other.group == series.group
            and other.backend == series.relative_to
            and other.measure == "epoch_s"
            for there in other.steps
        )

    def _where(self, group: Group) -> str:
        """Name what tells a group from the others that there are."""
        groups = list(self.references)
        told = [
            text
            for name, text in (
                ("task", f"task {group.what}"),
                ("node_kind", group.node_kind),
                ("isolation", f"isolation {group.isolation}"),
                ("at_once", f"{group.at_once} seeds at once"),
            )
            if len({getattr(other, name) for other in groups}) > 1
        ]
        return f" [{', '.join(told)}]" if told else ""


def name_of(task: Task) -> str:
    """Return the name of a preset, or the fields in which a task differs from the default."""
    for name in PRESETS:
        if task == Task.preset(name):
            return name
    default = Task()
    fields = {name: getattr(task, name) for name in Task.model_fields}
    changed = (f"{n}={v}" for n, v in fields.items() if v != getattr(default, n))
    return ", ".join(changed)


def short(commit: Any) -> str:
    """Return a commit as people write it."""
    text = "" if commit is None or pd.isna(commit) else str(commit)
    return text[:7] + "+" * text.endswith("+")


def _letter(number: int) -> str:
    return chr(ord("A") + number % 26) * (1 + number // 26)


def _value(row: Mapping[Any, Any], name: str) -> str:
    return numbers.number(row[name]) + numbers.interval(row[f"{name}_low"], row[f"{name}_high"])


def _last_step(step: Step, series: Series) -> str:
    row = series.rows.iloc[step.at]
    return f"{numbers.change(np.exp(step.change.value))} at {short(row['commit']) or row['run']}"


def _change(told: Mapping[str, Any], measure: Measure) -> str:
    """Say what a change is: `became 4.9 % slower [4.1, 5.7]`."""
    change, low, high = (float(told[name]) for name in ("change", "low", "high"))
    sign, time = 1 if change > 1 else -1, measure != "final_mse"
    if not 0.5 < change < 2:
        verb, as_ = ("takes", "as long") if time else ("is", "as large")
        return f"{verb} {change:.3g} times {as_} [{low:.3g}, {high:.3g}]"
    ends = sorted(sign * 100 * (ratio - 1) for ratio in (low, high))
    word = {(True, 1): "slower", (True, -1): "faster", (False, 1): "higher", (False, -1): "lower"}
    interval = f"[{ends[0]:.1f}, {ends[1]:.1f}]"
    return f"became {sign * 100 * (change - 1):.1f} % {word[time, sign]} {interval}"


def _commit(environment: Environment) -> str | None:
    """Return the commit of the backend, or else the harness's; `+`: with changes of its own."""
    for whose in ("backend", "harness"):
        if f"commit:{whose}" in environment:
            dirty = environment.get(f"dirty:{whose}") == "yes"
            return environment[f"commit:{whose}"] + "+" * dirty
    return None


def _groups(archive: Archive) -> Iterator[tuple[Group, pd.DataFrame]]:
    """Yield what may be compared with each other, and its trials."""
    keys = ["task", "node_kind", "device", "isolation", "together"]
    parts: Iterable[tuple[Any, pd.DataFrame]] = archive.trials.groupby(keys, sort=False)
    for (task, kind, device, isolation, together), there in parts:
        yield Group(archive.tasks[task], kind, device, isolation, int(together)), there


def _logarithms(rows: pd.DataFrame, measure: Measure) -> Array:
    values: Array = np.log(rows[measure].to_numpy(dtype=float))
    return values


def _reference(trials: pd.DataFrame, wanted: str | None) -> str | None:
    """Return the backend that the others of a group are divided by, if there is one.

    That in most runs; of several the floor, then the first by name.
    """
    timed = trials[(trials["status"] == "ok") & ~trials["contended"]]
    runs = timed.groupby("backend")["run"].nunique()
    if wanted is not None:
        return wanted if wanted in runs.index else None
    if len(runs) < 2:
        return None
    return str(min(runs.index, key=lambda name: (-runs[name], name != FLOOR[0], name)))


def _rows(
    group: Group,
    backend: str,
    reference: str | None,
    trials: pd.DataFrame,
    errors: _Errors,
    archive: Archive,
) -> pd.DataFrame:
    """Return the rows of a backend in a group, the oldest run first."""
    arm = (backend, group.device)
    mine = of_arm(trials, arm)
    timed = trials[_in_whole_block(trials, group.at_once)]
    times = _epoch_times(timed, arm)
    ratios: dict[int, estimates.Estimate] = {}
    if reference not in (None, backend):
        ratios = _ratios(timed, arm, (str(reference), group.device), archive.runs)
    rows = []
    for number, count in _counts(mine):
        run = archive.runs[number]
        source = (number, backend, group.device, group.node_kind)
        environment = archive.environments.get(source, {})
        rows.append(
            {
                "run": run.name,
                "started_utc": run.started.isoformat(),
                "task": group.what,
                **{name: getattr(group, name) for name in _CONDITIONS},
                "backend": backend,
                "commit": _commit(environment),
                "relative_to": reference if number in ratios else None,
                "blocks": times[number].n if number in times else 0,
                "mse_seeds": errors.seeds if number in errors.of_run else None,
            }
            | {
                f"{what}_{whose}": environment.get(f"{what}:{whose}")
                for whose in ("backend", "harness")
                for what in ("commit", "dirty")
            }
            | count
            | _natural("epoch_s", times.get(number))
            | _natural("ratio", ratios.get(number))
            | _natural("final_mse", errors.of_run.get(number))
        )
    return pd.DataFrame(rows, columns=list(HISTORY)).astype(HISTORY)


def _counts(trials: pd.DataFrame) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each run, and how many of its trials ended ok, and how."""
    ok = trials["status"] == "ok"
    counted = trials.assign(ok=ok, noisy=ok & trials["noisy"].fillna(False)).groupby("run")
    counts = counted.agg(
        seeds=("ok", "sum"),
        trials=("ok", "size"),
        noisy=("noisy", "sum"),
        contended=("contended", "any"),
    )
    yield from zip(counts.index, counts.to_dict("records"), strict=True)


def _natural(name: str, estimate: estimates.Estimate | None) -> dict[str, float]:
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
    low, high = estimate.interval()
    values = zip((name, f"{name}_low", f"{name}_high"), (estimate.value, low, high), strict=True)
    return {key: float(np.exp(value)) for key, value in values}


def _in_whole_block(trials: pd.DataFrame, at_once: int) -> npt.NDArray[np.bool]:
    """Say of each trial whether its block is of as many seeds as are trained at once.

    The last one may be of fewer, which take longer each.
    """
    if at_once == 1:
        return np.ones(len(trials), dtype=bool)
    return (trials.groupby("block")["seed"].transform("nunique") == at_once).to_numpy()


def _epoch_times(trials: pd.DataFrame, arm: tuple[str, str]) -> dict[int, estimates.Estimate]:
    """Estimate the logarithm of the training time of an epoch, in each run."""
    mine = of_arm(trials, arm)
    mine = mine[(mine["status"] == "ok") & ~mine["contended"]]
    values = mine[["run", "block"]].assign(value=METRICS["train_s"].values(mine)).dropna()
    by_block = values.groupby(["run", "block"], sort=True)["value"].mean()
    return _by_run(
        by_block.index.get_level_values("run").to_numpy(), by_block.to_numpy(dtype=float)
    )


def _ratios(
    trials: pd.DataFrame, arm: tuple[str, str], reference: tuple[str, str], runs: Sequence[RunInfo]
) -> dict[int, estimates.Estimate]:
    """Estimate the logarithm of the ratio of training times, in each run."""
    both = pair(trials, arm, reference, METRICS["train_s"])
    blocks = trials.drop_duplicates("block").set_index("block")[["run", "block_in_run"]]
    where = blocks.loc[both.blocks.tolist()]
    numbers = where["run"].to_numpy(dtype=np.int64)
    of_pilot = where["block_in_run"].to_numpy() < np.array([run.pilot for run in runs])[numbers]
    return _by_run(numbers, both.differences, of_pilot)


def _errors(trials: pd.DataFrame) -> tuple[list[int], dict[str, _Errors]]:
    """Choose the seeds of a group, and estimate the errors of each of its backends over them.

    A backend most of whose runs lack them has seeds of its own.
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
        errors[backend] = _Errors(_seed_ranges(seeds), of_run)
    return shared, errors


def _common_seeds(table: pd.DataFrame) -> list[int]:
    """Return the seeds (columns) that nearly all rows have, in order."""
    counts = table.notna().sum().sort_index()
    have = np.ones(len(table), dtype=bool)
    common: list[int] = []
    for seed in counts[counts > 0].sort_values(ascending=False, kind="stable").index:
        with_it = have & table[seed].notna().to_numpy()
        if not common or with_it.sum() >= _MOST * counts.max():
            common.append(seed)
            have = with_it
    return sorted(common)


def _seed_ranges(seeds: Sequence[int]) -> str:
    """Return seeds in order as text: `0-2,5`."""
    text = ""
    for at, seed in enumerate(seeds):
        if at and seed == seeds[at - 1] + 1:
            if seed + 1 not in seeds[at + 1 : at + 2]:
                text += f"-{seed}"
        else:
            text += f"{',' * bool(at)}{seed}"
    return text


def _by_run(
    numbers: IntArray, values: Array, of_pilot: npt.NDArray[np.bool] | None = None
) -> dict[int, estimates.Estimate]:
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
