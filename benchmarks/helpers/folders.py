"""Results folders from strangers: a healthy one in which anything was replaced by anything.

The folder holds the runs `mine`, which is hostile, and `other`, which is not. Nothing but what a
command was told to write may change, and `other` stays among the runs.
"""

from __future__ import annotations

import gc
import io
import json
import os
import random
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.helpers import healthy
from benchmarks.helpers.bounds import Began
from benchmarks.helpers.mutation import changed, garbled, tree
from harness.charts import vega
from harness.cli import completion
from harness.errors import HarnessError, InvalidInput
from harness.report import mlflow_entries
from harness.runs.results import TABLES, Run
from harness.submit.pack_run import pack

_RESULTS, _ELSEWHERE = Path("results"), Path("elsewhere")
_STORED = Path("..", "healthy")
"""The healthy runs with their tables, if they were prepared."""
_RECORD = "records/seed0-floor-cpu.json"
_MADE = ("report.html", "plots/steps.svg", "plots/steps.png", ".lock")
_TABLES = [f"{name}.{suffix}" for name in TABLES for suffix in ("csv", "parquet")]

Change = Callable[[random.Random, Path], object]


def seeds(rng: random.Random) -> bytes:
    """Make the number that a folder is made from."""
    return str(rng.getrandbits(64)).encode()


def read(data: bytes, command: Callable[..., str]) -> None:
    """Make a hostile folder, and run commands on it that read or write it.

    `command` runs one, and returns what it printed. Raises `AssertionError` if anything changed
    elsewhere, or a run is not listed.
    """
    rng = random.Random(data)
    _make(rng)
    before = _seen()
    for words in _commands(rng):
        try:
            said = command(*words)
            assert words[0] not in _OF_ALL or _names_other(said), f"{words}: {said[-2000:]}"
        except (InvalidInput, Began):
            assert words[0] not in _OF_ALL, words
        assert _seen() == before, f"`{' '.join(words)}` changed something elsewhere"
    assert "other" in _completed()
    list(pack(_RESULTS / "mine"))
    if rng.random() < 1 / 10:
        with suppress(HarnessError):
            _track(Run("mine"))
    assert _seen() == before


def _names_other(said: str) -> bool:
    """Whether the healthy run is listed, or in the history; a copy of it may have its place."""
    if "Presets" in said:
        return re.search(r"^  other +2/2 trials", said, re.MULTILINE) is not None
    return not re.search(r"other` is left out: (?!it is run)", said)


def _track(run: Run) -> None:
    """Read what `track` reads of a run."""
    _ = mlflow_entries.of_run(run), mlflow_entries.of_trials(run)
    for _ in mlflow_entries.files(run):
        pass


def prepare(command: Callable[..., str], folder: Path) -> None:
    """Import what the commands import.

    They run in a process of their own: one that has threads had better not be copied.
    """
    if not os.fork():
        (folder / "here").mkdir()
        os.chdir(folder / "here")
        _make_healthy()
        for name in ("mine", "other"):
            command("run", "--resume", name, "--dispatch", "inline")
        shutil.copytree(_RESULTS, _STORED)
        for words in (*_OFTEN, *_SELDOM):
            with suppress(InvalidInput, Began):
                command(*words)
        (folder / "modules").write_text("\n".join(sys.modules))
        os._exit(0)
    os.wait()
    for name in (folder / "modules").read_text().split():
        with suppress(ImportError, AttributeError):
            import_module(name)
    vega.bundle()
    gc.freeze()  # What is not looked at is not copied.


# --- What is run.

_OF_ALL = {"list", "history"}
_SHOWN = (
    *("summary", "comparisons", "break-even", "scaling", "steps", "curves", "trials"),
    *("attempts", "chunks"),
)
_FORMATS = ("table", "csv", "json", "markdown")
_OFTEN = (
    *(("show", "mine", "--table", name) for name in _SHOWN),
    *(("show", "mine", "--format", name) for name in _FORMATS),
    ("history",),
    ("history",),
    ("explain", "mine"),
    ("explain", "mine", "--format", "markdown"),
    ("compare", "mine", "other"),
    ("compare", "other", "mine"),
)
_SELDOM = (
    ("run", "--resume", "mine", "--dispatch", "inline"),
    ("run", "--resume", "mine", "--dispatch", "inline"),
    ("report", "mine", "--no-plots"),
    ("report", "mine", "--no-plots", "--to", "paper"),
)
_RARELY = (
    ("report", "mine"),
    ("report", "mine", "--to", "paper"),
)
"""They take seconds."""


