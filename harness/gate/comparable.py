"""Refuses files of pytest-benchmark that cannot be compared: copies, and unlike conditions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from harness.errors import InvalidInput
from harness.gate.benchmark_file import EXPECTED, File

Files: TypeAlias = Sequence[tuple[Path, File]]

_FEW = 3
"""How many of many names are listed in a sentence."""


def check_distinct(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Refuse a file that is given twice, by whatever name: nothing would be compared."""
    seen: dict[Any, Path] = {}
    for old, new in pairs:
        for path in (old, new):
            if (same := _identity(path)) not in seen:
                seen[same] = path
            elif path is new and seen[same] is old:
                raise InvalidInput(
                    f"`{old}` and `{new}` are one file: a measurement is not compared with itself."
                )
            else:
                raise InvalidInput(
                    f"`{path}` is in two pairs; each pair is two processes of its own."
                )


def check_own_measurements(files: Files) -> None:
    """Refuse copies: benchmarks that are equal to the bit in two files."""
    seen: dict[Any, tuple[Path, File]] = {}
    for path, file in files:
        for benchmark in file.benchmarks:
            for figures in benchmark.figures:
                other_path, other = seen.setdefault(figures, (path, file))
                same_time = file.datetime is not None and file.datetime == other.datetime
                if other is not file and (same_time or benchmark.fine):
                    raise InvalidInput(
                        f"`{other_path}` and `{path}` hold the same measurement: the times of "
                        f"`{benchmark.fullname}` are equal to the bit. Measure each file anew."
                    )


def check_conditions(files: Files) -> None:
    """Refuse files that state different conditions."""
    known: dict[str, tuple[str, Path]] = {}
    for path, file in files:
        stated = dict(_conditions(file))
        unlike = {
            name: known[name]
            for name, value in stated.items()
            if name in known and known[name][0] != value
        }
        if unlike:
            other = next(iter(unlike.values()))[1]
            phrases = [
                f"{name} ({value}, {stated[name]})"
                for name, (value, where) in unlike.items()
                if where == other
            ]
            raise InvalidInput(
                f"`{other}` and `{path}` were measured under different conditions: "
                f"{listed(phrases, '; ')}. Measure all on one machine, in one way."
            )
        known |= {name: (value, path) for name, value in stated.items() if name not in known}


def notes(files: Files) -> Iterator[str]:
    """Yield what the files do not state, and what differs but need not change times."""
    silent = {
        name: [f"`{path}`" for path, file in files if not _states(file, name)] for name in EXPECTED
    }
    if missing := {name: paths for name, paths in silent.items() if paths}:
        paths = dict.fromkeys(path for paths in missing.values() for path in paths)
        yield (
            f"not stated by {listed(list(paths))}, so not compared: {', '.join(missing)}; the "
            "verdict holds only if they were alike."
        )
    for what, values in (
        ("on hosts of several names", [file.node for _, file in files]),
        ("with several versions of pytest-benchmark", [file.version for _, file in files]),
    ):
        names = list(dict.fromkeys(filter(None, values)))
        if len(names) > 1:
            yield f"measured {what}: {listed(names)}."


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first names, and how many there are besides."""
    rest = len(names) - _FEW
    return separator.join(names[:_FEW]) + (f" and {rest} more" if rest > 0 else "")


def _identity(path: Path) -> Any:
    """Return what a file is whatever its name; the path, if it cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.abspath(path)
    return status.st_dev, status.st_ino


def _conditions(file: File) -> Iterator[tuple[str, str]]:
    """Yield the conditions of a file and of each of its benchmarks."""
    yield from file.conditions.items()
    for benchmark in file.benchmarks:
        for name, value in benchmark.conditions.items():
            yield f"{name} of `{benchmark.fullname}`", value


def _states(file: File, name: str) -> bool:
    """Whether a file states a condition, for every benchmark if it is one of theirs."""
    return name in file.conditions or all(name in b.conditions for b in file.benchmarks)
