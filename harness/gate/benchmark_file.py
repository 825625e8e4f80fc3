"""The JSON files of pytest-benchmark: the times of one process, and the conditions they state."""

from __future__ import annotations

import json
import math
import reprlib
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import InvalidInput, brief, printable
from harness.inputs.bounded_json import Several, refuse_many
from harness.inputs.text import read_text
from harness.stats.grid import UNIFORM, common_step, smallest_step

_IQR = 1.349
"""For normal rounds: the distance of the quartiles in standard deviations."""
# A time is the difference of two readings of a clock, and a float holds the seconds since 1970 only
# to some 2e-7 s.
_NOISE_S = {"time": 5e-7}
_NOISE_OF_OTHERS_S = 1e-9
_READING_S = 2e-12
"""The rounding error of a reading below 10,000 s, as those of a clock of the process are."""
# The system's clock on Windows ticks every 15.6, 10 or 1 ms, but not quite regularly, and some
# readings are cut to milliseconds.
_SYSTEM_CLOCKS = ("time", "monotonic")
_SYSTEM_TICKS_S = (1 / 64, 0.01, 0.001)
_IRREGULAR_S, _CUT_S = 5e-5, 1e-3
# Values on a finer grid than this, in standard deviations, are never all equal by chance.
_FINE = 0.01
# A condition: its name for a sentence, and where it may stand.
_CPU = {
    "processor": ("brand_raw", "brand"),
    "architecture": ("arch",),
    "number of cores": ("count",),
}
_MACHINE = {
    "operating system": "system",
    "release of the operating system": "release",
    "Python": "python_implementation",
    "Python version": "python_version",
    "Python build": "python_build",
    "compiler of Python": "python_compiler",
}
# Conditions that not every system has.
_MORE_OF_CPU = {
    "vendor of the processor": ("vendor_id_raw", "vendor_id"),
    "family of the processor": ("family",),
    "model of the processor": ("model",),
    "stepping of the processor": ("stepping",),
    "word size": ("bits",),
}
_MORE_OF_MACHINE = {
    "machine": "machine",
    "type of processor": "processor",
    "version of the Python implementation": "python_implementation_version",
}
_OPTIONS = {
    "timer": "timer",
    "`disable_gc`": "disable_gc",
    "`warmup`": "warmup",
    # It decides how many calls share the cost of reading the clock.
    "`min_time`": "min_time",
}
EXPECTED = (*_CPU, *_MACHINE, *_OPTIONS)
"""Conditions that every file states."""

# Far beyond what is measured, in nanoseconds too, and far below what floats cannot hold.
Seconds: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False, le=1e18)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=10**15)]
Time: TypeAlias = Annotated[Seconds, Field(gt=0)]


class Stats(BaseModel):
    """The times of a benchmark, in seconds."""

    model_config = ConfigDict(frozen=True)

    mean: Time
    stddev: Annotated[Seconds, Field(ge=0)]
    median: Time
    iqr: Annotated[Seconds, Field(ge=0)] | None = None
    """The distance of the quartiles."""
    min: Time | None = None
    max: Time | None = None
    ld15iqr: Time | None = None
    hd15iqr: Time | None = None
    """The smallest and the largest round that are no outliers."""
    rounds: Count
    iterations: Count = 1
    """The calls in a round; times are those of one call."""
    data: Several[Time] | None = None
    """Every round; only with `--benchmark-json` or `--benchmark-save-data`."""

    @model_validator(mode="after")
    def _all_rounds(self) -> Self:
        if self.data and len(self.data) != self.rounds:
            raise ValueError(f"it holds {len(self.data)} of {self.rounds} rounds")
        return self

    @property
    def named(self) -> list[float]:
        """The rounds that the summary names."""
        return [x for x in (self.min, self.max, self.ld15iqr, self.hd15iqr) if x is not None]

    def common_step(self, noise: float = 0.0) -> float:
        """Return the largest step of which all known rounds are multiples; 0 if none is known."""
        if self.data:
            return common_step(self.data, noise)
        if self.spread and not self.named:
            return 0.0
        # The median may lie half way between two rounds.
        return 2 * common_step([*(x / 2 for x in self.named), self.median], noise)

    @property
    def system_tick(self) -> float:
        """The tick of which all known rounds are multiples by a clock of Windows; 0 if none is."""
        times = np.array(self.data or self.named) * self.iterations
        cut = (np.abs(times - np.round(times, 3)) < _READING_S * 1e3).all()
        for tick in _SYSTEM_TICKS_S if times.size else ():
            off = np.abs(times - tick * np.maximum(np.round(times / tick), 1))
            if off.max() < (_CUT_S if cut else _IRREGULAR_S):
                return tick / self.iterations
        return 0.0

    @property
    def spread(self) -> float:
        """The standard deviation of a round, relative.

        From the quartiles if the file has them, since a rare interruption does not move those.
        """
        return self.iqr / self.median / _IQR if self.iqr else self.stddev / self.mean


