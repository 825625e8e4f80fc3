"""Stored tables stand for very many records, as long as they were made from just these."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

import harness.runs.results
import harness.tables.stored
from harness import Run
from harness.cli import cli
from harness.runs.results import TABLES
from harness.store.run_writer import RunWriter
from harness.tables import stored
from harness.tables.from_records import (
    chunks_table,
    curves_table,
    lags_table,
    steps_table,
    trials_table,
)
from harness.tables.stored import FORMULAS, StoredTable, Unusable
from harness.task.task import Task
from harness.trial.record import Chunk, Record, Share
from tests.helpers.records import MANIFEST, PLAN, record
from tests.helpers.stored import forge

OLDER = Path(__file__).parents[1] / "store" / "data"
PLAIN, SWEPT = "schema-6", "schema-4"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return runs with stored tables, which count as having very many records."""
    monkeypatch.setattr(harness.runs.results, "FEW", 0)
    for name in ("schema-1", PLAIN, SWEPT):
        shutil.copytree(OLDER / name, tmp_path / name)
    at_once(tmp_path)
    for folder in tmp_path.iterdir():
        run = Run(folder.name, tmp_path)
        for table in TABLES:
            for file, content in stored.files(table, run.table(table), run.stored.source()):
                (folder / file).write_bytes(content)
    return tmp_path


def at_once(results: Path) -> None:
    """Write a run whose only trial trained two seeds, one of which diverged."""
    plan = PLAN.model_copy(update={"run": "many", "at_once": 2, "many": PLAN.arms})
    points = record().points
    shares = (
        Share(seed=0, status="ok", points=points, step_mse=(0.5, 0.5)),
        Share(seed=1, status="diverged", points=points),
    )
    trial = record(0, run="many", trial="seeds0to1-a.B-cpu", seeds=(0, 1), shares=shares)
    with RunWriter.create(results, MANIFEST.model_copy(update={"plan": plan})) as writer:
        writer.add(trial)


def double_error(results: Path) -> float:
    """Double the errors in a stored table; return the first of what they were."""
    path = results / PLAIN / "trials.parquet"
    table = pd.read_parquet(path)
    forge(path, table.assign(final_mse=2 * table["final_mse"]))
    return float(table["final_mse"][0])


@pytest.mark.parametrize("name", ["schema-1", PLAIN, SWEPT, "many"])
def test_they_are_the_tables_of_the_records(name: str, results: Path) -> None:
    run = Run(name, results)
    assert not run.reads_records
    built = Run.of(run.folder, run.folder.load())
    assert built.reads_records
    for table in TABLES:
        kept = run.stored.frame(table)
        assert kept is not None
        pd.testing.assert_frame_equal(kept, built.table(table))
    assert run.ended == built.ended == len(built.records)
    assert repr(run) == repr(built)

    def of(run: Run) -> list[tuple[str, str, str]]:
        return sorted((one.backend, one.device, one.node) for one in run.examples())

    assert of(run) == of(built)


def test_the_commands_say_the_same(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*words: str) -> str:
        done = CliRunner().invoke(cli, [*words, "--results", str(results)])
        assert done.exit_code == 0, done.output
        return done.output

    commands = [("explain", PLAIN), ("report", PLAIN, "--no-plots")]
    commands += [("show", "many", "--table", name) for name in ("summary", "steps", "attempts")]
    kept = [said(*words) for words in commands]
    page = (results / PLAIN / "report.html").read_bytes()
    monkeypatch.setattr(harness.runs.results, "FEW", 1000)
    assert [said(*words) for words in commands] == kept
    assert (results / PLAIN / "report.html").read_bytes() == page


def test_few_records_are_read_themselves(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.runs.results, "FEW", 4)
    error = double_error(results)
    assert Run(PLAIN, results).trials["final_mse"][0] == error


def _touched(folder: Path) -> None:
    for path in (folder / "records").iterdir():
        os.utime(path, (1, 1))


