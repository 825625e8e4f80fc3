"""Every reader of what comes from elsewhere: healthy input, and what a command does with it.

Where the command is cheap it is run in this process, otherwise the function that it calls.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.helpers import healthy
from benchmarks.helpers.bounds import Began
from benchmarks.helpers.mutation import TEXTS, Make, either, garbled, text, tree
from harness import Run
from harness.backend.command import Command, named
from harness.backend.model import Model
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
from harness.tables.from_records import trials_table
from harness.task.task import Task
from harness.trial.record import Record


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


def _write_run(manifest: bytes | None = None, record: bytes | None = None) -> None:
    folder = Path("results/mine")
    (folder / "records").mkdir(parents=True)
    (folder / "manifest.json").write_bytes(manifest or json.dumps(healthy.MANIFEST).encode())
    first, second = (json.dumps(one).encode() for one in healthy.RECORDS)
    (folder / "records" / "seed0-jax-cpu.json").write_bytes(first)
    (folder / "records" / "seed0-torch-cpu.json").write_bytes(record or second)


class Fault(Exception):
    """A command ended in a way that no document knows."""


def command(*words: str) -> None:
    """Run a command of the harness in this process. Raises `HarnessError` if it refuses."""
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    with redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
        try:
            cli(words, "harness")
        except SystemExit as end:
            code = end.code
    text = said.buffer.getvalue().decode()
    if code in {2, 74}:
        raise InvalidInput(text)
    if code == 70 and Began.__name__ in text:
        raise Began
    if code not in _ENDS.get(words[0] if words else "", {0}):
        raise Fault(f"exit code {code}: {text[-2000:]}")


# How commands may end that do not fail.
_ENDS: Mapping[str, set[int]] = {"gate": {0, 1, 3}, "run": {0, 1}, "parity": {0, 1}}


def _shown(data: bytes, *words: str) -> None:
    """Run a command that takes long for few of the inputs."""
    if zlib.crc32(data) % 20 == 0:
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


def _tables(rng: random.Random) -> bytes:
    """Make a stored table of trials that is not that of its records."""
    records = [Record.model_validate(one) for one in healthy.RECORDS]
    rows = json.loads(trials_table(records).to_json(orient="records"))
    file = io.BytesIO()
    with suppress(ValueError, TypeError, OverflowError, pa.ArrowException):
        pd.DataFrame(json.loads(tree(rows)(rng))).to_parquet(file)
    return file.getvalue() if rng.random() < 0.8 else garbled(rng, file.getvalue())


def _table(data: bytes) -> None:
    _write_run()
    Path("results/mine/trials.parquet").write_bytes(data)
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
    if zlib.crc32(data) % 20 == 0:
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
    Path("results").mkdir()
    find_run("results", _words(data))


def _url(data: bytes) -> None:
    open_folder(_words(data))


def _archive(data: bytes) -> None:
    found = unpack(data.decode(errors="replace"), "mine")
    if found and zlib.crc32(data) % 20 == 0:
        save(found, "results")


def _packed(content: bytes) -> bytes:
    """Return what `harness.submit.pack_run` prints of such content."""
    packed = zlib.compress(content)
    header = {
        "packed": len(packed),
        "unpacked": len(content),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    text = base64.b64encode(packed).decode()
    return f"log\npacked run: {json.dumps(header)}\npacked run| {text}\nlog\n".encode()


def _changed_run(rng: random.Random) -> bytes:
    """Make an archive that is whole, of a run that is not healthy."""
    manifest = (
        tree(healthy.MANIFEST)(rng) if rng.random() < 0.5 else json.dumps(healthy.MANIFEST).encode()
    )
    records = [tree(one)(rng) for one in healthy.RECORDS]
    content = {
        "manifest": manifest.decode(errors="replace"),
        "records": [record.decode(errors="replace") for record in records],
    }
    return _packed(tree(content)(rng) if rng.random() < 0.1 else json.dumps(content).encode())


def _gradient(data: bytes) -> None:
    Path("mine.npz").write_bytes(data)
    file = gradient_file.read(Path("mine.npz"), Task().model)
    if zlib.crc32(data) % 20 == 0:
        gradient.compare(file)


def _arrays(rng: random.Random) -> bytes:
    """Make a gradient file whose arrays have other shapes, types, names or values."""
    model = Model(hidden=2, dtype="float64")
    arrays: dict[str, Any] = {name: np.ones(shape) for name, shape in model.shapes.items()}
    arrays |= {f"grad_{name}": value for name, value in arrays.items()}
    arrays |= {"x": np.ones((3, 2)), "y": np.ones((2, 2)), "loss": np.array(1.0)}
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice(list(arrays))
        value = arrays[name]
        with suppress(ValueError, TypeError, OverflowError):
            match rng.randrange(6):
                case 0:
                    del arrays[name]
                case 1:
                    arrays[rng.choice([*arrays, "layer999.W_hh", "W_hh/..", "é"])] = value
                case 2:
                    shapes = ((), (0,), (1, 1, 1), (2, 0), (6, 2), (8, 2), (2, 6))
                    arrays[name] = np.ones(rng.choice(shapes))
                case 3:
                    kinds = ("int8", "uint64", "float16", "complex64", "S3", "U2", "bool", "M8[s]")
                    arrays[name] = np.asarray(value).astype(rng.choice(kinds))
                case 4:
                    values = (np.nan, np.inf, 1e308, -1e308, 5e-324, 0.0)
                    arrays[name] = np.full(np.shape(value), rng.choice(values))
                case 5:
                    arrays[name] = np.transpose(value)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue() if rng.random() < 0.7 else garbled(rng, file.getvalue())


_WORDS = (
    *("mine", "results", "torch,jax", "reference", "auto", "cpu", "epochs=4", "hidden=1,2", "2%"),
    *("90s", "5", "all", "inline", "final_mse", "HEAD", "mlflow:file:x", "http://127.0.0.1:1"),
    *("--", "run", "posted", "task.yaml", "mine.csv", "old.json", "baseline.json", "mine.npz"),
)
_FIT = {
    **dict.fromkeys(("run_id", "run_a", "run_b", "resume"), "mine"),
    "predictions": "mine.csv",
    "config": "task.yaml",
    "pytest_benchmark": "old.json",
    "baseline": "baseline.json",
    "changes": "epochs=4",
    "dispatch": "inline",
}


def _command_line(rng: random.Random) -> bytes:
    """Make a command with options that it has, and values that fit or do not."""
    # `doctor` measures for a second, and reads nothing.
    name = rng.choice([name for name in cli.commands if name != "doctor"])
    words = [name]
    odd = [text for text in TEXTS if ".." not in text]  # It would write where it is told to.
    for option in rng.choices(cli.commands[name].params, k=rng.choice((0, 1, 1, 2, 3, 5))):
        if isinstance(option, click.Option):
            words.append(rng.choice(option.opts))
        if not getattr(option, "is_flag", False):
            fit = option.type.choices if isinstance(option.type, click.Choice) else _WORDS
            values = (_FIT.get(str(option.name)) or rng.choice(fit), rng.choice((*fit, *odd)))
            words += [rng.choice(values) for _ in range(max(1, option.nargs))]
    return "\n".join(words).encode("utf-8", "surrogatepass")


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


def _answers(rng: random.Random) -> bytes:
    """Make the answers of a process, one of them wrong."""
    answers = list(healthy.ANSWERS)
    at = rng.randrange(len(answers))
    line, _, values = answers[at].partition(b"\n")
    wrong = text(line.decode() + "\n")(rng) + values
    answers[at] = wrong if rng.random() < 0.5 else garbled(rng, answers[at])
    return b"\0\n\0".join(answers)


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
    "command line": Reader(_command_line, _run_command, starts=True),
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
    "table": Reader(_tables, _table),
    "baseline": Reader(tree(healthy.BASELINE), _baseline),
    "run id": Reader(text("mine", "results/mine", "posted-20260101-000000"), _run_id),
    "url": Reader(text("s3://bucket/a/b", "file:///x", "memory://a", "gs::s3://b"), _url),
    "archive": Reader(either(_changed_run, text(_packed(b"{}").decode())), _archive),
    "message": Reader(tree(*healthy.MESSAGES), _message),
    "process": Reader(_answers, _converse, programs=(sys.executable,)),
    "gradient": Reader(_arrays, _gradient),
    "set": Reader(text("epochs=10", "lag_weight=0.5\ncell=gru", "learning_rate=1e-3"), _setting),
    "sweep": Reader(text("hidden=10,64", "cell=rnn,gru\nhidden=1,2"), _sweep),
    "seeds": Reader(text("5", "0,1,2", "1,5-7"), _seeds),
    "quantity": Reader(text("2%", "0.02", "1h30m", "90s", "3m", "1.5 min"), _quantity),
}
