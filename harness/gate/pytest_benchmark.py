"""Judges benchmarks measured by pytest-benchmark: its JSON files from before and after a change.

Two files are one pair of processes. Of several pairs, each is one independent value: the logarithm
of the ratio of medians, and Student's t says what is known of their mean. One pair alone holds two
processes, and rounds inside a process say nothing of how fresh processes differ (where memory came
to lie, how the hash seed fell), so that spread has to be assumed: `GateSettings.process_noise`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from harness.errors import InvalidInput, brief
from harness.gate.settings import GateSettings
from harness.gate.verdict import Finding, Outcome, Verdict, decide, finding
from harness.measure.clock import Stopwatch
from harness.stats import estimates
from harness.stats.estimates import Estimate

_BATCHES = 10
# Of normal rounds: the standard error of their median in that of their mean, and how many standard
# deviations their quartiles are apart.
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
    """How far apart the quartiles are."""
    rounds: int = Field(ge=1)
    data: tuple[float, ...] | None = None
    """Every round; only with `--benchmark-json` or `--benchmark-save-data`."""

    @property
    def spread(self) -> float:
        """The standard deviation of a round as a share of it.

        By the quartiles, if the file has them: those do not move for a rare interruption.
        """
        if self.iqr is None:
            return self.stddev / self.mean
        return self.iqr / self.median / _IQR


class Benchmark(BaseModel):
    """A benchmark of a file."""

    fullname: str
    stats: Stats


class Machine(BaseModel):
    """What the times depend on beside the code."""

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

    def by_name(self) -> dict[str, Stats]:
        """Return the times of each benchmark."""
        return {benchmark.fullname: benchmark.stats for benchmark in self.benchmarks}

    @property
    def commit(self) -> str:
        """The commit that was measured, in short; empty if the file does not say."""
        commit = self.commit_info.get("id") or "unversioned"
        dirty = ", with changes" if self.commit_info.get("dirty") else ""
        return "" if commit == "unversioned" else f" ({str(commit)[:7]}{dirty})"


def judge(pairs: Sequence[tuple[Path, Path]], settings: GateSettings) -> Verdict:
    """Judge pairs of files, before and after the change.

    A benchmark is a regression where its p-value, corrected for the number of benchmarks (Holm), is
    below `settings.false_alarms`. One that is gone after the change is inconclusive. Raises
    `InvalidInput` for files that cannot be compared.
    """
    with Stopwatch() as watch:
        _check_distinct(pairs)
        read = [(_read(old), _read(new)) for old, new in pairs]
        for paths, files in zip(pairs, read, strict=True):
            _check_machines(paths, files)
        samples = [(old.by_name(), new.by_name()) for old, new in read]
        common, partial = _in_common(samples)
        if not common:
            raise InvalidInput("the files have no benchmark in common.")
        changes = {name: _change(name, samples, settings.process_noise) for name in common}
        gone = _gone(pairs, samples)
        findings = (*_findings(changes, settings), *gone.values())
        partial = [name for name in partial if name not in gone]
    return Verdict(
        compared=_compared(pairs, read),
        findings=findings,
        notes=tuple(_notes(pairs, read, settings, partial)),
        seconds=watch.seconds,
    )


def _read(path: Path) -> File:
    """Read a file. Raises `InvalidInput` if it is none of pytest-benchmark's or has bad times."""
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
    for benchmark in file.benchmarks:
        for time_s in benchmark.stats.data or ():
            if not 0 < time_s < math.inf:
                raise InvalidInput(
                    f"`{path}`: benchmark `{benchmark.fullname}` has a round of {time_s} s; "
                    f"times are positive numbers."
                )
    return file


