"""What counts as a disturbance, and how it is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

import harness
from harness import Run, Task
from harness.measure import machine, run_queue
from harness.measure.trainer import Trainer
from harness.store.run_writer import RunWriter
from harness.tables.from_records import CHUNKS, chunks_table, trials_table
from harness.tables.summary import summarise
from harness.tables.text import render_summary
from harness.trial.noise import lost_share, noise
from harness.trial.record import Chunk, Record
from tests.helpers.records import MANIFEST, record, turns_job


def chunk(wall_s: float = 0.1, cpu_s: float | None = None, steal_s: float = 0.0) -> Chunk:
    cpu_s = wall_s if cpu_s is None else cpu_s
    return Chunk(wall_s=wall_s, cpu_s=cpu_s, involuntary_switches=0, steal_s=steal_s)


def trial(*odd: Chunk, **changes: object) -> Record:
    """Return the record of 20 chunks, all of them undisturbed but those given."""
    chunks = (*odd, *[chunk()] * (20 - len(odd)))
    return record(**{"chunks": chunks, "cores": (1,), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        (trial(), []),
        # Ordinary variation: a hiccup of half a chunk, a slow stretch of 10 %.
        (trial(chunk(0.15)), []),
        (trial(*[chunk(0.11)] * 8), []),
        (trial(chunk(0.1, cpu_s=0.09)), []),
        (trial(chunk(0.1, steal_s=0.01)), []),
        (trial(*[chunk(0.1, cpu_s=0.05)] * 2), ["off the processor 5.0%"]),
        (trial(*[chunk(0.1, steal_s=0.01)] * 3), ["stolen 1.5%"]),
        (trial(*[chunk(0.1, steal_s=0.01)] * 3, cores=(0, 1), threads=2), []),
        (trial(*[chunk(0.15)] * 6), ["uneven 10.4%"]),
        (
            trial(*[chunk(0.3, cpu_s=0.1, steal_s=0.2)] * 2),
            ["off the processor 16.7%", "stolen 16.7%", "uneven 15.8%"],
        ),
        # While it waits for a GPU, a process need not run.
        (trial(*[chunk(cpu_s=0.01)] * 20, device="gpu"), []),
        # Threads of one process: more processor time than wall time.
        (trial(*[chunk(cpu_s=0.19)] * 20, threads=2), []),
        (trial(chunk(1.0), contended=True), None),
        (record(), None),
        (record(chunks=(chunk(0.0),)), None),
        (record(chunks=(chunk(),)), []),
    ],
)
def test_a_disturbance_is_what_exceeds_a_limit(given: Record, reasons: list[str] | None) -> None:
    assert noise(given) == reasons


def test_noise_in_the_tables() -> None:
    noisy = trial(chunk(2.0, cpu_s=0.1))
    rows = trials_table([noisy, trial(seed=1, trial="b", attempt=3), record(2)])
    assert rows["noisy"].tolist() == [True, False, pd.NA]
    assert rows["noise"].fillna("").tolist() == ["off the processor 48.7%; uneven 48.5%", "", ""]
    assert rows["lost_share"].tolist()[:2] == pytest.approx([1.9 / 3.9, 0])
    assert rows["cpu_s"].tolist()[:2] == pytest.approx([2, 2])
    assert rows["attempts"].tolist() == [1, 3, 1]
    calls = chunks_table([noisy, record(2)])
    assert list(calls) == list(CHUNKS)
    assert calls["chunk"].tolist() == list(range(1, 21))
    assert calls["load"].isna().all()


def test_noisy_trials_are_marked_in_the_summary() -> None:
    quiet = summarise(trials_table([trial(), trial(seed=1, trial="b")]))
    assert "†" not in render_summary(quiet, "table")
    summary = summarise(trials_table([trial(chunk(2.0)), trial(seed=1, trial="b"), record(2)]))
    assert summary["noisy"].tolist() == [1]
    for kind in ("table", "markdown"):
        text = render_summary(summary, kind)
        assert "a:B†" in text
        assert "† noisy: 1 of 3 of a:B on cpu" in text
        assert kind != "table" or max(map(len, text.splitlines())) <= 80
    assert '"noisy":1' in render_summary(summary, "json").replace(" ", "")


def test_the_last_attempt_is_the_one_that_counts(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, MANIFEST) as writer:
        for attempt in (1, 2, 10, 9):
            writer.add(record(0, attempt=attempt))
        run = Run("r", tmp_path)
        assert [r.attempt for r in run.records] == [10]
        assert run.missing == ["seed1-a.B-cpu"]
        assert writer.folder.count_records(writer.manifest.plan) == 1
        stems = sorted(path.stem for path in (tmp_path / "r" / "records").iterdir())
        assert stems == ["seed0-a.B-cpu", *(f"seed0-a.B-cpu~{k}" for k in (10, 2, 9))]
        # Under a name that is not its own, a record is none.
        (tmp_path / "r" / "records" / "seed0-a.B-cpu~2.json").rename(
            tmp_path / "r" / "records" / "seed0-a.B-cpu~11.json"
        )
        assert "~11.json` is left out" in Run("r", tmp_path).problems[0]


@contextmanager
def busy(core: int) -> Iterator[None]:
    """Keep a core busy."""
    code = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


needs_linux = pytest.mark.skipif(
    not run_queue.waits([os.getpid()]), reason="waiting is not counted here"
)


@needs_linux
def test_what_a_start_waits_for_a_busy_process_is_off_its_clock() -> None:
    core = machine.usable_cores()[-1]
    job = turns_job(Task(n_steps=20), backend="tests.helpers.paced:StartsSlowly")
    with busy(core), Trainer(job, (core,)) as trainer:
        trainer.ready()
    assert trainer.fields["setup_s"] == pytest.approx(0.4, rel=0.1)


@needs_linux
def test_what_a_trial_waits_for_a_busy_process_is_off_its_clock(tmp_path: Path) -> None:
    task = Task(n_steps=20, epochs=200, eval_paths=20)
    with busy(machine.usable_cores()[-1]):
        run = harness.run(
            task, backends=["reference"], seeds=1, rounds=5, dispatch="inline", results=tmp_path
        )
    wall_s, waited_s, cpu_s = run.chunks[["wall_s", "waited_s", "cpu_s"]].sum()
    assert waited_s > 0.05 * wall_s
    assert wall_s - waited_s == pytest.approx(cpu_s, rel=0.1)
    assert not run.trials["noise"].str.contains("off the processor").any()
    share = lost_share(run.records[0])
    assert share is not None
    assert share > 0.1
