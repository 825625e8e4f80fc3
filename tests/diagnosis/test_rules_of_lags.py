"""How far back a network remembers, and at which step back it learned: planted, and healthy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Task
from harness.backend.protocol import Array
from harness.diagnosis.curve import Curve
from harness.diagnosis.findings import findings
from harness.diagnosis.lag_terms import Coefficient, LagTerms
from harness.diagnosis.observed import Observed
from harness.diagnosis.outputs import every_lag
from harness.diagnosis.predictions import explain
from harness.diagnosis.predictions_file import Predictions
from harness.diagnosis.rules import observe
from harness.diagnosis.trainings import trainings
from harness.diagnosis.types import Evidence, Finding
from harness.task.yardsticks import yardsticks
from tests.helpers.predictions import predictions, right
from tests.helpers.trainings import run

TASK = Task(lag=4, lag_weight=1.0)


def made_of(weights: dict[int, float], task: Task = TASK, paths: int = 100) -> list[Finding]:
    """Return what is found in predictions that contain x_{t-k}^2 with these weights."""
    made = predictions(right, paths, 60, task.rho)
    rng = np.random.default_rng(1)
    output_R = made.x_R**2 + 0.02 * rng.standard_normal(len(made.x_R))
    output_R += sum(weight * made.back_R(k) ** 2 for k, weight in weights.items())
    return explain(replace(made, prediction_R=output_R), task)


def rules(found: list[Finding]) -> list[str]:
    return [finding.rule for finding in found]


# ---- predictions


@pytest.mark.parametrize("rho", [0.1, 0.6])
@pytest.mark.parametrize("lag", [1, 2, 4, 8])
@pytest.mark.parametrize("off", [1, -1])
def test_the_lag_is_off_by_one(lag: int, off: int, rho: float) -> None:
    if lag + off == 0:
        return
    (finding,) = made_of({lag + off: 0.3}, Task(lag=lag, lag_weight=0.3, rho=rho))
    assert (finding.rule, finding.severity) == ("wrong-lag", "fault")
    assert f"times x_(t-{lag + off})^2" in finding.evidence
    assert f"the target has +0.3 times x_(t-{lag})^2" in finding.evidence
    assert "the lag is off by 1 step" in finding.remedy
    assert finding.remedy.endswith(f"--set lag={lag + off}")
    assert ("a window of the past that is too short" in finding.remedy) == (off < 0)


@pytest.mark.parametrize("rho", [0.1, 0.9])
@pytest.mark.parametrize("lag", [2, 4, 8])
def test_a_lag_term_that_is_spread(lag: int, rho: float) -> None:
    """With rho = 0.9 the sum is nearly as good: a fit of one lag alone would call it right."""
    weights = dict.fromkeys(range(lag - 1, lag + 2), 1 / 3)
    found = made_of(weights, Task(lag=lag, lag_weight=1.0, rho=rho))
    assert rules(found)[0] == "wrong-lag"
    assert found[0].headline == "The lag term is spread over several steps back."
    assert "they sum to 1" in found[0].evidence


def test_a_spread_that_is_wide() -> None:
    found = made_of(dict.fromkeys(range(2, 18), 1 / 16), Task(lag=9, lag_weight=1.0))
    assert rules(found) == ["wrong-lag"]


@pytest.mark.parametrize("rho", [0.9, -0.9])
def test_a_network_that_lives_on_the_correlation(rho: float) -> None:
    found = made_of({2: 0.9**4}, Task(lag=4, lag_weight=1.0, rho=rho))
    assert rules(found) == ["wrong-lag"]
    assert "x_(t-2) is correlated with x_(t-4) by 0.81" in found[0].evidence


@pytest.mark.parametrize("lag", [1, 4, 16])
def test_the_other_answers_are_those_of_lag_one(lag: int) -> None:
    task = Task(lag=lag, lag_weight=1.0)
    assert rules(made_of({lag: 1.0}, task)) == ["learned"]
    assert rules(made_of({lag: -1.0}, task)) == ["wrong-sign"]
    assert rules(made_of({lag: 0.5}, task)) == ["other-lag"]
    assert rules(made_of({}, task)) == ["memoryless"]


@given(
    lag=st.integers(1, 8),
    weights=st.lists(st.floats(-2, 2), min_size=16, max_size=16),
    rho=st.floats(-0.9, 0.9),
    paths=st.sampled_from([3, 30, 200]),
)
def test_the_coefficient_of_each_step_back_is_found(
    lag: int, weights: list[float], rho: float, paths: int
) -> None:
    made = predictions(right, paths, 60, rho)
    output_R = sum(weight * made.back_R(k) ** 2 for k, weight in enumerate(weights[: 2 * lag], 1))
    found = every(replace(made, prediction_R=made.x_R**2 + output_R, lag=lag))
    assert [term.value for term in found] == pytest.approx([0, 1, *weights[: 2 * lag]], abs=1e-6)


def every(made: Predictions) -> list[Coefficient]:
    found = every_lag(made)
    assert found is not None
    return found


# ---- runs


def terms(values: dict[int, float], task: Task = TASK) -> LagTerms:
    each = [values.get(k, float(k == 0)) for k in range(2 * task.lag + 1)]
    return LagTerms([Coefficient(value, value - 0.01, value + 0.01) for value in each], task)


def at_level(share: float, memory: int, values: dict[int, float], **fields: Any) -> Observed:
    """Return trainings that rest at a share of the without-lag yardstick."""
    task = TASK.changed(epochs=10_000, **fields)
    epochs_K = np.arange(1.0, 21) * 500
    step_ST: Array = np.tile(share * yardsticks(task).without_lag, (3, 1))
    level_SK = np.full((3, 20), step_ST.mean())
    return trainings(
        task,
        (0, 1, 2),
        Curve(epochs_K, None, level_SK, level_SK),
        step_ST,
        lag_terms=[terms(values, task)] * 3,
        memory_S=np.full(3, float(memory)),
    )


def told(observed: Observed) -> dict[str, Evidence]:
    return {rule.id: evidence for rule, evidence in observe(observed)}


def test_what_a_run_learned_at_another_step_back() -> None:
    found = told(at_level(1.9, 0, {3: 0.98}))
    assert set(found) == {"wrong-lag"}
    assert "In 3 of 3 seeds the predictions contain 0.98 times x_(t-3)^2" in found["wrong-lag"].text
    assert "the backend uses the target" in found["wrong-lag"].remedy


def test_a_sign_that_only_the_backend_can_have_turned() -> None:
    found = told(at_level(5.5, 0, {4: -0.97}))
    assert set(found) == {"wrong-sign"}
    assert "it is the backend that turns it" in found["wrong-sign"].text


def test_a_small_negative_coefficient_beside_a_large_one_is_no_turned_sign() -> None:
    assert "wrong-sign" not in told(at_level(2.0, 0, {4: -0.3, 5: 0.6}))


@pytest.mark.parametrize("name", ["floor", "benchmarks.helpers.ailing:TurnsSign"])
def test_a_backend_that_turns_the_sign(name: str, tmp_path: Path) -> None:
    task = Task(lag=2, lag_weight=1.0, n_steps=10, epochs=3000)
    (finding,) = run(tmp_path, task, [name], (0, 1)).findings()
    if name == "floor":
        assert finding.rule == "learned"
        assert "In 2 of 2 it provably uses x_(t-2) or something before it." in finding.evidence
    else:
        assert finding.rule == "wrong-sign"
        assert "it is the backend that turns it" in finding.evidence


def test_the_coefficient_is_evidence_of_the_wrong_sign() -> None:
    found = told(at_level(5.5, 0, {4: -0.97}, train_sign=-1))
    assert set(found) == {"wrong-sign"}
    assert "The task says so itself" in found["wrong-sign"].text
    assert "contain -0.97 times x_(t-4)^2" in found["wrong-sign"].text


def test_a_part_of_the_lag_term() -> None:
    found = told(at_level(0.4, 4, {4: 0.5}))
    assert set(found) == {"other-lag", "learned"}
    assert "50% of it" in found["other-lag"].text
    assert "In 3 of 3 it provably uses x_(t-4) or something before it." in found["learned"].text


def test_a_run_that_lives_on_the_correlation() -> None:
    found = told(at_level(1.3, 2, {2: 0.6}, rho=0.9))
    assert set(found) == {"wrong-lag"}
    assert "it provably uses x_(t-2) or something before it, but nothing shows that it uses " in (
        found["wrong-lag"].text
    )


def test_a_run_that_uses_the_present_only_is_not_called_faulty_where_the_lag_is_far() -> None:
    ((rule, evidence),) = observe(at_level(1.0, 0, {}))
    assert (rule.id, rule.severity) == ("memoryless", "warning")
    assert "at t >= 5" in evidence.text
    assert "at t <= 4" in evidence.text


@given(
    share=st.floats(0.01, 6),
    memory=st.integers(0, 4),
    values=st.dictionaries(st.integers(1, 8), st.floats(-2, 2), max_size=3),
    rho=st.sampled_from([0.1, 0.9]),
)
def test_no_two_findings_say_the_same(
    share: float, memory: int, values: dict[int, float], rho: float
) -> None:
    found = [rule.id for rule, _ in observe(at_level(share, memory, values, rho=rho))]
    about = {"wrong-sign", "wrong-lag", "other-lag", "memoryless", "not-converged"}
    assert len(about & set(found)) <= 1
    assert len(found) == len(set(found))


def test_a_run_without_these_tables_is_diagnosed_as_before() -> None:
    with_them = at_level(1.0, 0, {})
    without = replace(with_them, lag_terms=(), memory_S=None)
    assert set(told(without)) == {"memoryless"}


def test_the_table_of_a_run_is_read(tmp_path: Path) -> None:
    """One seed of two has it: it counts as one of both."""
    task = Task(lag=2, lag_weight=1.0, n_steps=20, epochs=400)
    done = run(tmp_path, task, seeds=(0, 1))
    trial = done.trials["trial"]
    lags = pd.DataFrame(
        {
            "trial": trial.repeat(5).to_numpy(),
            "backend": "floor",
            "device": "cpu",
            "seed": done.trials["seed"].repeat(5).to_numpy(),
            "k": [0, 1, 2, 3, 4] * 2,
            "coefficient": [1, 0, -1, 0, 0] * 2,
        }
    )
    lags["low"], lags["high"] = lags["coefficient"] - 0.01, lags["coefficient"] + 0.01
    flat = done.curves.assign(eval_mse=11.0)
    points = done.manifest.plan.points
    for table, expected in ((lags, True), (lags[:5], False), (None, False)):
        found = findings(done.trials, flat, done.steps, points, lags=table)
        assert ("wrong-sign" in rules(found)) == expected
