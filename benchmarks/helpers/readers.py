"""Every reader of what comes from elsewhere: healthy input, and what a command does with it.

Where the command is cheap it is run in this process, otherwise the function that it calls.
"""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.helpers import folders, healthy, hostile
from benchmarks.helpers.bounds import Began
from benchmarks.helpers.mutation import Make, either, text, tree
from harness import Run
from harness.backend.command import Command, named
from harness.backend.process import ProcessWorker
from harness.cli import cli, options
from harness.cli.run import run
from harness.diagnosis import predictions_file
from harness.errors import InvalidInput, WorkerError
from harness.gate import pytest_benchmark, report
from harness.gate.baseline import Baseline
from harness.gate.settings import GateSettings
from harness.history.archive import read_archive
from harness.inputs.quantities import fraction, seconds
from harness.measure import gradient, gradient_file, messages
from harness.measure.fingerprint import differences
from harness.runs.settings import Settings
from harness.store.results_folder import find_run, open_folder
from harness.submit.unpack_run import save, unpack
from harness.task.task import Task


class Reader(NamedTuple):
    """What is read, and how."""

    make: Make
    """Returns hostile input."""
    read: Callable[[bytes], object]
    """Reads it in the current folder, which is empty."""
    starts: bool = False
    """Whether it may start work, which ends it then."""
    programs: tuple[str, ...] = ("git",)
    """What it may run."""
    prepare: Callable[[Path], object] | None = None
    """Imports what it needs, and may write to a folder.

    It then reads in a process of its own, whose memory is bounded.
    """


def _write_run(
    manifest: bytes | None = None, record: bytes | None = None, name: str = "mine"
) -> Path:
    folder = Path("results", name)
    (folder / "records").mkdir(parents=True)
    (folder / "manifest.json").write_bytes(manifest or json.dumps(healthy.MANIFEST).encode())
    first, second = (json.dumps(one).encode() for one in healthy.RECORDS)
    (folder / "records" / "seed0-jax-cpu.json").write_bytes(first)
    (folder / "records" / "seed0-torch-cpu.json").write_bytes(record or second)
    return folder


class Fault(Exception):
    """A command ended in a way that no document knows."""


def command(*words: str) -> str:
    """Run a command of the harness in this process, and return what it printed.

    Raises `HarnessError` if it refuses.
    """
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    with redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
        try:
            cli(words, "harness")
        except SystemExit as end:
            code = end.code
    text = said.buffer.getvalue().decode()
    if odd := [c for c in text if not c.isprintable() and c not in "\n\t"]:
        raise Fault(f"{words}: {odd[0]!r} in its output: {text[:2000]!r}")
    if code in {2, 74}:
        raise InvalidInput(text)
    if code == 70 and Began.__name__ in text:
        raise Began
    if code not in _ENDS.get(words[0] if words else "", {0}):
        raise Fault(f"{words}: exit code {code}: {text[-2000:]}")
    return text


# How commands may end that do not fail.
_ENDS: Mapping[str, set[int]] = {"gate": {0, 1, 3}, "run": {0, 1}, "parity": {0, 1}}


_RARELY = 50
"""What takes long is done for one input in so many."""


def _shown(data: bytes, *words: str) -> None:
    """Run a command that takes long for few of the inputs."""
    if zlib.crc32(data) % _RARELY == 0:
        command(*words)


def _manifest(data: bytes) -> None:
    _write_run(manifest=data)
    found = Run("mine")
    _ = found.failures, found.missing, found.trials
    _shown(data, "show", "mine")
    _shown(data, "list")


def _run_record(data: bytes) -> None:
    _write_run(record=data)
    found = Run("mine")
    if found.problems:
        raise InvalidInput(*found.problems)
    _ = found.trials, found.steps, found.curves, found.chunks, found.failures
    _shown(data, "show", "mine")
    _shown(data, "explain", "mine")


def _table(data: bytes) -> None:
    file, number = io.BytesIO(data), 0
    while size := file.read(4):
        folder = _write_run(name=f"mine{number}")
        (folder / "trials.parquet").write_bytes(file.read(int.from_bytes(size, "big")))
        number += 1
    read_archive("results")
    _shown(data, "history")


def _baseline(data: bytes) -> None:
    Path("baseline.json").write_bytes(data)
    stored = Baseline.read(Path("baseline.json"))
    differences(stored.fingerprint, {"cpu": "Z80"})


def _predictions(data: bytes) -> None:
    Path("mine.csv").write_bytes(data)
    given = predictions_file.read(Path("mine.csv"))
    given.mse(0.1)
    if zlib.crc32(data) % _RARELY == 0:
        command("explain", "--predictions", "mine.csv")


def _benchmarks(data: bytes) -> None:
    Path("old.json").write_text(json.dumps(healthy.MEASURED))
    Path("new.json").write_bytes(data)
    verdict = pytest_benchmark.judge([(Path("old.json"), Path("new.json"))], GateSettings())
    for form in (report.terminal, report.as_json, report.junit, report.markdown):
        form(verdict)


def _settings(data: bytes) -> None:
    Path("pyproject.toml").write_bytes(data)
    GateSettings.read(Path())
    for found in named(Path(), ()).values():
        if isinstance(found, InvalidInput):
            raise found


