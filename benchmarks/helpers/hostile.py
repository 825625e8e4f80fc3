"""Hostile inputs that are made whole: tables, archives, arrays, commands, answers of a process."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import zlib
from contextlib import suppress
from typing import Any

import click
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.helpers import healthy
from benchmarks.helpers.mutation import TEXTS, changed, garbled, text, tree
from harness.backend.model import Model
from harness.cli import cli
from harness.tables.from_records import trials_table
from harness.trial.record import Record

_TABLES = 20
"""Runs in an archive, each with a stored table that is not that of its records."""

_NO_TABLE = (pa.ArrowException, OverflowError, UnicodeError)


def tables(rng: random.Random) -> bytes:
    """Make stored tables of trials, which `_table` cuts apart again."""
    records = [Record.model_validate(one) for one in healthy.RECORDS]
    rows = json.loads(trials_table(records).to_json(orient="records"))
    packed = io.BytesIO()
    for _ in range(_TABLES):
        data = _changed_table(rng, rows)
        packed.write(len(data).to_bytes(4, "big") + data)
    return packed.getvalue()


def _changed_table(rng: random.Random, rows: list[Any]) -> bytes:
    while True:
        value = json.loads(json.dumps(rows))
        for _ in range(rng.choice((1, 1, 2, 4))):
            value = changed(rng, value)
        kept = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else rows
        names = dict.fromkeys(name for row in kept for name in row)
        file = io.BytesIO()
        with suppress(*_NO_TABLE):
            columns = {name: _column([row.get(name) for row in kept]) for name in names}
            parquet.write_table(pa.table(columns), file)
            return file.getvalue() if rng.random() < 0.8 else garbled(rng, file.getvalue())


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except _NO_TABLE:  # Of several types, or too large.
        return pa.array(list(map(str, values)))


def packed(content: bytes) -> bytes:
    """Return what `harness.submit.pack_run` prints of such content."""
    packed = zlib.compress(content)
    header = {
        "packed": len(packed),
        "unpacked": len(content),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    text = base64.b64encode(packed).decode()
    return f"log\npacked run: {json.dumps(header)}\npacked run| {text}\nlog\n".encode()


def changed_run(rng: random.Random) -> bytes:
    """Make an archive that is whole, of a run that is not healthy."""
    manifest = (
        tree(healthy.MANIFEST)(rng) if rng.random() < 0.5 else json.dumps(healthy.MANIFEST).encode()
    )
    records = [tree(one)(rng) for one in healthy.RECORDS]
    files = [json.dumps(file.decode(errors="replace")).encode() for file in (manifest, *records)]
    content = b"\n".join(files)
    return packed(garbled(rng, content) if rng.random() < 0.1 else content)


def arrays(rng: random.Random) -> bytes:
    """Make a gradient file whose arrays have other shapes, types, names or values."""
    model = Model(hidden=2, dtype="float64")
    arrays: dict[str, Any] = {name: np.ones(shape) for name, shape in model.shapes.items()}
    arrays |= {f"grad_{name}": value for name, value in arrays.items()}
    arrays |= {"x": np.ones((3, 2)), "y": np.ones((2, 2)), "loss": np.array(1.0)}
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice(list(arrays))
        value = arrays[name]
        with suppress(ValueError, TypeError, OverflowError, RuntimeError):
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


def command_line(rng: random.Random) -> bytes:
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


def answers(rng: random.Random) -> bytes:
    """Make the answers of a process, one of them wrong."""
    answers = list(healthy.ANSWERS)
    at = rng.randrange(len(answers))
    line, _, values = answers[at].partition(b"\n")
    wrong = text(line.decode() + "\n")(rng) + values
    answers[at] = wrong if rng.random() < 0.5 else garbled(rng, answers[at])
    return b"\0\n\0".join(answers)