@pytest.mark.parametrize("change", [lambda folder: None, _touched])
def test_they_are_read_as_long_as_the_records_are_the_same(
    change: Callable[[Path], object], results: Path
) -> None:
    error = double_error(results)
    change(results / PLAIN)
    run = Run(PLAIN, results)
    assert run.trials["final_mse"][0] == 2 * error
    assert not run.reads_records


def _other_digit(folder: Path) -> None:
    path = next((folder / "records").iterdir())
    fields = json.loads(path.read_text())
    text = path.read_text()
    number = str(fields["step_mse"][0])
    last = "1" if number[-1] != "1" else "2"
    path.write_text(text.replace(number, number[:-1] + last))


def _one_less(folder: Path) -> None:
    next((folder / "records").iterdir()).unlink()


def _one_more(folder: Path) -> None:
    path = next((folder / "records").iterdir())
    fields = json.loads(path.read_text()) | {"attempt": 2, "go": 2}
    path.with_stem(path.stem + "~2").write_text(json.dumps(fields))


def _odd_name(folder: Path) -> None:
    (folder / "records" / os.fsdecode(b"\xff.json")).write_text("{}")


def _other_plan(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["plan"]["seeds"] = [0]
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("change", [_other_digit, _one_less, _one_more, _odd_name, _other_plan])
def test_they_are_not_read_once_the_records_have_changed(
    change: Callable[[Path], object], results: Path
) -> None:
    folder = results / PLAIN
    double_error(results)
    change(folder)
    run = Run(PLAIN, results)
    assert run.reads_records
    pd.testing.assert_frame_equal(run.trials, Run.of(run.folder, run.folder.load()).trials)


def test_they_are_not_read_if_today_other_things_are_computed(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double_error(results)
    monkeypatch.setattr(harness.tables.stored, "FORMULAS", FORMULAS + 1)
    assert Run(PLAIN, results).reads_records


def _text(table: pa.Table, text: bytes) -> pa.Table:
    odd = pa.array([text] * len(table)).view(pa.string())
    return table.set_column(table.schema.get_field_index("error"), "error", odd)


def _unlike(table: pa.Table, path: Path) -> None:
    forge(path, table.rename_columns(["x", *table.column_names[1:]]))


def _control(table: pa.Table, path: Path) -> None:
    forge(path, _text(table, b"\x1b]0;owned\a"))


def _no_text(table: pa.Table, path: Path) -> None:
    forge(path, _text(table, b"o\xff"))


def _too_many_rows(table: pa.Table, path: Path) -> None:
    forge(path, pa.concat_tables([table, table]))


def _packed_tightly(table: pa.Table, path: Path) -> None:
    forge(path, table, compression="zstd")


def _null(table: pa.Table, path: Path) -> None:
    odd = pa.array([None] * len(table), pa.int64())
    forge(path, table.set_column(table.schema.get_field_index("seed"), "seed", odd))


def _flipped(table: pa.Table, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 8] ^= 1
    path.write_bytes(content)


def _huge(table: pa.Table, path: Path) -> None:
    os.truncate(path, 2**30)


def _no_mark(table: pa.Table, path: Path) -> None:
    parquet.write_table(table.replace_schema_metadata(None), path)


def _odd_mark(table: pa.Table, path: Path) -> None:
    parquet.write_table(table.replace_schema_metadata({b"harness": b"[" * 200_000}), path)


@pytest.mark.parametrize(
    "harm",
    [
        *(_unlike, _control, _no_text, _too_many_rows, _packed_tightly, _null),
        *(_flipped, _huge, _no_mark, _odd_mark),
    ],
)
def test_a_table_that_is_not_ours_is_not_read(
    harm: Callable[[pa.Table, Path], None], results: Path
) -> None:
    path = results / PLAIN / "trials.parquet"
    harm(parquet.read_table(path), path)
    run = Run(PLAIN, results)
    assert run.reads_records
    pd.testing.assert_frame_equal(run.trials, Run.of(run.folder, run.folder.load()).trials)


def test_texts_that_would_fill_the_memory_are_not_read() -> None:
    once, content = pa.array(["a" * 2**20]), BytesIO()
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), once)
    parquet.write_table(pa.table({"error": texts}), content, store_schema=False)
    assert len(content.getvalue()) < 2**20
    with pytest.raises(Unusable):
        StoredTable(content.getvalue()).read({"error": "string"}, None, None)