def _task_file(data: bytes) -> None:
    Path("task.yaml").write_bytes(data)
    task = options.build_task(None, Path("task.yaml"), ())
    _ = task.model, task.chunk_epochs(), task.epochs_per_point


def _runtime_env(data: bytes) -> None:
    Path("env.yaml").write_bytes(data)
    options.read_runtime_env(Path("env.yaml"))


def _words(data: bytes) -> str:
    """Return bytes as Python returns the words of a command line."""
    return data.replace(b"\0", b"").decode(errors="surrogateescape")


def _setting(data: bytes) -> None:
    options.build_task(None, None, _words(data).split("\n"))


def _sweep(data: bytes) -> None:
    swept = options.build_sweep(_words(data).split("\n"), ())
    Settings(sweep=swept).plan("mine", Task(), has_gpu=False)


def _seeds(data: bytes) -> None:
    try:
        context = run.make_context("run", ["--seeds", _words(data)])
    except click.UsageError as error:
        raise InvalidInput(error.format_message()) from None
    options.read_request(context)


def _quantity(data: bytes) -> None:
    problems = []
    for parse in (fraction, seconds):
        try:
            parse(_words(data))
        except ValueError as error:
            problems.append(str(error))
    if len(problems) == 2:
        raise InvalidInput(*problems)


def _run_id(data: bytes) -> None:
    _write_run()
    find_run("results", _words(data))


def _url(data: bytes) -> None:
    open_folder(_words(data))


def _archive(data: bytes) -> None:
    found = unpack(data.decode(errors="replace"), "mine")
    if found and zlib.crc32(data) % _RARELY == 0:
        save(found, "results")


def _gradient(data: bytes) -> None:
    Path("mine.npz").write_bytes(data)
    file = gradient_file.read(Path("mine.npz"), Task().model)
    if zlib.crc32(data) % _RARELY == 0:
        gradient.compare(file)


def _run_command(data: bytes) -> None:
    _write_run()
    Path("task.yaml").write_text(healthy.TASK_FILE)
    Path("mine.csv").write_text(healthy.CSV)
    Path("old.json").write_text(json.dumps(healthy.MEASURED))
    Path("baseline.json").write_text(json.dumps(healthy.BASELINE))
    Path("pyproject.toml").write_text(healthy.PYPROJECT)
    command(*_words(data).split("\n"))


def _message(data: bytes) -> None:
    kind, value = messages.read(data)
    if kind == "failed" and "`" in value[0]:
        raise WorkerError(value[0])


def _converse(data: bytes) -> None:
    for number, answer in enumerate(data.split(b"\0\n\0")):
        Path(str(number)).write_bytes(answer)
    words = (sys.executable, "-I", "-S", "-c", healthy.PROGRAM, *map(str, healthy.SIZES))
    with closing(ProcessWorker(Command("x", words, patience_s=0.3))) as worker:
        backend = worker(healthy.MODEL, "cpu")
        state, _ = backend.train(
            backend.init(healthy.PARAMS), healthy.X_TB[None], healthy.X_TB[None, 1:]
        )
        backend.predict(state, healthy.X_TB)
        backend.params(state)


READERS: Mapping[str, Reader] = {
    "command line": Reader(hostile.command_line, _run_command, starts=True),
    "predictions": Reader(text(healthy.CSV, healthy.CSV.replace(",", ";")), _predictions),
    "pytest-benchmark": Reader(tree(healthy.MEASURED), _benchmarks),
    "task": Reader(
        either(
            text(healthy.TASK_FILE),
            tree(Task().model_dump()),
        ),
        _task_file,
    ),
    "runtime-env": Reader(
        either(
            text("pip: [numpy]\nenv_vars: {A: 'yes'}\npy_modules:\n- a\n"),
            tree({"pip": ["numpy"], "env_vars": {"A": "yes"}, "working_dir": "."}),
        ),
        _runtime_env,
    ),
    "pyproject": Reader(text(healthy.PYPROJECT), _settings),
    "manifest": Reader(tree(healthy.MANIFEST), _manifest),
    "record": Reader(tree(healthy.RECORDS[1], healthy.OLD), _run_record),
    "table": Reader(hostile.tables, _table),
    "baseline": Reader(tree(healthy.BASELINE), _baseline),
    "run id": Reader(text("mine", "results/mine", "posted-20260101-000000"), _run_id),
    "url": Reader(text("s3://bucket/a/b", "file:///x", "memory://a", "gs::s3://b"), _url),
    "archive": Reader(either(hostile.changed_run, text(hostile.packed(b"{}").decode())), _archive),
    "folder": Reader(
        folders.seeds,
        partial(folders.read, command=command),
        starts=True,
        prepare=partial(folders.prepare, command),
    ),
    "message": Reader(tree(*healthy.MESSAGES), _message),
    "process": Reader(hostile.answers, _converse, programs=(sys.executable,)),
    "gradient": Reader(hostile.arrays, _gradient),
    "set": Reader(text("epochs=10", "lag_weight=0.5\ncell=gru", "learning_rate=1e-3"), _setting),
    "sweep": Reader(text("hidden=10,64", "cell=rnn,gru\nhidden=1,2"), _sweep),
    "seeds": Reader(text("5", "0,1,2", "1,5-7"), _seeds),
    "quantity": Reader(text("2%", "0.02", "1h30m", "90s", "3m", "1.5 min"), _quantity),
}
