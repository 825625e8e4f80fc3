from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Task, yardsticks
from harness.record import Point, Record
from harness.render import FORMATS, render, render_summary
from harness.summary import curves_by_arm, geometric_mean, spread_out, steps_by_arm, summarise
from harness.tables import CURVES, STEPS, TRIALS, curves_table, steps_table, trials_table
from tests.test_store import record

TASK = Task(n_steps=2)


def arm(backend: str, seed: int, train_s: float, mse: float = 0.01, **changes: object) -> Record:
    points = (
        Point(epoch=500, train_s=train_s / 2, train_loss=0.5, eval_mse=1.0),
        Point(epoch=1000, train_s=train_s, train_loss=0.1, eval_mse=mse),
    )
    return record(
        **{  # type: ignore[arg-type]
            "trial": f"{backend}{seed}",
            "backend": backend,
            "seed": seed,
            "block": seed,
            "points": points,
            "step_mse": (mse, mse),
            "task": TASK,
            **changes,
        }
    )


FAST_AND_SLOW = [arm("fast", s, 1.0 + s / 10) for s in range(3)] + [
    arm("slow", s, 4 * (1.0 + s / 10)) for s in range(3)
]


def test_the_columns_are_those_of_the_design() -> None:
    assert " ".join(TRIALS) == (
        "run trial block backend device node seed status error "
        "epochs import_s setup_s first_call_s train_s eval_s wall_s epochs_per_s "
        "final_mse r2 lag_skill epochs_to_lag seconds_to_lag "
        "peak_rss_mb peak_gpu_mb threads contended cpu_s lost_share noisy noise attempts"
    )
    assert " ".join(CURVES) == "trial backend device seed epoch train_s train_loss eval_mse"
    assert " ".join(STEPS) == "trial backend device seed t mse variance memoryless wrong_sign"
    for table, columns in (
        (trials_table([]), TRIALS),
        (curves_table([]), CURVES),
        (steps_table([], TASK), STEPS),
    ):
        assert list(table.columns) == list(columns)


def test_derived_figures() -> None:
    exact = yardsticks(TASK)
    row = trials_table([arm("a", 0, 2.0, mse=0.005)]).iloc[0]
    assert row["final_mse"] == pytest.approx(0.005)
    assert row["r2"] == pytest.approx(1 - 0.005 / exact.variance.mean())
    assert row["lag_skill"] == pytest.approx(1 - 0.005 / exact.memoryless.mean())
    assert row["epochs_per_s"] == 500
    assert (row["epochs_to_lag"], row["seconds_to_lag"]) == (1000, 2.0)


def test_without_a_lag_term_there_is_no_skill_to_speak_of() -> None:
    row = trials_table([arm("a", 0, 2.0, task=Task(n_steps=2, lag_weight=0))]).iloc[0]
    assert pd.isna(row["lag_skill"])
    assert pd.isna(row["epochs_to_lag"])


def test_a_failed_trial_is_a_row_that_keeps_what_it_measured() -> None:
    failed = arm("a", 0, 2.0, status="failed", error="boom", step_mse=())
    row = trials_table([failed]).iloc[0]
    assert (row["status"], row["error"], row["epochs"], row["train_s"]) == (
        "failed",
        "boom",
        1000,
        2,
    )
    assert pd.isna(row["final_mse"])
    assert len(curves_table([failed])) == 2
    summary = summarise(trials_table([failed, *FAST_AND_SLOW]))
    assert summary.set_index("backend").loc["a", "seeds"] == 0


def test_ratios_are_formed_inside_blocks() -> None:
    # Seed 2 is three times slower for both: the ratio does not care.
    summary = summarise(trials_table(FAST_AND_SLOW)).set_index("backend")
    assert summary.loc["fast", "time_ratio"] == 1
    slow = summary.loc["slow"]
    assert slow["time_ratio"] == pytest.approx(4)
    assert slow["time_ratio_low"] == pytest.approx(4)
    assert slow["time_ratio_high"] == pytest.approx(4)


def test_a_ratio_across_nodes_is_never_formed() -> None:
    records = [arm("fast", 0, 1.0, node="x"), arm("slow", 0, 4.0, node="y")]
    summary = summarise(trials_table(records)).set_index("backend")
    assert summary["time_ratio"].isna()["slow"]


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=10))
def test_the_interval_holds_the_mean_and_turns_round_with_the_ratio(ratios: list[float]) -> None:
    mean, low, high = geometric_mean(np.array(ratios))
    assert low <= mean * (1 + 1e-12)
    assert mean <= high * (1 + 1e-12)
    inverse = geometric_mean(1 / np.array(ratios))
    assert inverse == pytest.approx((1 / mean, 1 / high, 1 / low), rel=1e-9)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = np.exp(0.3 * rng.standard_normal((4000, 3))) * 2
    hits = [low <= 2 <= high for _, low, high in map(geometric_mean, samples)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_backends_stand_side_by_side() -> None:
    steps = steps_by_arm(steps_table(FAST_AND_SLOW, TASK))
    assert list(steps) == ["t", "fast", "slow", "variance", "memoryless", "wrong_sign"]
    curves = curves_by_arm(curves_table(FAST_AND_SLOW))
    assert list(curves) == [
        "epoch",
        *(f"{a} {c}" for a in ("fast", "slow") for c in ("loss", "mse", "s")),
    ]
    assert curves["slow s"].tolist() == pytest.approx([2.2, 4.4])
    both = steps_by_arm(steps_table([arm("a", 0, 1), arm("a", 0, 1, device="gpu")], TASK))
    assert list(both)[1:3] == ["a cpu", "a gpu"]


def test_some_time_steps_always_hold_the_first_two_and_the_last() -> None:
    for last in (1, 2, 3, 100, 1000):
        chosen = spread_out(pd.DataFrame({"t": range(1, last + 1)}))["t"].tolist()
        assert {1, min(2, last), last} <= set(chosen)
        assert len(chosen) <= 14


@pytest.mark.parametrize("kind", FORMATS)
def test_every_table_renders_in_every_format_even_empty(kind: str) -> None:
    for records in ([], FAST_AND_SLOW):
        tables = [curves_by_arm(curves_table(records)), steps_by_arm(steps_table(records, TASK))]
        texts = [render(t, kind) for t in tables] + [
            render_summary(summarise(trials_table(records)), kind)
        ]
        for text in texts:
            assert text.endswith("\n")
            if kind == "json":
                json.loads(text)
            if kind == "table":
                assert max(map(len, text.splitlines()), default=0) <= 80


def test_a_wide_table_is_cut_between_columns_not_through_them() -> None:
    records = [arm(f"backend-number-{n}", 0, 1.0) for n in range(8)]
    text = render(steps_by_arm(steps_table(records, TASK)), "table", width=80)
    assert max(map(len, text.splitlines())) <= 80
    for n in range(8):
        assert f"backend-number-{n}" in text
