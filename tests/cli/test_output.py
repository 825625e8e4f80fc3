"""Exit codes of errors, and output that cannot be shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import click
import pytest
from click.testing import CliRunner, Result

from harness.charts import vega
from harness.cli import Program
from harness.cli.output import beside, errors
from harness.cli.streams import Stream
from harness.errors import InvalidInput, StoreError, Unavailable
from tests.helpers.commands import ROOT, TINY_RUN, Cli, command


def ended(error: BaseException, *options: str, decided: int = 0) -> Result:
    """Let a command of a program like ours end with an error."""

    @click.group(cls=Program)
    @click.option("--debug", is_flag=True, envvar="HARNESS_DEBUG")
    def program(debug: bool) -> None: ...

    @program.command()
    def ends() -> None:
        with errors(decided):
            raise error

    return CliRunner().invoke(program, [*options, "ends"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("it is bad."), 2),
        (Unavailable("it is bad."), 2),
        (StoreError("it is bad."), 74),
        (KeyboardInterrupt(), 130),
        (TypeError("it is bad"), 70),
        (MemoryError(), 70),
        (RecursionError("it is bad"), 70),
        (EOFError("it is bad"), 70),
        (BrokenPipeError(32, "it is bad"), 70),
        (BaseException("it is bad"), 70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_a_code_of_its_own_and_one_sentence(error: BaseException, code: int) -> None:
    done = ended(error)
    assert done.exit_code == code
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: ")
    # What the results have decided stays.
    assert ended(error, decided=1).exit_code == (130 if code == 130 else 1)


def test_a_fault_names_the_file_with_its_traceback() -> None:
    done = ended(TypeError("it is\nbad"))
    assert "error: this is a fault of the harness: TypeError: it is; the traceback is in `" in (
        done.stderr
    )
    path = Path(done.stderr.split("`")[1])
    assert "Traceback" in path.read_text("utf-8")
    path.unlink()


@pytest.mark.parametrize("option", [True, False])
def test_a_fault_prints_its_traceback_when_it_is_asked(
    option: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not option:
        monkeypatch.setenv("HARNESS_DEBUG", "1")
    done = ended(MemoryError(), *["--debug"] * option)
    assert done.exit_code == 70
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("error: this is a fault of the harness: MemoryError.\n")


def test_a_current_folder_that_is_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = ended(TypeError("never reached"))
    assert (done.exit_code, done.stderr) == (
        2,
        "error: the current folder cannot be used; change to another one: No such file or "
        "directory.\n",
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "── ±2 % → é … ?"),
        ("latin-1", "-- ±2 % ? é ... ?"),
        ("cp1252", "-- ±2 % ? é … ?"),
        ("ascii", "-- +-2 % ? ? ... ?"),
        ("utf-16", "── ±2 % → é … ?"),
    ],
)
def test_a_character_that_cannot_be_shown_is_replaced(
    tmp_path: Path, encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("w", encoding=encoding) as file, monkeypatch.context() as patch:
        stream = Stream(file)
        patch.setattr(sys, "stdout", stream)
        click.echo("── ±2 % → é … \udcff", nl=False)
    assert (tmp_path / "out").read_text(encoding) == shown
    assert stream.encoding == encoding


def files(folder: Path) -> list[Path]:
    """Write two files of pytest-benchmark, the second of which is slower."""
    for name, seconds in ("old", 0.001), ("new", 0.0013):
        data = [seconds * (1 + k / 1000) for k in range(50)]
        stats = {"mean": seconds, "stddev": 1e-5, "median": seconds, "rounds": 50, "data": data}
        benchmark = {"fullname": "test_é.py::test_sum", "name": "test_sum", "stats": stats}
        machine = {"python_implementation": "CPython", "python_version": "3.11.7", "cpu": {}}
        content = {"version": "5.1.0", "machine_info": machine, "benchmarks": [benchmark]}
        (folder / f"{name}.json").write_text(json.dumps(content | {"datetime": name}))
    return [folder / "old.json", folder / "new.json"]


def judged(folder: Path, stdout: int | IO[Any] | None, **variables: str) -> tuple[int, str]:
    """Run the gate with this standard output; return its exit code, and what it says of errors."""
    words = ("--json", folder / "v.json", "--junit", folder / "v.xml", "--max-slowdown", "5%")
    done = subprocess.run(
        command("gate", "--pytest-benchmark", *files(folder), *words),
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=os.environ | variables,
        timeout=60,
    )
    assert json.loads((folder / "v.json").read_bytes())["outcome"] == "regression"
    assert (folder / "v.xml").read_bytes().endswith(b"</testsuites>\n")
    return done.returncode, done.stderr.decode()


def test_a_verdict_keeps_its_code_and_files_when_a_pipe_is_closed(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    code, said = judged(tmp_path, write, PYTHONIOENCODING="ascii")
    os.close(write)
    assert (code, said) == (1, "")


def test_a_full_standard_output_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("--help"), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 74
    assert done.stderr == ("error: standard output cannot be written: No space left on device.\n")


def test_a_report_that_cannot_be_made_leaves_a_good_run(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vl_convert.py").write_text("raise ImportError('it was built for another system')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    vega.prepare.cache_clear()
    where = ("--dispatch", "inline", "--results", tmp_path, "--run-id", "x", "--seeds", 1)
    done = cli(*TINY_RUN, *where, "--backends", "reference", "--report")
    assert done.returncode == 0
    warning = done.stderr.splitlines()[-1]
    assert warning.startswith("warning: the report could not be made (`python -m harness report x")
    assert warning.endswith(
        "charts cannot be drawn: vl-convert made no JavaScript: ImportError: it was built for "
        "another system."
    )
    assert "Traceback" not in done.stderr
    assert f"Results: {tmp_path}/x" in done.stdout
    assert (tmp_path / "x" / "trials.csv").is_file()
    vega.prepare.cache_clear()


@pytest.mark.parametrize("error", [BaseException("panic"), StoreError("panic"), MemoryError()])
def test_what_is_made_beside_the_results_fails_with_a_warning(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    with beside("the report could not be made"):
        raise error
    assert capsys.readouterr().err.startswith("warning: the report could not be made: ")


def test_vegas_javascript_is_whole_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    vega.prepare.cache_clear()
    vega.bundle.cache_clear()
    assert "\u2026" in vega.bundle()


def test_a_path_that_is_no_utf8_is_named_in_every_format(cli: Cli, tmp_path: Path) -> None:
    old, new = files(tmp_path)
    odd = old.rename(tmp_path / os.fsdecode(b"o\xff.json"))
    outputs = {name: tmp_path / f"v.{name}" for name in ("json", "junit", "markdown")}
    words = [word for name, path in outputs.items() for word in (f"--{name}", path)]
    done = cli("gate", "--pytest-benchmark", odd, new, "--max-slowdown", "5%", *words)
    assert done.returncode == 1, done.stderr
    for path in outputs.values():
        assert "udcff" in path.read_text("utf-8")