class Benchmark(BaseModel):
    """A benchmark of a file."""

    fullname: str
    options: Mapping[str, Any] | None = None
    params: Any = None
    stats: Stats

    @property
    def conditions(self) -> dict[str, str]:
        """What its times depend on, as far as the file says, by name for a sentence."""
        options = self.options or {}
        found = {name: options.get(field) for name, field in _OPTIONS.items()}
        if isinstance(timer := found["timer"], str):
            found["timer"] = timer.rpartition(".")[2]
        # An object is written as it is printed, often with its address.
        if "UNSERIALIZABLE[" not in (params := json.dumps(self.params)) and self.params:
            found["parameters"] = params
        return _stated(found)

    @cached_property
    def clock_step(self) -> float:
        """The step in which its times move, relative to their median; negligible if none shows."""
        stats, timer = self.stats, self.conditions.get("timer", "")
        if timer in _SYSTEM_CLOCKS and (tick := stats.system_tick):
            return min(tick / stats.median, 1.0)
        noise = _NOISE_S.get(timer, _NOISE_OF_OTHERS_S)
        # If the quartiles are equal, so are half of the rounds.
        unlike = stats.data or ([*stats.named, stats.median] if stats.iqr == 0 else ())
        step = (
            smallest_step(np.array(unlike), noise / stats.iterations)
            if unlike
            else stats.common_step(_READING_S / stats.iterations)
        )
        return min(step / stats.median, 1.0)

    @property
    def clock_error(self) -> float:
        """The relative standard error of the median that more rounds do not make smaller."""
        return UNIFORM * self.clock_step

    @property
    def fine(self) -> bool:
        """Whether the clock is so fine that two measurements are never equal by chance."""
        return self.stats.common_step() < _FINE * self.stats.stddev

    @property
    def figures(self) -> list[tuple[Any, ...]]:
        """What two copies of a measurement have in common, all the rounds or their summary."""
        stats = self.stats
        summary = (self.fullname, stats.mean, stats.stddev, stats.median, stats.rounds)
        return [summary, *([(self.fullname, stats.data)] if stats.data else [])]


class File(BaseModel):
    """A JSON file of pytest-benchmark: one process."""

    machine_info: Mapping[str, Any] | None
    commit_info: Mapping[str, Any] | None = None
    benchmarks: Several[Benchmark] = Field(min_length=1)
    datetime: str | None = None
    version: str | None = None
    """Of pytest-benchmark."""

    @cached_property
    def by_name(self) -> dict[str, Benchmark]:
        """Each benchmark."""
        return {benchmark.fullname: benchmark for benchmark in self.benchmarks}

    @property
    def commit(self) -> str:
        """The commit, for a heading: ` (3f2a1c9, with changes)`; empty if it is not known."""
        info = self.commit_info or {}
        commit = str(info.get("id") or "unversioned")
        dirty = ", with changes" if info.get("dirty") else ""
        return "" if commit in {"unversioned", "unknown"} else f" ({commit[:7]}{dirty})"

    @property
    def conditions(self) -> dict[str, str]:
        """What all its times depend on, as far as it says, by name for a sentence."""
        machine = self.machine_info or {}
        cpu = machine.get("cpu")
        cpu = cpu if isinstance(cpu, Mapping) else {}
        of_cpu = {
            name: next((cpu[field] for field in fields if cpu.get(field)), None)
            for name, fields in (_CPU | _MORE_OF_CPU).items()
        }
        return _stated(
            of_cpu | {name: machine.get(f) for name, f in (_MACHINE | _MORE_OF_MACHINE).items()}
        )

    @property
    def node(self) -> str | None:
        """The name of the host."""
        return _stated({"node": (self.machine_info or {}).get("node")}).get("node")