def _commands(rng: random.Random) -> Iterator[tuple[str, ...]]:
    yield ("list",)
    yield rng.choice(_OFTEN)
    if rng.random() < 1 / 15:
        yield rng.choice(_SELDOM)
    if rng.random() < 1 / 200:
        yield rng.choice(_RARELY)


def _completed() -> list[str]:
    context = click.Context(click.Command("show"))
    context.params["results"] = str(_RESULTS)
    return [item.value for item in completion.runs(context, click.Argument(["run_id"]), "")]


def _seen() -> Mapping[str, tuple[Any, ...]]:
    """Return all that no command may change: names, kinds, sizes, contents and times."""
    roots = [_ELSEWHERE, *(path for path in _RESULTS.iterdir() if path.name != "mine")]
    folders = [root for root in roots if root.is_dir() and not root.is_symlink()]
    found = [*roots, *(path for folder in folders for path in folder.rglob("*"))]
    return {str(path): _facts(path) for path in found}


def _facts(path: Path) -> tuple[Any, ...]:
    status = os.lstat(path)
    small = path.is_file() and not path.is_symlink() and status.st_size < 10**6
    content = path.read_bytes() if small else b""
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino, content


# --- What a folder is made of.


@cache
def _healthy(name: str) -> Mapping[str, bytes]:
    """Return the files of a healthy run."""
    number = {"mine": 1, "other": 2}[name]

    def of(content: Any) -> Any:
        text = json.dumps(content).replace("torch", "floor").replace("jax", "reference")
        text = text.replace('"mine"', f'"{name}"').replace("2026-01-01T00", f"2026-01-0{number}T00")
        return json.loads(text.replace(": 0.5", f": 0.{4 + number}"))

    manifest, records = of(healthy.MANIFEST), of(healthy.RECORDS)
    (certificate,) = manifest["parity"]
    manifest["parity"] = [certificate | {"backend": one["backend"]} for one in records]
    contents = {"manifest.json": json.dumps(manifest).encode()}
    contents |= {f"records/{r['trial']}.json": json.dumps(r).encode() for r in records}
    tables = {table: _STORED / name / table for table in _TABLES}
    contents |= {table: path.read_bytes() for table, path in tables.items() if path.exists()}
    return contents | dict.fromkeys(_MADE, b"made")


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _make_healthy() -> None:
    for name in ("mine", "other"):
        _write(_RESULTS / name, _healthy(name))


def _make(rng: random.Random) -> None:
    _make_healthy()
    _write(_ELSEWHERE, {"canary": b"alive", "records/canary.json": b"alive"})
    run = {name: _healthy("other")[name] for name in ("manifest.json", _RECORD)}
    _write(_ELSEWHERE / "run", run)
    places = [*_healthy("mine"), "records", "plots", *_ADDED]
    likely = ["manifest.json", _RECORD, "trials.parquet"]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = _RESULTS / "mine" / rng.choice(rng.choice((places, likely)))
        with suppress(OSError):  # After another change, something else may be in the way.
            rng.choice(_CHANGES)(rng, place)
    if rng.random() < 0.1:
        path = _RESULTS / rng.choice(("mine", "linked", "a\x1b[2Jb", "e\u0301", ".git", "x" * 200))
        with suppress(OSError):
            rng.choice(_CHANGES)(rng, path)


_ADDED = (
    *(".report.html.part", ".manifest.json.part", "plots/x.svg", "notes", "records/x/y.json"),
    *("records/seed0-floor-cpu~2.json", "records/seed0-floor-cpu~999999999999999999999.json"),
    *("records/seed9-floor-cpu.json", "records/\x1b[2J.json", "records/a\nb.json"),
    *("records/" + os.fsdecode(b"\xff.json"), "records/.json", "records/" + "x" * 240 + ".json"),
    *("records/seed0-floor-cpu.unreadable", "records/.hidden.json"),
)


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(rng: random.Random, path: Path) -> None:
    canary = (Path.cwd() / _ELSEWHERE).resolve()
    targets = (canary, canary / "canary", canary / "records", canary / "run", canary / "new")
    _clear(path)
    path.symlink_to(rng.choice((*targets, "/dev/zero", path.name, "nowhere", ".")))


def _hard_link(_: random.Random, path: Path) -> None:
    _clear(path)
    path.hardlink_to(_ELSEWHERE / "canary")


def _node(rng: random.Random, path: Path) -> None:
    _clear(path)
    device = rng.choice(((1, 3), (1, 5), (1, 9), None))
    with suppress(PermissionError):  # Without root there are no devices.
        if device:
            os.mknod(path, 0o20666, os.makedev(*device))
            return
    os.mkfifo(path)


