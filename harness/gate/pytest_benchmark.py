"""Judges benchmarks measured by pytest-benchmark: its JSON files from before and after a change.

Two files are one pair of processes. With several pairs, each gives one independent value, the
logarithm of the ratio of medians, and Student's t tells how well their mean is known. One pair is
two processes. Rounds inside a process do not show how fresh processes differ (where memory lies,
the hash seed), so that spread has to be assumed: `GateSettings.process_noise`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from harness.errors import InvalidInput
from harness.gate import comparable
from harness.gate.benchmark_file import Benchmark, File, read
from harness.gate.comparable import listed
from harness.gate.settings import GateSettings
from harness.gate.verdict import Judgement, Verdict, decide
from harness.measure.clock import Stopwatch
from harness.stats import estimates
from harness.stats.estimates import Estimate
from harness.tables.numbers import percent

_BATCHES = 10
_MEDIAN_ERROR = 1.2533
"""For normal rounds: the standard error of the median over that of the mean."""
_MOST_PAIRS = 1000
_MORE_PAIRS = (
    "measure that many anew and give only those (`--pytest-benchmark OLD NEW` for each); with "
    "pairs added to these until they decide, the error rates would no longer hold"
)


Paths: TypeAlias = Sequence[tuple[Path, Path]]
Files: TypeAlias = Sequence[tuple[File, File]]


def judge(pairs: Paths, settings: GateSettings) -> Verdict:
    """Judge pairs of files, each from before and after the change.

    A benchmark is a regression if its p-value, corrected for the number of benchmarks (Holm), is
    below `settings.false_alarms`. One that is missing after the change is inconclusive. Raises
    `InvalidInput` for files that cannot be compared.
    """
    with Stopwatch() as watch:
        comparable.check_distinct(pairs)
        files = [(read(old), read(new)) for old, new in pairs]
        each = [
            (path, file)
            for paths, both in zip(pairs, files, strict=True)
            for path, file in zip(paths, both, strict=True)
        ]
        comparable.check_conditions(each)
        comparable.check_own_measurements(each)
        every = [file.by_name for pair in files for file in pair]
        names = list(dict.fromkeys(name for file in every for name in file))
        common = [name for name in names if all(name in file for file in every)]
        if not common:
            raise InvalidInput("the files have no benchmark in common.")
        missing = _missing(pairs, files)
        judgements = (*_judgements(common, files, settings), *missing.values())
        partial = [name for name in names if name not in common and name not in missing]
    more = f" and {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
    (old_path, new_path), (old, new) = pairs[0], files[0]
    return Verdict(
        compared=f"{new_path}{new.commit} against {old_path}{old.commit}{more}",
        judgements=judgements,
        notes=(*_notes(pairs, files, settings, partial), *comparable.notes(each)),
        seconds=watch.seconds,
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
    pairs = _both(name, files)
    if len(pairs) > 1:
        medians = np.array([[old.stats.median, new.stats.median] for old, new in pairs])
        return estimates.mean(np.diff(np.log(medians))[:, 0], shared_error=_clock_error(pairs))
    old, new = pairs[0]
    raw = bool(old.stats.data and new.stats.data)
    within = estimates.welch(_level(old, raw), _level(new, raw))
    # Two processes with a spread each; that spread counts as known.
    between = Estimate(0.0, math.sqrt(2) * process_noise, math.inf, n=1)
    return estimates.welch(between, within)


def _clock_error(pairs: Sequence[tuple[Benchmark, Benchmark]]) -> float:
    """Return the standard error that the steps of the clock add to every ratio alike."""
    errors = [math.hypot(old.clock_error, new.clock_error) for old, new in pairs]
    return float(np.sqrt(np.mean(np.square(errors))))


def _level(benchmark: Benchmark, raw: bool) -> Estimate:
    """Estimate the logarithm of a time from the rounds of one process.

    Neighbouring rounds are alike, so `raw` rounds count as some ten batches (batch means; here the
    median of each batch, since a rare interruption is no property of the code). Without them, the
    delta method is used on median and spread, as if rounds were independent.
    """
    times, floor = benchmark.stats, benchmark.clock_error
    if raw and times.data:
        batches = np.array_split(np.array(times.data), min(_BATCHES, len(times.data)))
        logs = np.array([math.log(np.median(batch)) for batch in batches])
        return estimates.mean(logs, shared_error=floor)
    n = times.rounds
    error = _MEDIAN_ERROR * min(times.spread, 1e6) / math.sqrt(n)
    return Estimate(math.log(times.median), math.hypot(error, floor), n - 1, n)


def _judgements(names: Sequence[str], files: Files, settings: GateSettings) -> list[Judgement]:
    changes = [_change(name, files, settings.process_noise) for name in names]
    corrected = estimates.holm([change.p_above() for change in changes])
    tolerance = settings.max_slowdown
    outcomes = [
        decide(change, math.log1p(tolerance), settings.false_alarms, settings.misses, p)
        for change, p in zip(changes, corrected, strict=True)
    ]
    clock_errors = [_clock_error(_both(name, files)) for name in names]
    wanted = [
        _pairs_wanted(change, clock_error, settings, len(names)) * (outcome == "inconclusive")
        for change, clock_error, outcome in zip(changes, clock_errors, outcomes, strict=True)
    ]
    # One number for all of which any number decides.
    most = max((n for n in wanted if n <= _MOST_PAIRS), default=0)
    judgements = []
    for name, change, outcome, own in zip(names, changes, outcomes, wanted, strict=True):
        reason = _advice(_both(name, files), change, max(own, most)) if own else ""
        judgements.append(Judgement.of_logarithm(name, "time", outcome, change, tolerance, reason))
    return judgements


def _both(name: str, files: Files) -> list[tuple[Benchmark, Benchmark]]:
    return [(old.by_name[name], new.by_name[name]) for old, new in files]


def _advice(pairs: Sequence[tuple[Benchmark, Benchmark]], change: Estimate, wanted: int) -> str:
    """Return what to do if nothing could be decided, but `wanted` pairs probably decide."""
    more = f"some {float(f'{wanted:.2g}'):.0f} pairs would probably decide: {_MORE_PAIRS}"
    if wanted > _MOST_PAIRS:
        more = f"even {_MOST_PAIRS} pairs like these would probably not decide"
    if not change.df:
        return f"a single round shows no spread: measure more rounds, or more pairs; {more}"
    if 2 * _clock_error(pairs) ** 2 > change.standard_error**2:
        step = max(benchmark.clock_step for pair in pairs for benchmark in pair)
        return (
            f"its times move in steps of up to {percent(step)}: measure with a finer clock "
            "(`--benchmark-timer`) or longer rounds (`--benchmark-min-time`)"
        )
    return f"allow more with `--max-slowdown`, or measure more pairs; {more}"


def _pairs_wanted(
    change: Estimate, clock_error: float, settings: GateSettings, benchmarks: int
) -> int:
    """Return how many pairs would probably decide, if they scatter as these do.

    They do even if their mean is off by its standard error, to either side. More than
    `_MOST_PAIRS` means that no number up to that does.
    """
    error = change.standard_error if change.df else math.sqrt(2) * settings.process_noise
    # More pairs make all of the error smaller except for the clock's part.
    scatter = change.n * max(error**2 - clock_error**2, 0.0)
    limit = math.log1p(settings.max_slowdown)

    def decides(n: int) -> bool:
        error = math.sqrt(scatter / n + clock_error**2)
        ends = (Estimate(change.value + x, error, n - 1, n) for x in (-error, error))
        outcomes = {
            decide(end, limit, settings.false_alarms, settings.misses, benchmarks * end.p_above())
            for end in ends
        }
        return "inconclusive" not in outcomes

    fewest = change.n + 1
    return fewest + bisect_left(range(fewest, _MOST_PAIRS + 1), True, key=decides)


def _notes(pairs: Paths, files: Files, settings: GateSettings, partial: Sequence[str]) -> list[str]:
    notes = []
    if len(pairs) == 1:
        notes.append(
            "one pair of files does not show how fresh processes differ; a standard deviation of "
            f"{percent(settings.process_noise)} between them is assumed (`process_noise`), and "
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
        notes.append(f"not in every file, and not judged: {listed(partial)}.")
    return notes
