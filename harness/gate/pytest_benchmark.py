"""Judges benchmarks measured by pytest-benchmark: its JSON files from before and after a change.

Two files are one pair of processes. With several pairs, each gives one independent value, the
logarithm of the ratio of medians, and Student's t tells how well their mean is known. One pair is
two processes. Rounds inside a process do not show how fresh processes differ (where memory lies,
the hash seed), so that spread has to be assumed: `GateSettings.process_noise`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from harness.errors import InvalidInput, brief
from harness.gate.settings import GateSettings
from harness.gate.verdict import Judgement, Outcome, Verdict, decide
from harness.measure.clock import Stopwatch
from harness.stats import estimates
from harness.stats.estimates import Estimate

_BATCHES = 10
# For normal rounds: the standard error of the median over that of the mean, and the distance of the
# quartiles in standard deviations.
_MEDIAN_ERROR = 1.2533
_IQR = 1.349
_MORE_PAIRS = (
    "choose a larger number of pairs, measure that many anew and give only those "
    "(`--pytest-benchmark OLD NEW` for each); with pairs added to these until they decide, the "
    "error rates would no longer hold"
)


class Stats(BaseModel):
    """The times of a benchmark, in seconds."""

    mean: float = Field(gt=0, allow_inf_nan=False)
    stddev: float = Field(ge=0, allow_inf_nan=False)
    median: float = Field(gt=0, allow_inf_nan=False)
    iqr: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """The distance of the quartiles."""
    rounds: int = Field(ge=1)
    data: tuple[float, ...] | None = None
    """Every round; only with `--benchmark-json` or `--benchmark-save-data`."""

    @property
    def spread(self) -> float:
        """The standard deviation of a round, relative.

        From the quartiles if the file has them, since a rare interruption does not move those.
        """
        return self.stddev / self.mean if self.iqr is None else self.iqr / self.median / _IQR


class Benchmark(BaseModel):
    """A benchmark of a file."""

    fullname: str
    stats: Stats


class Machine(BaseModel):
    """The machine and the Python that the times depend on."""

    cpu: Mapping[str, Any] = {}
    python_implementation: str | None = None
    python_version: str | None = None

    def traits(self) -> dict[str, Any]:
        """Return what has to be equal for times to be comparable."""
        return {
            "processor": self.cpu.get("brand_raw"),
            "architecture": self.cpu.get("arch"),
            "number of cores": self.cpu.get("count"),
            "Python": self.python_implementation,
            "Python version": self.python_version,
        }


class File(BaseModel):
    """A JSON file of pytest-benchmark: one process."""

    machine_info: Machine
    commit_info: Mapping[str, Any] = {}
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)

    @cached_property
    def by_name(self) -> dict[str, Stats]:
        """The times of each benchmark."""
        return {benchmark.fullname: benchmark.stats for benchmark in self.benchmarks}

    @property
    def commit(self) -> str:
        """The commit, for a heading: ` (3f2a1c9, with changes)`; empty if it is not known."""
        commit = self.commit_info.get("id") or "unversioned"
        dirty = ", with changes" if self.commit_info.get("dirty") else ""
        return "" if commit == "unversioned" else f" ({str(commit)[:7]}{dirty})"


Paths: TypeAlias = Sequence[tuple[Path, Path]]
Files: TypeAlias = Sequence[tuple[File, File]]


def judge(pairs: Paths, settings: GateSettings) -> Verdict:
    """Judge pairs of files, each from before and after the change.

    A benchmark is a regression if its p-value, corrected for the number of benchmarks (Holm), is
    below `settings.false_alarms`. One that is missing after the change is inconclusive. Raises
    `InvalidInput` for files that cannot be compared.
    """
    with Stopwatch() as watch:
        _check_distinct(pairs)
        files = [(_read(old), _read(new)) for old, new in pairs]
        for paths, (old, new) in zip(pairs, files, strict=True):
            _check_machines(paths, old.machine_info.traits(), new.machine_info.traits())
        every = [file.by_name for pair in files for file in pair]
        names = list(dict.fromkeys(name for file in every for name in file))
        common = [name for name in names if all(name in file for file in every)]
        if not common:
            raise InvalidInput("the files have no benchmark in common.")
        changes = {name: _change(name, files, settings.process_noise) for name in common}
        missing = _missing(pairs, files)
        judgements = (*_judgements(changes, settings), *missing.values())
        partial = [name for name in names if name not in common and name not in missing]
    more = f" and {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
    (old_path, new_path), (old, new) = pairs[0], files[0]
    return Verdict(
        compared=f"{new_path}{new.commit} against {old_path}{old.commit}{more}",
        judgements=judgements,
        notes=tuple(_notes(pairs, files, settings, partial)),
        seconds=watch.seconds,
    )


def _read(path: Path) -> File:
    """Read a file; raise `InvalidInput` if it is not from pytest-benchmark or has bad times."""
    try:
        file = File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"`{path}` cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise InvalidInput(
            f"`{path}` cannot be read as JSON of pytest-benchmark: {brief(error)}."
        ) from error
    names = [benchmark.fullname for benchmark in file.benchmarks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(f"`{path}`: benchmark `{twice[0]}` is in it twice.")
    for name, stats in file.by_name.items():
        for time_s in stats.data or ():
            if not 0 < time_s < math.inf:
                raise InvalidInput(
                    f"`{path}`: benchmark `{name}` has a round of {time_s} s; "
                    "times are positive numbers."
                )
    return file


def _check_distinct(pairs: Paths) -> None:
    """Refuse a file in two pairs: the pairs would not be independent."""
    seen: set[Path] = set()
    for pair in pairs:
        resolved = {path.resolve() for path in pair}
        if again := seen & resolved:
            raise InvalidInput(
                f"`{min(again)}` is in two pairs; each pair is two processes of its own."
            )
        seen |= resolved


def _check_machines(
    paths: tuple[Path, Path], old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    differing = [f"{name} ({old[name]}, {new[name]})" for name in old if old[name] != new[name]]
    if differing:
        raise InvalidInput(
            f"`{paths[0]}` and `{paths[1]}` were measured under different conditions: "
            f"{'; '.join(differing)}. Measure both on one machine."
        )


def _missing(pairs: Paths, files: Files) -> dict[str, Judgement]:
    """Return a judgement for each benchmark that is only in the file before the change.

    pytest-benchmark leaves out whatever raises an exception.
    """
    return {
        name: Judgement(
            subject=name,
            metric="time",
            outcome="inconclusive",
            reason=f"it is in `{paths[0]}`, but not in `{paths[1]}`: it failed or was not run. "
            "Measure it, or, if it is meant to be gone, leave it out before the change, too",
        )
        for paths, (old, new) in zip(pairs, files, strict=True)
        for name in old.by_name
        if name not in new.by_name
    }


def _change(name: str, files: Files, process_noise: float) -> Estimate:
    """Estimate the change of the logarithm of a time."""
    pairs = [(old.by_name[name], new.by_name[name]) for old, new in files]
    if len(pairs) > 1:
        medians = np.array([[old.median, new.median] for old, new in pairs])
        return estimates.mean(np.diff(np.log(medians))[:, 0])
    old, new = pairs[0]
    raw = bool(old.data and new.data)
    within = estimates.welch(_level(old, raw), _level(new, raw))
    # Two processes with a spread each; that spread counts as known.
    between = Estimate(0.0, math.sqrt(2) * process_noise, math.inf, n=1)
    return estimates.welch(between, within)


def _level(times: Stats, raw: bool) -> Estimate:
    """Estimate the logarithm of a time from the rounds of one process.

    Neighbouring rounds are alike, so `raw` rounds count as some ten batches (batch means; here the
    median of each batch, since a rare interruption is no property of the code). Without them, the
    delta method is used on median and spread, as if rounds were independent.
    """
    if raw and times.data:
        batches = np.array_split(np.array(times.data), min(_BATCHES, len(times.data)))
        return estimates.mean(np.array([math.log(np.median(batch)) for batch in batches]))
    n = times.rounds
    error = _MEDIAN_ERROR * min(times.spread, 1e6) / math.sqrt(n)
    return Estimate(math.log(times.median), error, n - 1, n)


def _judgements(changes: Mapping[str, Estimate], settings: GateSettings) -> list[Judgement]:
    corrected = estimates.holm([change.p_above() for change in changes.values()])
    tolerance = settings.max_slowdown
    judgements = []
    for (name, change), p in zip(changes.items(), corrected, strict=True):
        outcome = decide(change, math.log1p(tolerance), settings.false_alarms, settings.misses, p)
        reason = _advice(change, outcome)
        judgements.append(Judgement.of_logarithm(name, "time", outcome, change, tolerance, reason))
    return judgements


def _advice(change: Estimate, outcome: Outcome) -> str:
    """Return what to do if nothing could be decided."""
    if outcome != "inconclusive":
        return ""
    if not change.df:
        return f"a single round shows no spread: measure more rounds, or {_MORE_PAIRS}"
    return f"allow more with `--max-slowdown`, or {_MORE_PAIRS}"


def _notes(pairs: Paths, files: Files, settings: GateSettings, partial: Sequence[str]) -> list[str]:
    notes = []
    if len(pairs) == 1:
        notes.append(
            "one pair of files does not show how fresh processes differ; a standard deviation of "
            f"{100 * settings.process_noise:.2g} % between them is assumed (`process_noise`), and "
            "that the machine was equally busy with both."
        )
        without_rounds = [
            f"`{path}`"
            for path, file in zip(pairs[0], files[0], strict=True)
            if not all(benchmark.stats.data for benchmark in file.benchmarks)
        ]
        if without_rounds:
            notes.append(
                f"no single rounds in {' and '.join(without_rounds)}: median, spread and number of "
                "rounds are used instead, as if rounds were independent (`--benchmark-save-data` "
                "saves them)."
            )
    if partial:
        notes.append(f"not in every file, and not judged: {', '.join(partial)}.")
    return notes