def read(path: Path) -> File:
    """Read a file. Raises `InvalidInput` if it is not from pytest-benchmark or has bad times."""
    try:
        text = read_text(path)
        refuse_many(text)
    except OSError as error:
        raise InvalidInput(f"`{path}` cannot be read: {brief(error)}.") from error
    except ValueError as error:
        raise InvalidInput(f"{_unreadable(path)}: {error}.") from error
    content = _load(path, text)
    try:
        file = File.model_validate_json(text)
    except ValidationError as error:
        raise InvalidInput(f"{_unreadable(path)}: {_problem(error, content)}.") from error
    names = [benchmark.fullname for benchmark in file.benchmarks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInput(f"`{path}`: benchmark `{twice[0]}` is in it twice.")
    return file


def _unreadable(path: Path) -> str:
    return f"`{path}` cannot be read as JSON of pytest-benchmark"


def _load(path: Path, text: str) -> Any:
    """Return the content, to name what is wrong in it; refuse a key that is there twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            again = next(key for key, count in counts.items() if count > 1)
            raise InvalidInput(f"{_unreadable(path)}: `{printable(again)}` is in one object twice.")
        return content

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None  # The validation says what is wrong.


def _problem(error: ValidationError, content: Any) -> str:
    """Return the first problem in a clause, with the name of the benchmark it is in."""
    problem = error.errors()[0]
    match problem["loc"]:
        case ("benchmarks",) if problem["type"] == "too_short":
            return "it holds no benchmarks"
        case (str(field),) if problem["type"] == "missing":
            return f"it has no `{field}`"
        case (str(field),):
            return f"`{field}` {_plain(problem['msg'])}"
        case ("benchmarks", int(number), *rest) if isinstance(content, dict):
            benchmark = content["benchmarks"][number]
            name = benchmark.get("fullname") if isinstance(benchmark, dict) else None
            where = f"benchmark `{printable(name)}`" if isinstance(name, str) else ""
            where = where or f"the benchmark at place {number + 1}"
            field = ".".join(map(str, rest))
            if not rest:
                return f"{where} {_plain(problem['msg'])}"
        case _:
            what = "it " if problem["type"] != "json_invalid" else ""
            return what + _plain(problem["msg"])
    value = problem["input"]
    simple = isinstance(value, str | int | float) or value is None
    got = f" is {reprlib.repr(value)}" if simple else ""
    if problem["type"] == "missing":
        return f"{where} has no `{field}`"
    hint = ""
    if problem["type"] == "greater_than" and value == 0:
        hint = "; a time of 0 means that the clock is too coarse for it"
    return f"{where}: `{field}`{got}: {_plain(problem['msg'])}{hint}"


def _plain(reason: str) -> str:
    """Return pydantic's reason without its own words."""
    reason = reason.removeprefix("Input ").removeprefix("Value error, ")
    reason = reason.partition(", unable to parse")[0]
    return printable(reason.replace("EOF while parsing", "the file ends within"))


def _stated(conditions: Mapping[str, Any]) -> dict[str, str]:
    """Return what is known, as text without runs of blanks."""
    texts = {
        name: " ".join((value if isinstance(value, str) else json.dumps(value)).split())
        for name, value in conditions.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }
    return {name: printable(text) for name, text in texts.items() if text}