def test_a_command_that_takes_long_says_why_and_resuming_stores_the_tables(results: Path) -> None:
    def said(*words: str) -> str:
        done = CliRunner().invoke(cli, [*words, "--results", str(results)])
        assert done.exit_code == 0, done.output
        return done.stderr

    (results / PLAIN / "trials.parquet").unlink()
    told = said("show", PLAIN)
    assert told.startswith("reading 2 records: no stored table is of just these; `")
    said(*shlex.split(told.split("`")[1])[3:-2], "--no-report")
    assert said("show", PLAIN) == ""


def test_a_missing_table_is_made_again(results: Path) -> None:
    steps = Run(PLAIN, results).steps
    (results / PLAIN / "steps.parquet").unlink()
    pd.testing.assert_frame_equal(Run(PLAIN, results).steps, steps)


def in_rounds(backend: str, block: int) -> Record:
    """Return a record of 20 rounds on a machine whose state changes from block to block."""
    rng = np.random.default_rng([len(backend), block])
    slow = 1 + 0.2 * block
    task = Task(n_steps=2, epochs=20, curve_points=2)
    chunks = tuple(
        Chunk(
            wall_s=0.01 * len(backend) * slow * float(1 + 0.1 * rng.random()),
            epochs=10,
            epoch=10 * (1 + turn % 2),
            loss=0.5 - 0.1 * (turn % 2),
            round=1 + turn // 2,
            waited_s=0.0,
            memory_s=0.001 * slow,
            interpreter_s=0.001 * slow,
            cpu_s=0.01,
            involuntary_switches=0,
        )
        for turn in range(40)
    )
    points = tuple(
        {"epoch": epoch, "train_s": 1.0, "train_loss": 0.6 - 0.01 * epoch, "eval_mse": 1 / epoch}
        for epoch in (10, 20)
    )
    return record(
        block,
        trial=f"seed{block}-{backend}-cpu",
        backend=backend,
        task=task,
        timing="rounds",
        chunks=chunks,
        points=points,
        import_s=1.0,
        setup_s=0.1,
        first_call_s=1.0,
        eval_s=0.1,
        learned={
            "windows": (0,),
            "gaps": (-0.1 * block,),
            "gap_errors": (0.02,),
            "gap_skews": (20.0,),
            "paths": 900,
            "coefficients": (1.0, 0.1 * block),
            "coefficient_errors": (0.1, 0.2),
            "groups": 9,
        },
    )


MADE = {1: "bde917eb4738c5ff", 2: "17318729f22708d6", 3: "e76bf30a3a8240ca"}
"""What is made of fixed records, by the number of the formulas."""


def test_a_change_of_what_is_computed_is_counted() -> None:
    runs = [Run(path.name, OLDER) for path in sorted(OLDER.glob("schema-[1-6]"))]
    parts = [run.table(name) for run in runs for name in TABLES]
    records = [in_rounds(backend, block) for block in range(3) for backend in ("a", "bb")]
    parts += [
        of(records) for of in (trials_table, curves_table, steps_table, lags_table, chunks_table)
    ]
    # Processors may differ in the last digits.
    text = "".join(part.to_csv(index=False, float_format="%.8g") for part in parts)
    made = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert MADE.get(FORMULAS) == made, (
        "tables of the same records have changed: count FORMULAS in harness/tables/stored.py up "
        f"and add {{{FORMULAS + 1}: {made!r}}} here, so that tables stored before are not used"
    )
