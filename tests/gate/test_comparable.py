"""Which files of pytest-benchmark are compared: not copies, not ticks, not unlike conditions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from harness.errors import InvalidInput
from harness.gate.pytest_benchmark import judge
from harness.gate.settings import GateSettings
from harness.gate.verdict import Judgement, Verdict

Content: TypeAlias = Any

LENIENT = GateSettings(max_slowdown=0.3)
NAME = "test_it.py::test_it"
TICK_S = 1 / 64
OPTIONS: Content = {"disable_gc": False, "timer": "perf_counter", "min_rounds": 5, "max_time": 1.0}
OPTIONS |= {"min_time": 5e-6, "warmup": False}
MACHINE: Content = {"system": "Linux", "release": "6.1", "machine": "x86_64", "node": "a"}
MACHINE |= {"python_implementation": "CPython", "python_version": "3.12.1"}
MACHINE |= {"python_build": ["main", "Jan 1"], "python_compiler": "GCC 12"}
CPU = {"brand_raw": "Z80", "arch": "X86_64", "count": 4}


def content(rounds: Sequence[float], when: str | None = None, raw: bool = True) -> Content:
    """A file as pytest-benchmark 5 writes it, with one benchmark."""
    low, high = np.percentile(rounds, (25, 75))
    stats: Content = {"min": min(rounds), "max": max(rounds), "mean": float(np.mean(rounds))}
    stats |= {"stddev": float(np.std(rounds, ddof=1)), "median": float(np.median(rounds))}
    stats |= {"iqr": high - low, "rounds": len(rounds), "iterations": 1}
    stats |= {"data": list(rounds)} if raw else {}
    benchmark = {"fullname": NAME, "params": None, "options": OPTIONS, "stats": stats}
    machine = MACHINE | {"cpu": CPU}
    file = {"machine_info": machine, "commit_info": None, "benchmarks": [benchmark]}
    # A copy without a shared part, to be changed at will.
    return json.loads(json.dumps(file | {"datetime": when, "version": "5.1.0"}))


def drawn(seed: int, raw: bool = True) -> Content:
    rounds = np.random.default_rng(seed).normal(1e-3, 1e-5, 20)
    return content(rounds.tolist(), f"2024-01-0{seed + 1}", raw)


def save(folder: Path, *contents: Content) -> list[Path]:
    paths = [folder / f"{n}.json" for n in range(len(contents))]
    for path, one in zip(paths, contents, strict=True):
        path.write_text(json.dumps(one))
    return paths


def judged(folder: Path, *contents: Content, settings: GateSettings = LENIENT) -> Verdict:
    paths = save(folder, *contents)
    return judge(list(zip(paths[::2], paths[1::2], strict=True)), settings)


def refused(folder: Path, *contents: Content) -> str:
    with pytest.raises(InvalidInput) as caught:
        judged(folder, *contents)
    return str(caught.value)


def change(*keys: Any, value: Any) -> Callable[[Content], None]:
    def apply(file: Content) -> None:
        inner: Any = file
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return apply


of_option = ("benchmarks", 0, "options")
of_cpu = ("machine_info", "cpu")


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        (change(*of_option, "timer", value="process_time"), "(perf_counter, process_time)"),
        (change(*of_option, "disable_gc", value=True), f"`disable_gc` of `{NAME}` (false, true)"),
        (change(*of_option, "warmup", value=100000), "`warmup` of"),
        (change(*of_option, "min_time", value=1e-3), "`min_time` of"),
        (change("benchmarks", 0, "params", value={"n": 9}), f"parameters of `{NAME}`"),
        (change("machine_info", "system", value="Windows"), "operating system (Linux, Windows)"),
        (change("machine_info", "release", value="6.2"), "release of the operating system (6.1"),
        (change("machine_info", "machine", value="aarch64"), "machine (x86_64, aarch64)"),
        (change("machine_info", "python_build", value=["x", "y"]), "Python build"),
        (change("machine_info", "python_compiler", value="Clang"), "compiler of Python (GCC 12"),
        (change("machine_info", "python_version", value="3.9"), "Python version (3.12.1, 3.9)"),
        (change(*of_cpu, value={"brand": "6502"}), "processor (Z80, 6502)"),
        (change(*of_cpu, "arch", value="ARM_8"), "architecture (X86_64, ARM_8)"),
        (change(*of_cpu, "count", value=8), "number of cores (4, 8)"),
    ],
)
def test_other_conditions_are_refused(
    tmp_path: Path, changed: Callable[[Content], None], phrase: str
) -> None:
    old, new, other = drawn(0), drawn(1), drawn(2)
    old["benchmarks"][0]["params"] = new["benchmarks"][0]["params"] = {"n": 1}
    other["benchmarks"][0]["params"] = {"n": 1}
    changed(other)
    assert phrase in refused(tmp_path, old, other)
    # Each pair alike, but not one pair like the other.
    more = drawn(3)
    more["benchmarks"][0]["params"] = {"n": 1}
    changed(more)
    assert phrase in refused(tmp_path, old, new, other, more)


@pytest.mark.parametrize(
    "changed",
    [
        change(*of_option, "min_rounds", value=50),
        change(*of_option, "max_time", value=9),
        change(*of_option, "timer", value="time.perf_counter"),
        change(*of_cpu, value={"brand": "  Z80 ", "arch": "X86_64", "count": 4}),
        change(*of_cpu, "hz_actual", value=[1, 0]),
        change("benchmarks", 0, "params", value={"x": "UNSERIALIZABLE[<object at 0x7f>]"}),
    ],
)
def test_what_changes_no_time_may_differ(
    tmp_path: Path, changed: Callable[[Content], None]
) -> None:
    other = drawn(1)
    changed(other)
    verdict = judged(tmp_path, drawn(0), other)
    assert verdict.outcome == "pass"
    assert len(verdict.notes) == 1


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        (change("benchmarks", 0, "options", value=None), "timer, `disable_gc`, `warmup`"),
        (change(*of_cpu, value=None), "processor, architecture, number of cores;"),
        (change("machine_info", "system", value=""), "compared: operating system; the verdict"),
        (change("machine_info", value=None), "Python build, compiler of Python;"),
        (change("machine_info", "node", value="b"), "hosts of several names: a, b."),
        (change("version", value="3.4"), "several versions of pytest-benchmark: 5.1.0, 3.4."),
    ],
)
def test_what_is_unknown_is_said(
    tmp_path: Path, changed: Callable[[Content], None], phrase: str
) -> None:
    other = drawn(1)
    changed(other)
    verdict = judged(tmp_path, drawn(0), other)
    assert any(phrase in note for note in verdict.notes), verdict.notes
    assert "0.json" not in verdict.notes[-1]


def test_a_file_is_not_compared_with_itself(tmp_path: Path) -> None:
    path, other = save(tmp_path, drawn(0), drawn(1))
    (link := tmp_path / "link").symlink_to(path)
    os.link(path, hard := tmp_path / "hard")
    for same in (path, link, hard, tmp_path / "x" / ".." / "0.json", tmp_path / "." / path.name):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InvalidInput, match="are one file"):
            judge([(path, same)], LENIENT)
        with pytest.raises(InvalidInput, match="is in two pairs"):
            judge([(path, other), (same, other)], LENIENT)


@pytest.mark.parametrize("raw", [True, False])
def test_a_copy_is_no_measurement(tmp_path: Path, raw: bool) -> None:
    old, new, other = drawn(0, raw), drawn(1, raw), drawn(2, raw)
    # Written anew, at another time, on another host.
    copy = old | {"datetime": "2025", "machine_info": old["machine_info"] | {"node": "b"}}
    assert "hold the same measurement" in refused(tmp_path, old, copy)
    assert f"the times of `{NAME}` are equal to the bit" in refused(tmp_path, old, new, copy, other)
    # Swapped, one side shared, and the same pair once more.
    for pair in ((new, old), (old, other), (other, new), (old, new)):
        assert "1.json" in (told := refused(tmp_path, old, new, *pair)) or "0.json" in told


def test_a_summary_of_the_same_rounds_is_a_copy(tmp_path: Path) -> None:
    assert "the same measurement" in refused(tmp_path, drawn(0), drawn(0, raw=False))


def ticks(counts: Sequence[int], when: str | None = None, raw: bool = True) -> Content:
    return content([TICK_S * n for n in counts], when, raw)


def only(verdict: Verdict) -> Judgement:
    (judgement,) = verdict.judgements
    return judgement


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([1] * 20, [1] * 20),
        ([2] * 20, [2] * 19 + [3]),
        ([2] * 19 + [1], [2] * 20),
        ([1, 2] * 10, [2] * 11 + [1] * 9),
        ([1] * 20, [2] * 20),
    ],
)
def test_ticks_are_no_certainty(tmp_path: Path, old: list[int], new: list[int], raw: bool) -> None:
    settings = GateSettings(max_slowdown=0.05, process_noise=0)
    pairs = [(ticks(old, f"{n}a", raw), ticks(new, f"{n}b", raw)) for n in range(4)]
    alone = judged(tmp_path, *pairs[0], settings=settings)
    several = judged(tmp_path, *(file for pair in pairs for file in pair), settings=settings)
    for judgement in (only(alone), only(several)):
        assert judgement.outcome == "inconclusive"
        assert judgement.low is not None
        assert judgement.high is not None
        assert judgement.high - judgement.low > 0.5
        assert "times move in steps of up to" in judgement.reason
        assert "--benchmark-timer" in judgement.reason


def test_many_ticks_can_be_judged(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    slow, *fast = (
        ticks([level + n for n in rng.integers(0, 9, 20).tolist()]) for level in (1200, 1000, 1000)
    )
    assert judged(tmp_path, fast[0], fast[1], settings=LENIENT).outcome == "pass"
    assert judged(tmp_path, fast[0], slow, settings=GateSettings()).outcome == "regression"


def test_ticks_of_one_time_stamp_are_one_measurement(tmp_path: Path) -> None:
    same = ticks([1, 2] * 10, "2024")
    assert "the same measurement" in refused(tmp_path, same, same)
    assert judged(tmp_path, same, same | {"datetime": "2025"}).outcome == "inconclusive"


def test_a_clock_of_the_seconds_since_1970_is_coarse(tmp_path: Path) -> None:
    # A float holds such a time to some 2e-7 s; the clock moves in steps of a millisecond.
    rng = np.random.default_rng(6)
    files = [content((1e-3 + 2.4e-7 * rng.integers(-1, 2, 20)).tolist()) for _ in "ab"]
    for file in files:
        file["benchmarks"][0]["options"]["timer"] = "time"
    assert only(judged(tmp_path, *files)).outcome == "inconclusive"


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("timer", "reading"),
    [
        # 30 ms and 32 ms are two ticks most of the time; so is what takes 8 % longer.
        ("process_time", lambda ticks: ticks * 0.0156 + 4321.0987),
        ("monotonic", lambda ticks: np.floor(ticks * TICK_S * 1e3) / 1e3),
        ("time", lambda ticks: 1.7e9 + ticks * TICK_S + 2e-5 * np.sin(ticks)),
    ],
)
def test_ticks_need_not_be_regular(
    tmp_path: Path, timer: str, reading: Callable[[Any], Any], raw: bool
) -> None:
    rng = np.random.default_rng(8)
    begin = rng.integers(100, 5000, 30)
    ticks = [np.array([2] * 28 + [1, 1]), np.array([2] * 27 + [3] * 3)]
    rounds = [reading(begin + each) - reading(begin) for each in ticks]
    files = [content(each.tolist(), raw=raw) for each in rounds]
    for file in files:
        file["benchmarks"][0]["options"]["timer"] = timer
    settings = GateSettings(max_slowdown=0.08, process_noise=0)
    assert only(judged(tmp_path, *files, settings=settings)).outcome == "inconclusive"


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("timer", ["perf_counter", "process_time", "monotonic", "time"])
def test_a_fine_clock_finds_what_it_can(tmp_path: Path, timer: str, raw: bool) -> None:
    rng = np.random.default_rng(9)
    slow, *fast = (
        content((np.round(rng.normal(level, level / 500, 40), 9)).tolist(), raw=raw)
        for level in (0.0315, 0.03, 0.03)
    )
    for file in (slow, *fast):
        file["benchmarks"][0]["options"]["timer"] = timer
    settings = GateSettings(max_slowdown=0.05)
    assert only(judged(tmp_path, *fast, settings=settings)).outcome == "pass"
    assert only(judged(tmp_path, fast[0], slow, settings=settings)).outcome == "regression"


@pytest.mark.parametrize("named", [{"min": 0.9e-3, "max": 1.3e-3}, {"min": None, "max": None}])
def test_equal_quartiles_are_a_clock_that_ticks(tmp_path: Path, named: Content) -> None:
    files = drawn(0, raw=False), drawn(1, raw=False)
    for file in files:
        file["benchmarks"][0]["stats"] |= named | {"iqr": 0, "median": 1e-3, "stddev": 1e-6}
    settings = GateSettings(max_slowdown=0.05, process_noise=0)
    assert only(judged(tmp_path, *files, settings=settings)).outcome == "inconclusive"


def test_a_file_has_all_its_rounds(tmp_path: Path) -> None:
    short = drawn(1)
    short["benchmarks"][0]["stats"]["data"] = [1e-3]
    assert f"benchmark `{NAME}`: `stats`: it holds 1 of 20 rounds" in refused(
        tmp_path, drawn(0), short
    )


@pytest.mark.parametrize(
    "beyond", [{"rounds": 10**400}, {"iterations": 10**400}, {"median": 1e308}, {"max": 1e308}]
)
def test_numbers_that_nobody_measures_are_refused(tmp_path: Path, beyond: Content) -> None:
    other = drawn(1, raw=False)
    other["benchmarks"][0]["stats"] |= beyond
    name, *_ = beyond
    assert f"benchmark `{NAME}`: `stats.{name}` is" in refused(tmp_path, drawn(0), other)
