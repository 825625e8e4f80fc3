"""Runs that find out themselves how many blocks they take."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import harness
from harness import InvalidInput, Run
from harness.runs.precision import PILOT, blocks_needed, conclusion, extend
from harness.runs.settings import Settings
from harness.stats.estimates import stein_size
from harness.store.manifest import Manifest
from harness.store.run_writer import RunWriter
from harness.tables.numbers import exact_duration
from harness.trial.arms import Arm
from harness.trial.plan import Plan
from harness.trial.record import Chunk, CurvePoint, Record
from tests.helpers.commands import TINY_RUN, Cli
from tests.helpers.records import TINY_TASK

# One backend under two names: what it takes to train differs by noise alone.
NAMES = ("reference", "backends.reference:ReferenceBackend")
ARMS = tuple(Arm(backend=name, device="cpu") for name in NAMES)
PLAN = Plan(
    run="x",
    task=TINY_TASK,
    arms=ARMS,
    seeds=tuple(range(PILOT)),
    rounds=2,
    precision=0.0165,
)
SCATTER = 0.005 * np.array([4, -4, 4, -4, 4, -4, 4, -4])


def pilot(results: Path, plan: Plan, scatter: np.ndarray = SCATTER) -> None:
    """Write a run that was killed when its pilot had just ended, with made-up times."""
    manifest = Manifest(started_utc="-", plan=plan, environment={})
    with RunWriter.create(results, manifest) as writer:
        for job in (job for block in plan.blocks() for job in block):
            slower = math.exp(scatter[job.block]) if job.backend == NAMES[1] else 1.0
            point = CurvePoint(epoch=100, train_s=slower, train_loss=1, eval_mse=1)
            call = Chunk(wall_s=slower, epochs=100, round=1, cpu_s=slower, involuntary_switches=0)
            fields = {"run", "trial", "block", "backend", "device", "seed", "task", "threads"}
            writer.add(
                Record(
                    **{name: getattr(job, name) for name in fields},
                    node="-",
                    started_utc="-",
                    wall_s=1,
                    contended=False,
                    status="ok",
                    timing="rounds",
                    chunks=(call,),
                    points=(point,),
                    step_mse=(1.0,) * 5,
                )
            )


def test_more_seeds_go_on_from_the_largest() -> None:
    assert extend((0, 1), 4) == (0, 1, 2, 3)
    assert extend((7, 3), 4) == (7, 3, 8, 9)
    assert extend((0, 1, 2), 2) == (0, 1, 2)
    plan = Settings(backends=NAMES, precision=0.02).plan("x", TINY_TASK, has_gpu=False)
    assert plan.seeds == tuple(range(PILOT))
    assert not plan.settled
    many = Settings(backends=NAMES, precision=0.02, seeds=12).plan("x", TINY_TASK, has_gpu=False)
    assert len(many.seeds) == 12


def test_the_pilot_decides_how_many_blocks_it_takes(tmp_path: Path) -> None:
    pilot(tmp_path, PLAN)
    trials = Run("x", tmp_path).trials
    needed = stein_size(SCATTER, math.log1p(0.0165))
    assert needed == PILOT + 2
    assert blocks_needed(trials, PLAN) == needed
    # Two pairs were lost: as many more blocks as their sample lacks.
    fewer = trials[~((trials["backend"] == "reference") & trials["block"].isin([0, 1]))]
    expected = PILOT + stein_size(SCATTER[2:], math.log1p(0.0165)) - (PILOT - 2)
    assert blocks_needed(fewer, PLAN) == expected
    # Nothing in common: the pilot has to do.
    assert blocks_needed(trials[trials["backend"] == "reference"], PLAN) == PILOT


def test_a_run_killed_after_its_pilot_grows_once_and_is_complete(cli: Cli, tmp_path: Path) -> None:
    pilot(tmp_path, PLAN)
    assert not Run("x", tmp_path).missing
    needed = PILOT + 2
    resume = ("run", "--resume", "x", "--results", tmp_path, "--dispatch", "inline")
    refused = cli(*resume, "--precision", "3%", "--backends", ",".join(NAMES))
    assert refused.returncode == 2
    assert "`--precision` differs: run `x` has 0.0165, not 0.03" in refused.stderr
    done = cli(*resume)
    assert done.returncode == 0, done.stderr
    assert f"after a pilot of 8 blocks: {needed} are needed" in done.stderr
    run = Run("x", tmp_path)
    assert run.manifest.plan.seeds == tuple(range(needed))
    assert run.manifest.plan.pilot == PILOT
    assert len(run.records) == 2 * needed
    assert run.manifest.finished_utc
    # The half width rests on the pilot alone, so it is what was asked for, whatever came after.
    assert f"every ratio is known to within ±1.65 % after {needed} blocks" in done.stdout
    again = cli(*resume)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr


def test_a_spent_budget_ends_the_run_for_good(cli: Cli, tmp_path: Path) -> None:
    # The trials took a second each, so nothing of the budget is left; killed in its last block.
    pilot(tmp_path, PLAN.model_copy(update={"budget_s": 14.5}))
    (tmp_path / "x" / "records" / "seed7-reference-cpu.json").unlink()
    resume = ("run", "--resume", "x", "--results", tmp_path, "--dispatch", "inline")
    done = cli(*resume)
    assert done.returncode == 0, done.stderr
    assert "the budget of 14.5s is spent after 8 blocks: the widest interval is ±" in done.stdout
    run = Run("x", tmp_path)
    assert run.manifest.plan.seeds == tuple(range(PILOT))
    assert run.manifest.plan.budget_spent
    assert len(run.records) == 2 * PILOT
    assert run.manifest.finished_utc
    again = cli(*resume)
    assert "nothing to do" in again.stderr


def test_a_budget_that_parity_uses_up_leaves_no_block(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        *(*TINY_RUN, "--backends", ",".join(NAMES), "--precision", "2%", "--budget", "0.05s"),
        *("--dispatch", "inline", "--results", tmp_path, "--run-id", "x"),
    )
    assert done.returncode == 0, done.stderr
    assert "the budget of 0.05s is spent after 0 blocks" in done.stdout
    assert "Traceback" not in done.stderr
    assert Run("x", tmp_path).missing == []


@pytest.mark.slow
def test_a_whole_run_from_python(tmp_path: Path) -> None:
    run = harness.run(
        TINY_TASK,
        backends=NAMES,
        seeds=1,
        precision=0.5,
        budget_s=100,
        dispatch="inline",
        results=tmp_path,
        run_id="x",
    )
    plan = run.manifest.plan
    assert plan.settled
    assert plan.pilot == min(PILOT, len(plan.seeds))
    assert not run.missing
    assert conclusion(plan, run.comparisons()).startswith(
        "every ratio is known to within ±50 % after " if not plan.budget_spent else "the budget of"
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precision": 0.6}, "`precision` = 0.6: should be less than or equal to 0.5"),
        ({"precision": 0.0}, "`precision` = 0.0: should be greater than 0"),
        ({"precision": 0.02, "budget_s": -1}, "`budget_s` = -1"),
        ({"budget_s": 10}, "`budget_s` is the budget of `precision`"),
        ({"precision": 0.02, "packed": True}, "`precision` and `packed` exclude each other"),
        ({"precision": 0.02, "backends": ["torch"]}, "nothing to compare `torch` with"),
    ],
    ids=str,
)
def test_what_cannot_be_known_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence.replace("(", r"\(")):
        Settings(**{"backends": NAMES, **settings})


def test_durations_as_they_are_given() -> None:
    texts = [exact_duration(s) for s in (90, 600, 3600, 5400, 1.5)]
    assert texts == ["90s", "10m", "1h", "90m", "1.5s"]
