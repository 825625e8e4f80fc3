"""The command `gate`: what it refuses, and the way from files of pytest-benchmark to exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml

from tests.helpers.commands import Cli


def benchmarks(path: Path, seconds: float, cpu: str = "Z80") -> Path:
    """Write a file as pytest-benchmark does, with one steady benchmark."""
    rounds = [seconds * (1 + 1e-4 * (n % 3)) for n in range(30)]
    stats: dict[str, Any] = {"mean": seconds, "median": seconds, "stddev": seconds * 1e-4}
    stats |= {"rounds": len(rounds), "data": rounds}
    content = {
        "machine_info": {"cpu": {"brand_raw": cpu}},
        "benchmarks": [{"fullname": "test_it.py::test_it", "stats": stats}],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give one of --against, --baseline, --write-baseline, --pytest-benchmark; got none."),
        (["--against", "x", "--baseline", "y"], "got `--against` and `--baseline`."),
        (
            ["--against", "x", "--max-slowdown", "2"],
            "`--max-slowdown 2`: write it with a percent",
        ),
        (["--against", "x", "--max-slowdown", "fast"], "write a share as `2%` or `0.02`"),
        (["--against", "x", "--budget", "soon"], "write a duration as `90s`"),
        (["--against", "x", "--budget", "0"], "`--budget 0`: should be greater than 0"),
        (["--against", "x", "--false-alarms", "90%"], "`--false-alarms 90%`: should be less"),
        (["--against", "x", "--backends", "jxa"], "unknown backend `jxa` (did you mean `jax`?)"),
        (["--against", "x", "--devices", "gpx"], "did you mean `gpu`?"),
        (["--against", "x", "--set", "rho=1"], "`rho` = '1': should be less than 1"),
        (["--against", "x", "--preset", "postd"], "did you mean `posted`?"),
        (["--against", "x", "--json", "/proc/x"], "`/proc/x` cannot be written"),
        (["--against", "x", "--json", "/tmp/x", "--junit", "/tmp/x"], "named for two outputs"),
        (["--write-baseline", "/none/x"], "`/none/x` cannot be written: No such file"),
        (["--write-baseline", "/tmp/x", "--json", "/tmp/y"], "`--json` means nothing with"),
        (["--pytest-benchmark", "a", "b", "--budget", "9m"], "`--budget` means nothing with"),
        (["--pytest-benchmark", "/none/a", "b"], "`/none/a` cannot be read: No such file"),
        (["--pytest-benchmark", "a"], "requires 2 arguments"),
        (["--pytest-benchmark", "/tmp/x", "b", "--json", "/tmp/x"], "is read: write to another"),
        (["--baseline", "/tmp/x", "--markdown", "/tmp/x"], "is read: write to another"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_sentence(cli: Cli, arguments: list[str], sentence: str) -> None:
    done = cli("gate", *arguments)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_all_problems_are_reported_at_once(cli: Cli) -> None:
    done = cli("gate", "--max-slowdown", "x", "--set", "rho=7", "--json", "/none/x")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 4


@pytest.mark.parametrize(
    ("seconds", "limit", "code", "word"),
    [
        (1.0, "5%", 0, "PASS: "),
        (1.3, "5%", 1, "REGRESSION: test_it.py::test_it is 30.0 % slower ["),
        (1.0, "1%", 3, "INCONCLUSIVE: "),
    ],
)
def test_files_of_pytest_benchmark(
    cli: Cli, tmp_path: Path, seconds: float, limit: str, code: int, word: str
) -> None:
    old, new = benchmarks(tmp_path / "old.json", 1.0), benchmarks(tmp_path / "new.json", seconds)
    outputs = {kind: tmp_path / f"gate.{kind}" for kind in ("json", "junit", "markdown")}
    asked = [argument for kind, path in outputs.items() for argument in (f"--{kind}", path)]
    summary = tmp_path / "summary"
    done = cli(
        *("gate", "--pytest-benchmark", old, new, "--max-slowdown", limit, *asked),
        GITHUB_STEP_SUMMARY=str(summary),
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1].startswith(word)
    assert done.stderr == ""
    outcome = word.partition(":")[0].lower()
    assert json.loads(outputs["json"].read_text())["outcome"] == outcome
    (suite,) = JUnitXml.fromfile(str(outputs["junit"]))
    assert (suite.failures, suite.errors) == (code == 1, code == 3)
    assert outputs["markdown"].read_text() == summary.read_text()
    assert f"### Benchmark gate: {outcome}" in summary.read_text()


def test_pairs_may_be_repeated(cli: Cli, tmp_path: Path) -> None:
    pairs: list[object] = []
    for n in range(4):
        old = benchmarks(tmp_path / f"old{n}.json", 1 + 0.001 * n)
        pairs += ["--pytest-benchmark", old, benchmarks(tmp_path / f"new{n}.json", 1.0)]
    done = cli("gate", *pairs)
    assert done.returncode == 0, done.stderr
    assert "and 3 more pairs" in done.stdout


def test_another_machine_is_refused(cli: Cli, tmp_path: Path) -> None:
    old = benchmarks(tmp_path / "old.json", 1.0)
    done = cli("gate", "--pytest-benchmark", old, benchmarks(tmp_path / "new.json", 1.0, "6502"))
    assert done.returncode == 2
    assert "different conditions: processor (Z80, 6502)" in done.stderr


def test_no_error_is_endless(cli: Cli, tmp_path: Path) -> None:
    files = [benchmarks(tmp_path / name, 1.0) for name in ("old.json", "new.json")]
    for file, timer in zip(files, ("perf_counter", "process_time"), strict=True):
        content = json.loads(file.read_text())
        content["benchmarks"][0] |= {"fullname": "x" * 125_000, "options": {"timer": timer}}
        file.write_text(json.dumps(content))
    done = cli("gate", "--pytest-benchmark", *files)
    assert done.returncode == 2
    assert len(done.stderr) < 5000
    assert "(perf_counter, process_time). Measure all on one machine" in done.stderr
