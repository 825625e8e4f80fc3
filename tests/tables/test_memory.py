"""The tables on how far back networks remember, from records that nobody measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness import Task
from harness.tables.from_records import LAGS, lags_table, trials_table
from harness.tables.memory import memory
from harness.tables.reach import REACH, by_lag, reach, render_reach
from harness.tables.summary import summarise
from harness.trial.learned import Learned
from harness.trial.record import Record, Share
from tests.helpers.records import record, timed

TASK = Task(lag=2, lag_weight=0.5, n_steps=2)


def learned(steps: int, lag: int = 2, paths: int = 2000) -> Learned:
    """Return what is known of a network that surely beats the first so many windows."""
    gaps = tuple(-1.0 if past < steps else 1.0 for past in range(lag))
    return Learned(
        windows=tuple(range(lag)),
        gaps=gaps,
        gap_errors=(0.1,) * lag,
        gap_skews=(0.0,) * lag,
        paths=paths,
        coefficients=(1.0, 0.0, 0.25),
        coefficient_errors=(0.01, 0.01, 0.02),
        groups=50,
    )


def trial(seed: int, steps: int, **changes: Any) -> Record:
    fields: dict[str, Any] = {"task": TASK, "learned": learned(steps)}
    return timed("a", seed, 1.0, **fields | changes)


@pytest.mark.parametrize(
    ("gaps", "errors", "skews", "paths", "steps"),
    [
        ((-1, -1, -1), (0.1, 0.1, 0.1), (0, 0, 0), 2000, 3),
        ((-1, -1, 1), (0.1, 0.1, 0.1), (0, 0, 0), 2000, 2),
        # 3.29 standard errors are the 0.05 % of a normal distribution.
        ((-3.4, -3.2, -9), (1, 1, 1), (0, 0, 0), 10**6, 1),
        ((-3.2, -9, -9), (1, 1, 1), (0, 0, 0), 10**6, 0),
        # With a long tail to the right, a mean is often far too small.
        ((-3.4, -9, -9), (1, 1, 1), (5, 0, 0), 1000, 0),
        ((-3.4, -9, -9), (1, 1, 1), (-5, 0, 0), 1000, 3),
        # Of a network on a GPU that had learned the lag: a few paths with huge errors, and yet far
        # below zero.
        ((-0.0102, 1, 1), (0.000483, 1, 1), (18.5, 0, 0), 2000, 1),
        # Exactly as good as a window is not better.
        ((-1, 0, 0), (0.1, 0, 0), (0, 0, 0), 2000, 1),
        ((-1, -1, -1), (0, 0, 0), (0, 0, 0), 2000, 3),
    ],
)
def test_memory_ends_at_the_first_window_that_is_not_beaten(
    gaps: tuple[float, ...],
    errors: tuple[float, ...],
    skews: tuple[float, ...],
    paths: int,
    steps: int,
) -> None:
    found = Learned(windows=(0, 1, 2), gaps=gaps, gap_errors=errors, gap_skews=skews, paths=paths)
    assert memory(found) == steps


@given(
    gap=st.floats(-1e9, 1e9),
    lower=st.floats(0, 1e9),
    error=st.floats(0, 1e9),
    skew=st.floats(-50, 50),
    paths=st.integers(100, 10**6),
)
def test_a_smaller_error_is_never_a_shorter_memory(
    gap: float, lower: float, error: float, skew: float, paths: int
) -> None:
    def found(value: float) -> int | None:
        one = Learned(
            windows=(0,), gaps=(value,), gap_errors=(error,), gap_skews=(skew,), paths=paths
        )
        return memory(one)

    worse, better = found(gap), found(gap - lower)
    assert worse is not None
    assert better is not None
    assert better >= worse


def test_few_paths_prove_nothing() -> None:
    assert memory(learned(2, paths=99)) is None
    assert memory(learned(2, paths=100)) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"gaps": (1.0,)},
        {"paths": 1},
        {"windows": (1, 1)},
        {"windows": (-1, 0)},
        {"windows": (0, 10**30)},
        {"gap_errors": (0.1, -0.1)},
        {"groups": 1},
        {"coefficients": (1.0,)},
        {"coefficients": (float("nan"), 0, 0)},
    ],
)
def test_what_does_not_fit_together_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Learned(**asdict(learned(2)) | wrong)


def test_memory_is_unknown_without_a_lag_and_in_older_records() -> None:
    assert memory(None) is None
    assert memory(Learned()) is None
    assert trials_table([record()])["memory"].isna().all()


def test_seeds_at_once_have_a_memory_each() -> None:
    shares = (
        Share(seed=0, status="ok", points=(), step_mse=(1, 1), learned=learned(2)),
        Share(seed=1, status="diverged", points=()),
    )
    table = trials_table([record(seeds=(0, 1), shares=shares, task=TASK)])
    assert table["memory"].tolist() == [2, pd.NA]
    assert lags_table([record(seeds=(0, 1), shares=shares, task=TASK)])["seed"].tolist() == [0] * 3


def test_half_of_the_seeds_do_not_make_a_memory_in_between() -> None:
    records = [trial(seed, 2 * (seed % 2)) for seed in range(4)]
    assert summarise(trials_table(records))["memory"].tolist() == [0]


def test_the_summary_has_the_median_and_its_interval() -> None:
    steps = [2, 2, 2, 0, 2, 2, 2, 0, 2]
    (row,) = summarise(trials_table([trial(s, d) for s, d in enumerate(steps)])).to_dict("records")
    # The sign test leaves out one value at either end.
    assert (row["memory"], row["memory_low"], row["memory_high"]) == (2, 0, 2)
    (few,) = summarise(trials_table([trial(s, 2) for s in range(5)])).to_dict("records")
    assert few["memory"] == 2
    assert np.isnan(few["memory_low"])


def test_lags_stand_beside_those_of_the_target() -> None:
    table = lags_table([trial(3, 2)], ["lag"])
    assert list(table) == [*LAGS, "lag"]
    assert table["true"].tolist() == [1, 0, 0.5]
    assert table["coefficient"].tolist() == [1, 0, 0.25]
    # Student's t with 49 degrees of freedom.
    np.testing.assert_allclose(
        table["high"] - table["low"], 2 * 2.0096 * 0.01 * np.array([1, 1, 2]), rtol=1e-3
    )
    assert lags_table([]).empty
    assert list(lags_table([record()])) == list(LAGS)


def test_how_many_seeds_reach_the_lag() -> None:
    records = [
        trial(
            seed,
            min(lag, 2),
            task=TASK.changed(lag=lag, n_steps=9),
            trial=f"l{lag}s{seed}",
            step_mse=(1.0,) * 9,
            learned=learned(min(lag, 2), lag),
        )
        for lag in (1, 2, 4)
        for seed in range(8)
    ]
    table = reach(trials_table(records, swept=["lag"]), ["lag"])
    assert list(table) == list(REACH)
    assert table["lag"].tolist() == [1, 2, 4]
    assert table["reached"].tolist() == [8, 8, 0]
    assert table["low"].round(2).tolist() == [0.63, 0.63, 0.0]
    text = render_reach(table, "table", 80, ["lag"])
    assert (
        "a on cpu remembers 2 steps (8 of 8 seeds do, 63 to 100 %), and is not shown to remember "
        "4 steps (0 of 8 seeds do, 0 to 37 %); the median there is 2" in " ".join(text.split())
    )
    assert "lag 1  lag 2  lag 4" in text
    assert reach(trials_table(records), []).empty


def test_a_seed_that_diverged_does_not_make_the_others_look_better() -> None:
    records = [trial(seed, 2, trial=f"s{seed}") for seed in range(3)]
    records.append(trial(3, 0, status="diverged", learned=None, step_mse=()))
    records.append(trial(4, 0, status="failed", learned=None, step_mse=()))
    table = reach(trials_table(records, swept=["lag"]), ["lag"])
    assert table[["seeds", "reached"]].to_numpy().tolist() == [[4, 3]]


def test_columns_are_in_the_order_of_lags() -> None:
    rows = [{"hidden": h, "backend": "a", "device": "cpu", "lag": k} for h, k in [(4, 2), (8, 1)]]
    table = by_lag(pd.DataFrame(rows).assign(seeds=3, reached=1), ["hidden", "lag"])
    assert list(table)[-2:] == ["lag 1", "lag 2"]
