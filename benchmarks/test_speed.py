"""How fast the backends train and what the harness costs, measured by pytest-benchmark.

    python -m pytest benchmarks --benchmark-only --benchmark-json=FILE

Nothing is asserted about a time: `python -m harness gate --pytest-benchmark OLD NEW` judges two
such files.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import harness
from benchmarks.overhead import synthetic_run
from harness.backend import registry
from harness.measure import settings
from harness.runs.results import Run
from harness.store.run_writer import RunWriter
from harness.tables.from_records import curves_table, steps_table, trials_table
from harness.tables.text import render_summary
from harness.task import data

# As in a trial; OpenMP, the BLAS libraries and XLA read this once, when a framework is imported.
os.environ |= dict.fromkeys(settings.THREAD_VARIABLES, "1")

TASK = harness.Task()
TINY = harness.Task(n_steps=5, batch_size=4, epochs=100, curve_points=10, eval_paths=20)
RECORDS = 300
# Three for each of the batches that the gate makes of them: an interrupted one does no harm.
ROUNDS = 30


@pytest.mark.parametrize("name", sorted(registry.installed()))
def test_training(benchmark: BenchmarkFixture, name: str) -> None:
    """A chunk of the default task on the CPU."""
    try:
        backend = registry.load(name)(TASK.model, "cpu")
    except harness.Unavailable as error:
        pytest.skip(str(error))
    params = data.initial_params(TASK.model, seed=0)
    x_ETB, y_ETB = data.training_chunk(TASK, seed=0, first_epoch=0, epochs=TASK.chunk_epochs())
    benchmark.extra_info["epochs"] = TASK.chunk_epochs()

    def fresh() -> tuple[tuple[Any, ...], dict[str, Any]]:
        # Training consumes its state.
        return (backend.init(params), x_ETB, y_ETB), {}

    benchmark.pedantic(backend.train, setup=fresh, rounds=ROUNDS, warmup_rounds=2)


def test_a_tiny_run(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Parity and one trial of the reference backend, each in a process of its own."""
    number = count()

    def run() -> None:
        harness.run(
            TINY,
            backends=["reference"],
            seeds=1,
            dispatch="inline",
            results=tmp_path,
            run_id=f"run{next(number)}",
        )

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a run `big` of made-up trials."""
    folder = tmp_path_factory.mktemp("results")
    synthetic_run(folder, RECORDS)
    return folder


def test_writing_a_record(benchmark: BenchmarkFixture, results: Path) -> None:
    """Durably: the time of the disk is part of it."""
    record = Run("big", results).records[0]
    with RunWriter.resume(results, "big") as writer:
        benchmark(writer.add, record)


def test_reading_records(benchmark: BenchmarkFixture, results: Path) -> None:
    benchmark.pedantic(Run, args=("big", results), rounds=ROUNDS, warmup_rounds=1)


def test_tables(benchmark: BenchmarkFixture, results: Path) -> None:
    """Trials, curves and steps of 300 records that are in memory."""
    records = Run("big", results).records

    def tables() -> list[pd.DataFrame]:
        return [trials_table(records), curves_table(records), steps_table(records)]

    benchmark.pedantic(tables, rounds=ROUNDS, warmup_rounds=1)


def test_summary(benchmark: BenchmarkFixture, results: Path) -> None:
    """The summary and its text, from tables that are there."""
    run = Run("big", results)
    benchmark.pedantic(
        lambda: render_summary(run.summary(), "table"), rounds=ROUNDS, warmup_rounds=1
    )