def _socket(_: random.Random, path: Path) -> None:
    _clear(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{folder}/{path.name[:80]}")
    os.close(folder)


def _folder(rng: random.Random, path: Path) -> None:
    _clear(path)
    path.mkdir(rng.choice((0o755, 0o755, 0)))


def _sparse(rng: random.Random, path: Path) -> None:
    _clear(path)
    with path.open("wb") as file:
        file.truncate(rng.choice((2**20, 2**26, 2**26 + 1, 2**30, 2**42)))


def _bytes(rng: random.Random, path: Path) -> None:
    _clear(path)
    many = rng.choice((b"{},", b"[],", b"0,", b'"",', b"[", b'{"a":', b'"a":0,', b"\xff", b" "))
    content = rng.choice((b"", rng.randbytes(1000), many * 200_000, b"[" + many * 200_000 + b"0]"))
    path.write_bytes(content)


def _many(rng: random.Random, path: Path) -> None:
    """Replace a value by very many."""
    name = _name(path)
    if path.suffix != ".json":
        name = rng.choice(("manifest.json", _RECORD))
    content = json.loads(_healthy("mine").get(name, b"{}"))
    fields = dict.fromkeys(content, content)
    fields |= dict.fromkeys(content.get("plan", ()), content.get("plan"))
    if not fields:
        return
    name = rng.choice(list(fields))
    unit = rng.choice(("0", '""', "{}", "[]", "null", "1.5", '{"epoch":1}'))
    values = ",".join([unit] * rng.choice((1000, 1_000_000)))
    if rng.random() < 0.3:
        values = ",".join(f'"{number}":{unit}' for number in range(100_000))
        values = f"{{{values}}}"
    else:
        values = f"[{values}]"
    fields[name][name] = "@@"
    _clear(path)
    path.write_text(json.dumps(content).replace('"@@"', values))


def _tree(rng: random.Random, path: Path) -> None:
    """Change values of a manifest, a record or a table."""
    name, mine = _name(path), _healthy("mine")
    if path.suffix == ".parquet" and name in mine:
        content = _table(rng, mine[name])
    elif path.suffix == ".json":
        content = tree(json.loads(mine.get(name, mine[_RECORD])))(rng)
    else:
        content = garbled(rng, mine.get(name, b"made"))
    _clear(path)
    path.write_bytes(content)


def _name(path: Path) -> str:
    return str(path).removeprefix(f"{_RESULTS / 'mine'}/")


def _table(rng: random.Random, content: bytes) -> bytes:
    """Change a stored table, or make a small file of one that is huge.

    It still says that it was made from the same records.
    """
    table = parquet.read_table(io.BytesIO(content))
    mark = table.schema.metadata
    if rng.random() < 0.5:
        rows = [
            changed(rng, row) for row in json.loads(table.to_pandas().to_json(orient="records"))
        ]
        with suppress(pa.ArrowException, OverflowError, UnicodeError, TypeError, AttributeError):
            table = pa.table({name: [row.get(name) for row in rows] for name in table.schema.names})
    else:
        text = rng.choice(("mine", "x" * 10**6, "\x1b[2J"))
        count = rng.choice((1000, 10**6))
        columns = {field.name: _column(field.type, text, count) for field in table.schema}
        table = pa.table(columns)
    file = io.BytesIO()
    codec = rng.choice(("snappy", "snappy", "zstd"))
    with suppress(pa.ArrowException):  # It has no file for an empty struct.
        marked = table.replace_schema_metadata(mark)
        parquet.write_table(marked, file, store_schema=rng.random() < 0.5, compression=codec)
    return file.getvalue() if rng.random() < 0.8 else garbled(rng, file.getvalue())


def _column(kind: pa.DataType, text: str, count: int) -> pa.Array:
    """Return a column of one value, which takes no room in a file."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [text])
    with suppress(pa.ArrowException):
        return pa.array(np.ones(count)).cast(kind)
    return pa.nulls(count, kind)


def _other(_: random.Random, path: Path) -> None:
    """Put the file of the other run in its place."""
    _clear(path)
    path.write_bytes(_healthy("other").get(_name(path), b""))


def _swap(rng: random.Random, path: Path) -> None:
    """Put another file of the run in its place."""
    _clear(path)
    path.write_bytes(rng.choice(list(_healthy("mine").values())))


_CHANGES: tuple[Change, ...] = (
    *(_link, _link, _link, _hard_link, _node, _socket, _folder, _sparse, _bytes, _many),
    *(_tree, _tree, _tree, _tree, _other, _swap, lambda _, path: _clear(path)),
)
