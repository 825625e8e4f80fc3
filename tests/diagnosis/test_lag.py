"""Predictions and paths of a task that remembers more than one step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness import Task
from harness.cli import cli
from harness.diagnosis.beginning import settle
from harness.diagnosis.outputs import coefficients
from harness.diagnosis.predictions import explain, observe_predictions
from harness.diagnosis.predictions_file import Predictions, read
from harness.errors import InvalidInput
from tests.helpers.predictions import W, predictions, right, write


def rules(given: Predictions, **task: Any) -> list[str]:
    return [finding.rule for finding in explain(given, Task(**task))]


def window(given: Predictions, begin: int, t: int) -> str:
    """Return a file of the rows after `begin` steps of each path, the first of them at t."""
    lines = ["path,t,x,prediction"]
    for path, step, x, y in zip(
        given.path_R, given.t_R, given.x_R, given.prediction_R, strict=True
    ):
        if step > begin:
            lines.append(f"{path},{step - begin - 1 + t},{x},{y}")
    return "\n".join(lines)


@given(
    steps=st.integers(1, 12), back=st.integers(0, 14), paths=st.integers(1, 4), seed=st.integers(0)
)
def test_what_is_so_many_steps_back(steps: int, back: int, paths: int, seed: int) -> None:
    made = predictions(right, paths, steps, seed=seed)
    x_PT = np.zeros((paths, back + 1 + steps))  # From t = -back on.
    x_PT[:, back + 1 :] = made.x_R.reshape(paths, steps)
    assert (made.back_R(back) == x_PT[:, 1 : 1 + steps].ravel()).all()


@pytest.mark.parametrize("lag", [1, 2, 5, 16])
@pytest.mark.parametrize("rho", [0.1, 0.9])
def test_the_lag_term_is_found_at_any_lag(lag: int, rho: float) -> None:
    task = {"lag": lag, "rho": rho}
    (learned,) = explain(predictions(right, 100, 40, rho, lag=lag), Task(**task))
    assert learned.rule == "learned"
    assert f"contain 0.1 [0.1, 0.1] times x_(t-{lag})^2" in learned.evidence
    assert f"against x_t^2 + 0.1*x_(t-{lag})^2" in learned.evidence
    wrong = predictions(lambda x, b: x**2 - W * b**2, 100, 40, rho, lag=lag)
    (finding,) = explain(wrong, Task(**task))
    assert finding.rule == "wrong-sign"
    assert f"the target of the loss as x_t^2 + 0.1*x_(t-{lag})^2" in finding.remedy


@pytest.mark.parametrize("lag", [2, 8, 16])
def test_the_first_steps_are_easy_and_nothing_is_wrong_with_that(lag: int) -> None:
    """Without a lag term there, what has not learned it has the larger errors later."""
    made = predictions(lambda x, b: x**2 + 1.0, 100, 60, lag=lag)
    assert rules(made, lag=lag, lag_weight=1.0) == ["memoryless"]
    without = predictions(lambda x, b: x**2, 100, lag + 2, lag=lag)
    assert rules(without, lag=lag, lag_weight=1.0) == ["memoryless"]


def test_a_network_that_counts_its_first_steps_does_not_remember() -> None:
    """The mean of the target steps up at t = L + 1, and a network can follow that."""
    made = predictions(lambda x, b: x**2, 100, 20, lag=8)
    counted = replace(made, prediction_R=made.prediction_R + (made.t_R > 8))
    assert rules(counted, lag=8, lag_weight=1.0) == ["memoryless"]


@pytest.mark.parametrize("t", [0, 1, 7])
def test_a_window_is_scored_where_the_lagged_value_is_known(t: int, tmp_path: Path) -> None:
    made = predictions(right, 60, 80, lag=4)
    (tmp_path / "a.csv").write_text(window(made, 70, t))
    given = settle(read(tmp_path / "a.csv"), W, 4)
    assert int(given.t_R.max()) == 6
    assert given.further == 3
    terms = coefficients(given)
    assert terms is not None
    assert terms.before.value == pytest.approx(W, abs=1e-6)
    found = explain(read(tmp_path / "a.csv"), Task(lag=4))
    assert [finding.rule for finding in found] == ["other-inputs"] * (t == 0) + ["learned"]
    assert "so x_(t-4) is unknown in the next 3 rows" in found[0].evidence


def test_the_yardsticks_of_windows_have_a_lag_term_at_every_step(tmp_path: Path) -> None:
    task = Task(lag=4, rho=0.9, lag_weight=1.0, n_steps=80)
    made = predictions(right, 2000, 80, 0.9, lag=4)
    (tmp_path / "a.csv").write_text(window(made, 60, 0))
    shown = observe_predictions(read(tmp_path / "a.csv"), task)
    stationary = harness.yardsticks(task).without_lag[-1]
    assert shown.exact.without_lag == pytest.approx(np.full(16, stationary), rel=0.1)


@pytest.mark.parametrize("zero", [True, False])
def test_paths_that_begin_at_zero_are_scored_from_the_first_step_on(
    zero: bool, tmp_path: Path
) -> None:
    made = predictions(right, 50, 40, lag=5)
    given = read(write(tmp_path / "a.csv", made, zero=zero))
    assert observe_predictions(given, Task(lag=5)).step_mse_ST.shape == (1, 40)
    assert rules(given, lag=5) == ["learned"]


@pytest.mark.parametrize(("t", "steps"), [(0, 3), (1, 3), (7, 4)])
def test_paths_that_are_shorter_than_the_lag(t: int, steps: int, tmp_path: Path) -> None:
    made = predictions(right, 50, 40)
    (tmp_path / "a.csv").write_text(window(made, 40 - steps, t))
    words = ["explain", "--predictions", str(tmp_path / "a.csv"), "--set", "lag=5"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: `lag` = 5: the longest path has ")
    assert "so no step has x_(t-5)" in done.stderr


def test_without_a_row_that_has_the_lagged_value_nothing_is_said_of_it() -> None:
    (finding,) = explain(predictions(right, 50, 5), Task(lag=5))
    assert finding.rule == "unsure"
    assert "x_(t-5) is 0 in all rows that are scored" in finding.evidence
    assert "the first 5 steps of a path have no x_(t-5) but 0" in finding.remedy


@given(lag=st.integers(1, 30), more=st.integers(-30, 10), begins=st.booleans())
def test_any_lag_has_an_answer_or_a_sentence(lag: int, more: int, begins: bool) -> None:
    made = replace(predictions(right, 25, max(1, lag + more)), begins=begins)
    if more < 0 and lag > 1:
        with pytest.raises(InvalidInput, match="`lag` = "):
            explain(made, Task(lag=lag))
    else:
        explain(made, Task(lag=lag))
