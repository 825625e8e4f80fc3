"""The gate on files of pytest-benchmark: real ones, and real ones with a fault put in."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InvalidInput
from harness.gate.pytest_benchmark import judge
from harness.gate.settings import GateSettings
from harness.gate.verdict import Verdict

BENCHMARKS = """
import os
import pytest

SIZE = int(os.environ["SIZE"])

def test_summing(benchmark):
    assert SIZE > 0
    benchmark(lambda: sum(range(SIZE)))

@pytest.mark.parametrize("name", ["<script>|"])
def test_sorting(benchmark, name):
    benchmark(sorted, list(range(2000)))
"""
SUMMING, SORTING = "test_it.py::test_summing", "test_it.py::test_sorting[<script>|]"
SETTINGS = GateSettings()
LENIENT = SETTINGS.model_copy(update={"max_slowdown": 0.3})
Content: TypeAlias = Any


def measure(folder: Path, size: int, code: int = 0) -> Content:
    """Run pytest-benchmark for real; return its JSON. `code`: what pytest exits with."""
    (folder / "test_it.py").write_text(BENCHMARKS)
    plugins = ("-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider")
    options = (*plugins, "--benchmark-max-time=0.1", "--benchmark-json=out.json")
    alone = {"SIZE": str(size), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "test_it.py"],
        cwd=folder,
        # Not as a part of this session, whose workers it would take for its own.
        env={k: v for k, v in os.environ.items() if "XDIST" not in k} | alone,
        capture_output=True,
    )
    assert done.returncode == code, done.stdout
    return json.loads((folder / "out.json").read_text())


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Content, Content]:
    """Files from before and after the first benchmark became eight times as slow."""
    folder = tmp_path_factory.mktemp("benchmarks")
    return measure(folder, 2000), measure(folder, 16000)


@pytest.fixture
def real(measured: tuple[Content, Content]) -> Content:
    """A real file, to be changed at will."""
    return json.loads(json.dumps(measured[0]))


def save(folder: Path, *contents: Content) -> list[Path]:
    paths = [folder / f"{n}.json" for n in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return paths


def with_times(content: Content, *rounds: Iterable[float], raw: bool = True) -> Content:
    """Return the content with other times, in seconds, for its benchmarks."""
    # Without the real rounds, which are thousands and would take longest to copy.
    slim = [b | {"stats": b["stats"] | {"data": []}} for b in content["benchmarks"]]
    copy = json.loads(json.dumps(content | {"datetime": None, "benchmarks": slim}))
    for benchmark, times in zip(copy["benchmarks"], map(list, rounds), strict=True):
        benchmark["stats"] |= {
            "mean": float(np.mean(times)),
            "median": float(np.median(times)),
            "stddev": float(np.std(times, ddof=1)) if len(times) > 1 else 0,
            "iqr": float(np.subtract(*np.percentile(times, (75, 25)))),
            "rounds": len(times),
            "data": times,
        }
        if not raw:
            del benchmark["stats"]["data"]
    return copy


def steady(rng: np.random.Generator, level: float = 1.0) -> list[float]:
    """Return ten rounds that are all but equal, by a fine clock."""
    return list(level * rng.normal(1, 1e-6, 10))


def again(content: Content) -> Content:
    """Return another measurement of the same code, a little slower or faster."""
    rng = np.random.default_rng(17)
    rounds = [b["stats"]["data"] * rng.normal(1, 1e-3, ()) for b in content["benchmarks"]]
    return with_times(content, *rounds)


def without_first(content: Content) -> Content:
    """Return the content less its first benchmark."""
    return content | {"benchmarks": content["benchmarks"][1:]}


def drawn(rng: np.random.Generator, level: float = 1.0, process: float = 0.0) -> list[float]:
    """Return the rounds of a process: alike in a row, and all off by the luck of the process."""
    noise = np.zeros(40)
    for t in range(1, 40):
        noise[t] = 0.6 * noise[t - 1] + rng.normal(0, 0.002)
    return list(level * np.exp(noise + rng.normal(0, process)))


def test_a_real_slowdown_is_found(tmp_path: Path, measured: tuple[Content, Content]) -> None:
    old, new = save(tmp_path, *measured)
    verdict = judge([(old, new)], SETTINGS.model_copy(update={"max_slowdown": 0.2}))
    summing, sorting = verdict.judgements
    assert (summing.subject, sorting.subject) == (SUMMING, SORTING)
    assert (summing.outcome, summing.metric, summing.n) == ("regression", "time", 1)
    # What the files say; how much eight times the work slows a busy machine down is its own affair.
    before, after = (content["benchmarks"][0]["stats"] for content in measured)
    assert summing.change is not None
    assert after["min"] / before["max"] < 1 + summing.change < after["max"] / before["min"]
    assert verdict.outcome == "regression"
    assert str(new) in verdict.compared
    assert "process_noise" in verdict.notes[0]


@pytest.mark.parametrize(("pairs", "luck"), [(1, 1), (2, 2)])
def test_as_many_pairs_as_are_wanted_decide(
    tmp_path: Path, real: Content, pairs: int, luck: int
) -> None:
    rng = np.random.default_rng(luck)

    def judged(pairs: int) -> Verdict:
        levels = rng.normal(1, 0.01, (2 * pairs, 2))
        files = [with_times(real, *(steady(rng, x) for x in both)) for both in levels]
        paths = save(tmp_path, *files)
        return judge(list(zip(paths[::2], paths[1::2], strict=True)), SETTINGS)

    few = judged(pairs)
    said = [re.findall(r"some (\d+) pairs would probably", one.reason) for one in few.judgements]
    (wanted,) = {int(number) for found in said for number in found}
    assert pairs < wanted < 30
    assert judged(wanted).outcome == "pass"


def test_one_pair_is_no_surer_than_processes_differ(tmp_path: Path, real: Content) -> None:
    rng = np.random.default_rng(1)
    paths = save(tmp_path, *(with_times(real, steady(rng), steady(rng)) for _ in "ab"))
    pair = (paths[0], paths[1])
    verdict = judge([pair], SETTINGS)
    (judgement, _) = verdict.judgements
    assert judgement.high == pytest.approx(np.expm1(1.96 * np.sqrt(2) * 0.01), rel=1e-3)
    assert verdict.outcome == "inconclusive"
    assert "measure that many anew and give only those" in judgement.reason
    quiet = SETTINGS.model_copy(update={"process_noise": 0.001})
    assert judge([pair], quiet).outcome == "pass"


@pytest.mark.parametrize(("level", "outcome"), [(1.0, "pass"), (1.05, "regression")])
def test_several_pairs(tmp_path: Path, real: Content, level: float, outcome: str) -> None:
    rng = np.random.default_rng(3)
    contents = [
        with_times(real, drawn(rng, factor, 0.006), drawn(rng, factor, 0.006))
        for _ in range(8)
        for factor in (1.0, level)
    ]
    paths = save(tmp_path, *contents)
    verdict = judge(list(zip(paths[::2], paths[1::2], strict=True)), SETTINGS)
    assert verdict.outcome == outcome
    assert [judgement.n for judgement in verdict.judgements] == [8, 8]
    assert verdict.notes == ()
    assert "and 7 more pairs" in verdict.compared


def test_identical_code_rarely_fails(tmp_path: Path, real: Content) -> None:
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(120):
        contents = [
            with_times(real, drawn(rng, process=0.01), drawn(rng, process=0.01)) for _ in "ab"
        ]
        old, new = save(tmp_path, *contents)
        alarms += judge([(old, new)], SETTINGS).outcome == "regression"
    # 1 % is promised; more than 5 of 120 would happen by chance in 0.2 % of the cases.
    assert alarms <= 5


def test_p_values_are_corrected_for_their_number(tmp_path: Path, real: Content) -> None:
    settings = SETTINGS.model_copy(update={"process_noise": 0.01, "false_alarms": 0.01})
    rng = np.random.default_rng(2)
    slower = steady(rng, 1.036)  # p = 0.006: below 0.01, but not for the first of twenty.
    alone = with_times(real, slower, steady(rng))
    alone["benchmarks"] = alone["benchmarks"][:1]
    before = with_times(real, steady(rng), steady(rng))
    old, new = save(tmp_path, before, alone)
    assert judge([(old, new)], settings).outcome == "regression"
    for content in (before, alone):
        first = content["benchmarks"][0]
        names = [first | {"fullname": f"f{n}"} for n in range(19)]
        fillers = with_times({"benchmarks": names}, *(steady(rng) for _ in names))
        content["benchmarks"] = [first, *fillers["benchmarks"]]
    old, new = save(tmp_path, before, alone)
    verdict = judge([(old, new)], settings)
    assert verdict.judgements[0].outcome == "inconclusive"


def test_files_without_rounds_are_used_as_they_are(tmp_path: Path, real: Content) -> None:
    rng = np.random.default_rng(5)
    contents = [
        with_times(real, drawn(rng, level), drawn(rng), raw=raw)
        for level, raw in ((1.0, True), (1.2, False))
    ]
    old, new = save(tmp_path, *contents)
    verdict = judge([(old, new)], SETTINGS)
    assert verdict.judgements[0].change == pytest.approx(0.2, abs=0.01)
    assert verdict.judgements[0].outcome == "regression"
    assert f"no single rounds in `{new}`: median" in verdict.notes[1]
    assert "--benchmark-save-data" in verdict.notes[1]


@pytest.mark.parametrize(
    ("level", "interrupted", "outcome"), [(1.2, 1, "regression"), (1.0, 0, "pass")]
)
def test_one_outlier_does_not_turn_a_verdict(
    tmp_path: Path, real: Content, level: float, interrupted: int, outcome: str
) -> None:
    rng = np.random.default_rng(7)
    both = [factor * rng.normal(1, 0.02, 1000) for factor in (1.0, level)]
    both[interrupted][500] *= 100
    old, new = save(tmp_path, *(with_times(real, times, times, raw=False) for times in both))
    (judgement, _) = judge(
        [(old, new)], SETTINGS.model_copy(update={"max_slowdown": 0.1})
    ).judgements
    assert judgement.change == pytest.approx(level - 1, abs=0.01)
    assert judgement.outcome == outcome


@given(
    seed=st.integers(0, 1000),
    level=st.sampled_from([0.8, 1.0, 1.5]),
    interrupted=st.sampled_from([0, 1]),
    outlier=st.floats(1e-3, 1e6),
    quartiles=st.booleans(),
)
def test_no_outlier_turns_a_verdict(
    tmp_path_factory: pytest.TempPathFactory,
    measured: tuple[Content, Content],
    seed: int,
    level: float,
    interrupted: int,
    outlier: float,
    quartiles: bool,
) -> None:
    rng = np.random.default_rng(seed)
    both = [factor * rng.normal(1, 0.02, 100) for factor in (1.0, level)]
    both[interrupted][50] *= outlier
    contents = [with_times(measured[0], times, times, raw=False) for times in both]
    for benchmark in [] if quartiles else [b for c in contents for b in c["benchmarks"]]:
        del benchmark["stats"]["iqr"]
    old, new = save(tmp_path_factory.mktemp("outlier"), *contents)
    (judgement, _) = judge([(old, new)], LENIENT).judgements
    expected = "regression" if level > 1 else "pass"
    # Without the quartiles an outlier may hide what there is, but not turn it round.
    assert judgement.outcome in ({expected} if quartiles else {expected, "inconclusive"})


def test_a_single_round_shows_nothing(tmp_path: Path, real: Content) -> None:
    old, new = save(tmp_path, *(with_times(real, [1.0], [1.0], raw=raw) for raw in (True, False)))
    verdict = judge([(old, new)], SETTINGS)
    assert verdict.outcome == "inconclusive"
    assert "a single round shows no spread" in verdict.judgements[0].reason
    assert verdict.judgements[0].low is None


def test_new_benchmarks_are_listed(tmp_path: Path, real: Content) -> None:
    old, new = save(tmp_path, without_first(real), again(real))
    verdict = judge([(old, new)], LENIENT)
    assert [judgement.subject for judgement in verdict.judgements] == [SORTING]
    assert verdict.notes[-1] == f"not in every file, and not judged: {SUMMING}."
    assert verdict.outcome == "pass"


def test_a_benchmark_that_is_gone_does_not_pass(tmp_path: Path, real: Content) -> None:
    old, new = save(tmp_path, real, without_first(again(real)))
    verdict = judge([(old, new)], LENIENT)
    kept, gone = verdict.judgements
    assert (kept.subject, kept.outcome) == (SORTING, "pass")
    assert (gone.subject, gone.outcome, gone.change) == (SUMMING, "inconclusive", None)
    assert gone.reason.startswith(f"it is in `{old}`, but not in `{new}`: it failed")
    assert not any(SUMMING in note for note in verdict.notes)
    assert verdict.outcome == "inconclusive"


def test_a_benchmark_that_is_gone_from_one_of_several_pairs(tmp_path: Path, real: Content) -> None:
    others = again(real), again(again(real)), again(again(again(real)))
    paths = save(tmp_path, real, *others[:2], without_first(others[2]))
    verdict = judge([(paths[0], paths[1]), (paths[2], paths[3])], LENIENT)
    assert [(f.subject, f.outcome) for f in verdict.judgements] == [
        (SORTING, "pass"),
        (SUMMING, "inconclusive"),
    ]
    assert f"not in `{paths[3]}`" in verdict.judgements[1].reason


def test_a_failing_benchmark_is_gone_from_a_real_file(
    tmp_path: Path, measured: tuple[Content, Content]
) -> None:
    failing = measure(tmp_path, -1, code=1)
    assert [benchmark["fullname"] for benchmark in failing["benchmarks"]] == [SORTING]
    old, new = save(tmp_path, measured[0], failing)
    verdict = judge([(old, new)], LENIENT)
    assert verdict.judgements[-1].subject == SUMMING
    assert verdict.outcome != "pass"


def test_commits_are_named(tmp_path: Path, real: Content) -> None:
    real["commit_info"] = {"id": "3f2a1c9aaaaa", "dirty": True}
    old, new = save(tmp_path, real, again(real))
    assert judge([(old, new)], SETTINGS).compared == (
        f"{new} (3f2a1c9, with changes) against {old} (3f2a1c9, with changes)"
    )


def test_extreme_times_are_figures(tmp_path: Path, real: Content) -> None:
    for raw in (True, False):
        contents = [with_times(real, [t, 3 * t], [t, t], raw=raw) for t in (1e-150, 1e11)]
        old, new = save(tmp_path, *contents)
        assert judge([(old, new)], SETTINGS).judgements[0].change is not None
        assert judge([(new, old)], SETTINGS).judgements[0].change == pytest.approx(-1)


def edit(*keys: Any, value: Any) -> Callable[[Content], Content]:
    """Return what sets a value deep inside."""

    def apply(content: Content) -> Content:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return content

    return apply


FIRST = ("benchmarks", 0, "stats")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda _: "", "cannot be read as JSON of pytest-benchmark: Invalid JSON"),
        (lambda _: "not json", "Invalid JSON"),
        (lambda _: "[1, 2", "Invalid JSON: the file ends within a list"),
        (lambda _: "[" * 10_000, "Invalid JSON"),
        (lambda _: '"\\ud800"', "Invalid JSON"),
        (lambda _: "[1, 2]", "should be an object"),
        (lambda _: '{"runs": []}', "pytest-benchmark: it has no `machine_info`."),
        (edit("benchmarks", value=[]), "pytest-benchmark: it holds no benchmarks."),
        (edit("benchmarks", value=None), "`benchmarks` should be a valid array"),
        (edit("machine_info", value="vm"), "`machine_info` should be an object"),
        (edit(*FIRST, "median", value=0), f"`{SUMMING}`: `stats.median` is 0: should be greater"),
        (edit(*FIRST, "median", value=0), "the clock is too coarse"),
        (edit(*FIRST, "mean", value=-1), f"`{SUMMING}`: `stats.mean` is -1: should be greater"),
        (edit(*FIRST, "mean", value=True), "`stats.mean` is True: should be a valid number"),
        (edit(*FIRST, "mean", value=None), "`stats.mean` is None: should be a valid number"),
        (edit(*FIRST, "mean", value=float("nan")), "`stats.mean` is nan: should be"),
        (edit(*FIRST, "stddev", value=float("inf")), "`stats.stddev` is inf: should be"),
        (edit(*FIRST, "rounds", value=0), "`stats.rounds` is 0: should be greater"),
        (edit(*FIRST, "data", value=[1, 0]), f"`{SUMMING}`: `stats.data.1` is 0"),
        (edit(*FIRST, "data", value=[1, -1]), f"`{SUMMING}`: `stats.data.1` is -1"),
        (edit(*FIRST, "data", value=[float("nan")]), f"`{SUMMING}`: `stats.data.0` is nan"),
        (edit(*FIRST, "data", value=["fast"]), "`stats.data.0` is 'fast': should be a valid"),
        (edit("benchmarks", 0, value={"stats": {}}), "the benchmark at place 1 has no `fullname`"),
        (edit(*FIRST, value={}), f"`{SUMMING}` has no `stats.mean`"),
        (lambda _: '{"benchmarks": [], "benchmarks": []}', "`benchmarks` is in one object twice"),
        (edit("benchmarks", 0, "fullname", value=SORTING), "is in it twice"),
        (edit("machine_info", "cpu", "brand_raw", value="Z80"), "different conditions: processor"),
        (edit("machine_info", "cpu", "count", value=64), "number of cores (2, 64)"),
        (edit("machine_info", "python_version", value="3.99"), "Python version (3."),
        (edit("machine_info", "python_implementation", value="PyPy"), "Python (CPython, PyPy)"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    tmp_path: Path, real: Content, spoil: Callable[[Content], Content], sentence: str
) -> None:
    real["machine_info"]["cpu"]["count"] = 2
    old, new = save(tmp_path, real, spoil(json.loads(json.dumps(real))))
    with pytest.raises(InvalidInput) as caught:
        judge([(old, new)], SETTINGS)
    assert sentence in str(caught.value)
    assert str(new) in str(caught.value)


def test_a_byte_order_mark_is_read_and_a_compressed_file_is_named(
    tmp_path: Path, real: Content
) -> None:
    old, new = save(tmp_path, real, again(real) | {"commit_info": None})
    new.write_bytes(codecs.BOM_UTF8 + new.read_bytes())
    assert judge([(old, new)], LENIENT).outcome == "pass"
    new.write_bytes(gzip.compress(new.read_bytes()))
    with pytest.raises(InvalidInput, match="is compressed; unpack it"):
        judge([(old, new)], LENIENT)


def test_files_that_are_not_there_or_have_nothing_in_common(tmp_path: Path, real: Content) -> None:
    renamed = json.loads(json.dumps(real))
    for n, benchmark in enumerate(renamed["benchmarks"]):
        benchmark["fullname"] = f"other{n}"
    old, new = save(tmp_path, real, renamed)
    with pytest.raises(InvalidInput, match="no benchmark in common"):
        judge([(old, new)], SETTINGS)
    with pytest.raises(InvalidInput, match=r"none.json` cannot be read: No such file"):
        judge([(old, tmp_path / "none.json")], SETTINGS)
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        judge([(old, tmp_path)], SETTINGS)


def test_a_file_in_two_pairs_is_refused(tmp_path: Path, real: Content) -> None:
    old, new, other = save(tmp_path, real, real, real)
    with pytest.raises(InvalidInput, match=r"0.json` is in two pairs"):
        judge([(old, new), (old, other)], SETTINGS)