def _check_distinct(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Refuse a file in two pairs: the pairs would not be independent."""
    seen: set[Path] = set()
    for pair in pairs:
        resolved = {path.resolve() for path in pair}
        if again := seen & resolved:
            raise InvalidInput(
                f"`{min(again)}` is in two pairs; each pair is two processes of its own."
            )
        seen |= resolved


def _check_machines(paths: tuple[Path, Path], files: tuple[File, File]) -> None:
    old, new = (file.machine_info.traits() for file in files)
    differing = [f"{name} ({old[name]}, {new[name]})" for name in old if old[name] != new[name]]
    if differing:
        raise InvalidInput(
            f"`{paths[0]}` and `{paths[1]}` were measured under different conditions: "
            f"{'; '.join(differing)}. Measure both on one machine."
        )


_Samples = Sequence[tuple[Mapping[str, Stats], Mapping[str, Stats]]]


def _in_common(samples: _Samples) -> tuple[list[str], list[str]]:
    """Return the benchmarks that are in all files, and those that are only in some."""
    files = [file for pair in samples for file in pair]
    names = list(dict.fromkeys(name for file in files for name in file))
    common = [name for name in names if all(name in file for file in files)]
    return common, [name for name in names if name not in common]


def _gone(pairs: Sequence[tuple[Path, Path]], samples: _Samples) -> dict[str, Finding]:
    """Return a finding for each benchmark that a file before the change has and its partner not.

    Whatever raises an exception is left out of the file by pytest-benchmark.
    """
    return {
        name: Finding(
            subject=name,
            metric="time",
            outcome="inconclusive",
            reason=f"it is in `{paths[0]}`, but not in `{paths[1]}`: it failed or was not run. "
            "Measure it, or, if it is meant to be gone, leave it out before the change, too",
        )
        for paths, (old, new) in zip(pairs, samples, strict=True)
        for name in old
        if name not in new
    }


def _change(name: str, samples: _Samples, process_noise: float) -> Estimate:
    """Estimate the change of the logarithm of a time."""
    pairs = [(old[name], new[name]) for old, new in samples]
    if len(pairs) > 1:
        medians = np.array([[old.median, new.median] for old, new in pairs])
        return estimates.mean(np.diff(np.log(medians))[:, 0])
    old, new = pairs[0]
    raw = bool(old.data and new.data)
    within = estimates.welch(_level(old, raw), _level(new, raw))
    # Two processes, each off by its own luck; that spread counts as known.
    between = Estimate(0.0, math.sqrt(2) * process_noise, math.inf, n=1)
    return estimates.welch(between, within)


def _level(times: Stats, raw: bool) -> Estimate:
    """Estimate the logarithm of a time from the rounds of one process.

    Neighbouring rounds are alike, so `raw` rounds count as some ten batches (batch means, here
    the medians of the batches, as rare interruptions are no property of the code). Without them, by
    the delta method from the median and the spread, which takes the rounds for independent.
    """
    if raw and times.data:
        batches = np.array_split(np.array(times.data), min(_BATCHES, len(times.data)))
        return estimates.mean(np.array([math.log(np.median(batch)) for batch in batches]))
    n = times.rounds
    error = _MEDIAN_ERROR * min(times.spread, 1e6) / math.sqrt(n)
    return Estimate(math.log(times.median), error, n - 1, n)


def _findings(changes: Mapping[str, Estimate], settings: GateSettings) -> tuple[Finding, ...]:
    corrected = estimates.holm([change.p_above() for change in changes.values()])
    findings = []
    for (name, change), p in zip(changes.items(), corrected, strict=True):
        tolerance = settings.max_slowdown
        outcome = decide(change, math.log1p(tolerance), settings.false_alarms, settings.misses, p)
        reason = _reason(change, outcome)
        findings.append(finding(name, "time", outcome, change, tolerance, reason))
    return tuple(findings)


def _reason(change: Estimate, outcome: Outcome) -> str:
    """Say what to do where nothing could be decided."""
    if outcome != "inconclusive":
        return ""
    if not change.df:
        return f"a single round shows no spread: measure more rounds, or {_MORE_PAIRS}"
    return f"allow more with `--max-slowdown`, or {_MORE_PAIRS}"


def _compared(pairs: Sequence[tuple[Path, Path]], read: Sequence[tuple[File, File]]) -> str:
    (old_path, new_path), (old, new) = pairs[0], read[0]
    more = f" and {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
    return f"{new_path}{new.commit} against {old_path}{old.commit}{more}"


def _notes(
    pairs: Sequence[tuple[Path, Path]],
    read: Sequence[tuple[File, File]],
    settings: GateSettings,
    partial: Sequence[str],
) -> list[str]:
    notes = []
    if len(pairs) == 1:
        notes.append(
            "one pair of files does not show how fresh processes differ; a standard deviation of "
            f"{100 * settings.process_noise:.2g} % between them is assumed (`process_noise`), and "
            "that the machine was equally busy with both."
        )
        bare = [
            f"`{path}`"
            for path, file in zip(pairs[0], read[0], strict=True)
            if not all(times.data for times in file.by_name().values())
        ]
        if bare:
            notes.append(
                f"no single rounds in {' and '.join(bare)}: median, spread and number of rounds "
                "are used instead, as if rounds were independent (`--benchmark-save-data` saves "
                "them)."
            )
    if partial:
        notes.append(f"not in every file, and not judged: {', '.join(partial)}.")
    return notes
