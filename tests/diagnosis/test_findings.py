"""Each fault is planted in a real training and found; a healthy training has no fault."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness import Run, Task
from harness.backend.protocol import Array
from harness.diagnosis.curve import Curve
from harness.diagnosis.findings import findings
from harness.diagnosis.observed import Observed
from harness.diagnosis.rules import observe
from harness.diagnosis.trainings import by_arm, trainings
from harness.diagnosis.types import Finding
from harness.stats.forecast import POWER, forecast
from harness.trial.events import Certificate, Check
from tests.helpers.trainings import run

# Shorter paths than those of the presets, so that long trainings take a second.
SHORT: dict[str, Any] = {"n_steps": 30, "epochs": 10_000}


def rules(found: Sequence[Finding]) -> list[str]:
    return [finding.rule for finding in found]


def one(found: Sequence[Finding], rule: str) -> Finding:
    (finding,) = (finding for finding in found if finding.rule == rule)
    return finding


# ---- the wrong sign


def test_the_program_that_was_posted(tmp_path: Path) -> None:
    """At full length the errors sit on the yardstick."""
    found = run(tmp_path, Task.preset("posted-gradient-mended", n_steps=20, epochs=6000)).findings()
    assert rules(found) == ["wrong-sign"]
    (finding,) = found
    assert finding.severity == "fault"
    assert finding.subjects == ("floor on cpu",)
    assert "differ in the sign of the lag term" in finding.headline
    assert "sits on the wrong-sign yardstick, 0.122, at every t >= 2" in finding.evidence
    assert "near zero at t = 1" in finding.evidence
    assert "training loss has fallen to 0.00" in finding.evidence
    assert (
        "run --preset corrected --set n_steps=20 --set epochs=6000` (the same task"
        in finding.remedy
    )
    assert "+ 0.1*x_(t-1)^2" in finding.remedy


def test_the_program_that_was_posted_before_it_is_finished(tmp_path: Path) -> None:
    """At the default length the gap shows it, the single steps do not yet."""
    (finding,) = run(tmp_path, Task.preset("posted-gradient-mended"), seeds=(0, 1)).findings()
    assert finding.rule == "wrong-sign"
    assert "train_sign = -1" in finding.evidence
    assert "is what the sign costs (0.121" in finding.evidence
    assert "sits on" not in finding.evidence


def test_the_wrong_sign_before_anything_is_learned(tmp_path: Path) -> None:
    task = Task(train_sign=-1, lag_weight=-0.5, epochs=40, n_steps=10)
    (finding,) = run(tmp_path, task).findings()
    assert finding.rule == "wrong-sign"
    assert "do not show it clearly yet" in finding.evidence
    assert "against x_t^2 + 0.5*x_(t-1)^2, the error against x_t^2 - 0.5" in finding.evidence


def test_a_sign_without_a_lag_is_no_fault(tmp_path: Path) -> None:
    task = Task(train_sign=-1, lag_weight=0, **SHORT)
    assert rules(run(tmp_path, task).findings()) == ["learned"]
    at_once = Task(train_sign=-1, n_steps=1, epochs=40)
    assert "wrong-sign" not in rules(run(tmp_path / "one", at_once).findings())


# ---- the gradient

# In float64 and NumPy: slow, but it has the broken gradient, and nothing to compile.
POSTED: dict[str, Any] = {"n_steps": 20, "epochs": 300, "eval_paths": 400}


def test_both_faults_of_the_posted_program(tmp_path: Path) -> None:
    task = Task.preset("posted", **POSTED)
    found = run(tmp_path, task, ["reference"]).findings()
    assert rules(found) == ["wrong-sign", "broken-gradient"]
    sign, gradient = found
    assert "--preset posted-sign-mended --set n_steps=20" in sign.remedy
    assert "as x_t^2 + 0.1*x_(t-1)^2" in sign.remedy
    assert "[h_nn(x) for x in xs], or map(h_nn, xs), in place of h_nn.(xs)" in gradient.remedy
    assert "--preset posted-gradient-mended --set n_steps=20" in gradient.remedy
    assert "Without either fault: `python -m harness run --preset corrected" in gradient.remedy
    assert "After 300 epochs the initial state is exactly where it began" in gradient.evidence
    assert re.search(r"at t = 1, 2 and 3, and [\d.]+ on average from t = 6 on", gradient.evidence)
    assert "8 times the error of the right gradient at w = 0.1, and 49 times" in gradient.evidence


def test_mending_the_sign_alone(tmp_path: Path) -> None:
    task = Task.preset("posted-sign-mended", lag_weight=1.0, **POSTED)
    shown = run(tmp_path, task, ["reference"])
    (gradient,) = shown.findings()
    assert (gradient.rule, gradient.severity) == ("broken-gradient", "fault")
    assert "--preset corrected --set lag_weight=1.0" in gradient.remedy
    assert "Without either fault" not in gradient.remedy
    assert shown.trials["initial_state_moved"].tolist() == [0.0]


def test_a_gradient_that_goes_wrong_after_parity(tmp_path: Path) -> None:
    """The initial state moves for some steps and then no more: the first steps stay bad."""
    backend = "benchmarks.helpers.ailing:KeepsStart"
    found = run(tmp_path, Task(), [backend], (0, 1)).findings()
    finding = one(found, "first-steps")
    assert finding.severity == "fault"
    assert "The initial state has moved by 0.0" in finding.evidence
    assert "[m(x) for x in xs]" in finding.remedy
    assert "learned" not in rules(found)


@pytest.mark.slow
def test_no_gradient_through_time(tmp_path: Path) -> None:
    task = Task(epochs=2000)
    found = run(tmp_path, task, ["benchmarks.helpers.ailing_jax:Cut"], (0, 1)).findings()
    finding = one(found, "first-steps")
    assert finding.headline.startswith("The initial state was not trained")
    assert "After 2000 epochs the initial state is exactly where it began" in finding.evidence


def test_the_initial_state_of_a_healthy_network_moves(tmp_path: Path) -> None:
    for cell in ("rnn", "lstm"):
        task = Task(cell=cell, n_steps=5, epochs=20, eval_paths=20)
        trials = run(tmp_path / cell, task, ["reference"]).trials
        # Adam moves each unit by up to the learning rate at each step.
        assert 5e-3 < trials["initial_state_moved"].item() < 20e-3 * 1.01


def test_relu_may_leave_the_initial_state_where_it_is(tmp_path: Path) -> None:
    """Its argument at t = 0 is zero at first, and so is its derivative: the gradient is right."""
    task = Task(activation="relu", hidden=1, n_steps=10, epochs=40, eval_paths=50)
    shown = run(tmp_path, task, ["reference"])
    assert shown.trials["initial_state_moved"].tolist() == [0.0]
    assert "first-steps" not in rules(shown.findings())


def test_what_the_gradient_costs_is_said_of_the_network_it_was_measured_with(
    tmp_path: Path,
) -> None:
    task = Task(gradient="stateful-broadcast", cell="lstm", n_steps=12, epochs=20, eval_paths=50)
    finding = one(run(tmp_path, task, ["reference"]).findings(), "broken-gradient")
    assert "costs" not in finding.evidence


def test_the_first_steps_of_old_records_are_not_known_to_be_untrained() -> None:
    steps_ST = 2e-3 * np.ones((4, 100))
    for moved_S, said in ((None, False), (np.zeros(4), True), (np.array([0, 0, 0, 0.1]), False)):
        shown = replace(_healthy(steps_ST), moved_S=moved_S)
        assert ("first-steps" in {rule.id for rule, _ in observe(shown)}) == said


# ---- no memory


def test_no_memory(tmp_path: Path) -> None:
    task = Task.preset("strong-lag", **SHORT | {"epochs": 3000})
    found = run(tmp_path, task, ["benchmarks.helpers.ailing:Forgets"], seeds=(0, 1)).findings()
    assert rules(found) == ["memoryless"]
    (finding,) = found
    level = harness.yardsticks(task).memoryless[1:].mean()
    assert f"({level:.3g}, the least error" in finding.evidence
    assert "2 of 2 seeds" in finding.evidence


def test_passing_the_level_of_no_memory_is_not_staying_there(tmp_path: Path) -> None:
    """The error is on the yardstick, as the training is cut off there, and falls steeply."""
    (shown,) = _trainings(run(tmp_path, Task(epochs=740), seeds=(0, 1)))
    ratio = shown.later_S / shown.exact.memoryless[1:].mean()
    assert (np.abs(np.log(ratio)) < np.log(1.6)).all()
    assert not shown.memoryless_S.any()


# ---- unfinished, or not going anywhere


def test_unfinished(tmp_path: Path) -> None:
    found = run(tmp_path, Task(), seeds=(0, 1, 2)).findings()
    assert set(rules(found)) <= {"not-converged", "learned"}
    finding = one(found, "not-converged")
    low, high = _between(finding.evidence)
    longer = int(finding.remedy.rpartition("=")[2])
    assert 1000 < low < longer < high
    assert f"it takes about {longer:,} epochs in all" in finding.evidence
    assert "lag_skill 0.9 (error 0.00202)" in finding.evidence


def test_of_a_sweep_what_can_be_told_leads_and_says_where(tmp_path: Path) -> None:
    task = Task(n_steps=10, epochs=400, eval_paths=200)
    swept = run(tmp_path, task, ["reference"], sweep={"activation": ("relu", "tanh")})
    finding = one(swept.findings(), "not-converged")
    assert finding.evidence.startswith("activation=tanh: ")
    assert " Likewise activation=relu: error " in finding.evidence
    assert finding.evidence.endswith("for how long cannot be told.")
    assert finding.remedy.startswith("At activation=tanh: Train longer: --set epochs=")


@pytest.mark.slow
def test_a_forecast_comes_true(tmp_path: Path) -> None:
    seeds = (0, 1, 2)
    finding = one(run(tmp_path / "short", Task(), seeds=seeds).findings(), "not-converged")
    low, high = _between(finding.evidence)
    curves = run(tmp_path / "long", Task(epochs=15_000, curve_points=30), seeds=seeds).curves
    typical = np.exp(np.log(curves["eval_mse"]).groupby(curves["epoch"]).mean())
    goal = 0.1 * harness.yardsticks(Task()).memoryless.mean()
    reached = int(typical.index[typical < goal][0])
    assert low - 500 <= reached <= high + 500


def _between(text: str) -> tuple[int, int]:
    low, _, high = text.replace(",", "").partition("(between ")[2].partition(")")[0].split()
    return int(low), int(high)


@pytest.mark.slow
def test_a_forecast_that_was_not_measured_is_not_made(tmp_path: Path) -> None:
    (finding, *_) = run(tmp_path, Task(activation="relu", epochs=600), seeds=(0, 1)).findings()
    assert finding.rule == "not-converged"
    assert "cannot be told" in finding.evidence
    assert "--set epochs=2400" in finding.remedy


@given(
    power=st.floats(-2.5, -0.5),
    gap=st.floats(0.1, 6.0),
    epochs=st.integers(1, 50),
    points=st.integers(10, 40),
)
def test_a_forecast_is_consistent(power: float, gap: float, epochs: int, points: int) -> None:
    epochs_K = np.arange(1.0, points + 1) * epochs
    curve_K = (epochs_K / epochs_K[-1]) ** power
    told = forecast(epochs_K, np.stack([curve_K, curve_K]), float(np.exp(-gap)))
    if told is None:  # The mean of the last few points is there already.
        assert np.log(curve_K[-3:]).mean() > -gap or gap < 0.5
        return
    assert told.power == pytest.approx(power, abs=0.1)
    expected = epochs_K[-1] * np.exp(gap / -POWER)
    assert told.beyond == (expected > 100 * epochs_K[-1])
    assert epochs_K[-1] <= told.low <= told.epochs * (1 + 1e-9) <= told.high * (1 + 1e-9)
    assert told.epochs == pytest.approx(expected)
    wanted = told.low if told.beyond else told.epochs
    assert wanted <= told.next_try * (1 + 1e-9) <= 1.1 * wanted + 1


def test_no_forecast_from_what_does_not_fall() -> None:
    epochs_K = np.arange(1.0, 21)
    assert forecast(epochs_K, np.full((2, 20), 0.5), 0.1) is None
    assert forecast(epochs_K, np.full((2, 20), 0.05), 0.1) is None
    assert forecast(epochs_K[:3], np.full((2, 3), 0.5), 0.1) is None
    assert forecast(epochs_K, np.full((2, 20), np.nan), 0.1) is None
    assert forecast(np.empty(0), np.empty((1, 0)), 0.1) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": 1e-5, "epochs": 1000},
        {"epochs": 20},
        {"epochs": 100},
        {"lag_weight": 1e-3, "epochs": 2000},
    ],
    ids=str,
)
def test_a_training_that_has_hardly_begun(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Its error is above that of a constant, or that of no memory, and falls ever so slowly."""
    found = run(tmp_path, Task(**SHORT | fields), seeds=(0, 1, 2)).findings()
    assert rules(found) == ["not-converged"]
    assert found[0].remedy.endswith(f"--set epochs={4 * fields['epochs']}")


def test_divergence(tmp_path: Path) -> None:
    task = Task(optimiser="sgd", learning_rate=1.0, epochs=200, n_steps=10)
    found = run(tmp_path, task, seeds=(0, 1)).findings()
    assert rules(found) == ["diverged"]
    (finding,) = found
    assert finding.severity == "fault"
    assert finding.evidence.startswith("2 of 2 seeds diverged")
    assert finding.remedy.endswith("--set learning_rate=0.1")


def test_divergence_of_one_backend_alone(tmp_path: Path) -> None:
    """The rate is fine: the other backend shows it."""
    arms = ["tests.helpers.faulty:ReturnsNan", "floor"]
    task = Task(epochs=100, n_steps=5, eval_paths=20)
    finding = one(run(tmp_path, task, arms, (0, 1)).findings(), "diverged")
    assert finding.remedy.startswith("Look for the cause in tests.helpers.faulty:ReturnsNan")
    assert "from the same starts and data, floor on cpu did not diverge" in finding.remedy


def test_worse_than_a_constant(tmp_path: Path) -> None:
    (seed,) = [s for s in range(30) if _is_ill(s)][:1]
    task = Task(**SHORT | {"epochs": 1000})
    found = run(tmp_path, task, ["benchmarks.helpers.ailing:FreezesSome"], [seed]).findings()
    assert rules(found) == ["worse-than-constant"]


@pytest.mark.slow
def test_a_training_that_got_worse(tmp_path: Path) -> None:
    found = run(
        tmp_path, Task(**SHORT | {"epochs": 6000}), ["benchmarks.helpers.ailing:Unlearns"], (0, 1)
    ).findings()
    assert rules(found) == ["got-worse"]
    assert "0.00" in found[0].evidence


def _is_ill(seed: int) -> bool:
    return bool(harness.task.data.initial_params(Task().model, seed)["W_1"][0, 0] < -0.3)


@pytest.mark.parametrize(
    "name", ["FreezesSome", pytest.param("ForgetsSome", marks=pytest.mark.slow)]
)
def test_a_seed_that_got_stuck(tmp_path: Path, name: str) -> None:
    ill, *_ = (s for s in range(30) if _is_ill(s))
    well = [s for s in range(30) if not _is_ill(s)][:3]
    task = Task.preset("strong-lag", **SHORT | {"epochs": 3000})
    found = run(tmp_path, task, [f"benchmarks.helpers.ailing:{name}"], [*well, ill]).findings()
    assert rules(found) == ["stuck-seed", "learned"]
    stuck, learned = found
    assert stuck.evidence.startswith(f"Seed {ill} came to rest")
    assert ("uses the present value only" in stuck.evidence) == (name == "ForgetsSome")
    assert "3 of 4 seeds" in learned.evidence
    assert "harness show r --results " in stuck.remedy


def test_an_error_that_grows(tmp_path: Path) -> None:
    task = Task(lag_weight=0.5, epochs=3000)
    found = run(tmp_path, task, ["benchmarks.helpers.ailing:Drifts"], (0, 1)).findings()
    assert "error-grows" in rules(found)
    assert set(rules(found)) <= {"error-grows", "learned", "not-converged"}


# ---- the run as a whole


def test_backends_that_disagree(tmp_path: Path) -> None:
    task = Task.preset("strong-lag", **SHORT | {"epochs": 2000})
    found = run(tmp_path, task, ["floor", "benchmarks.helpers.ailing:Forgets"], range(3)).findings()
    finding = one(found, "backends-disagree")
    assert finding.headline.startswith(
        "benchmarks.helpers.ailing:Forgets on cpu ends with a larger error"
    )
    assert set(rules(found)) == {"backends-disagree", "memoryless", "learned"}
    assert one(found, "memoryless").subjects == ("benchmarks.helpers.ailing:Forgets on cpu",)
    assert one(found, "learned").subjects == ("floor on cpu",)


def test_backends_that_agree_are_one(tmp_path: Path) -> None:
    """The reference does the same in float64: the same findings, said once."""
    task = Task.preset("strong-lag", n_steps=10, epochs=400, eval_paths=200)
    found = run(tmp_path, task, ["floor", "reference"], (0, 1)).findings()
    assert set(rules(found)) <= {"not-converged", "learned"}
    for finding in found:
        assert sorted(finding.subjects) == ["floor on cpu", "reference on cpu"]
        assert "Likewise" in finding.evidence


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(
        tmp_path_factory.mktemp("r"),
        Task(lag_weight=1, **SHORT | {"epochs": 5000}),
        seeds=(0, 1, 2),
    )


def test_survivors_alone_do_not_count_as_learned(learned: Run) -> None:
    for count, expected in ((1, ["learned"]), (2, [])):
        trials = learned.trials.assign(status=["ok"] * (3 - count) + ["lost"] * count)
        points = learned.manifest.plan.points
        found = findings(trials, learned.curves, learned.steps, points)
        good = [finding for finding in found if finding.severity == "good"]
        assert rules(good) == expected
        assert all("In 2 of 3 seeds" in finding.evidence for finding in good)


def test_a_time_is_given_only_if_times_are_comparable(learned: Run) -> None:
    points, trials = learned.manifest.plan.points, learned.trials

    def seconds(**columns: Any) -> str:
        found = findings(trials.assign(**columns), learned.curves, learned.steps, points)
        _, _, time = one(found, "learned").evidence.partition(", after ")
        return time.partition(" s of training")[0]

    assert float(seconds()) > 0
    assert float(seconds(at_once=2)) == pytest.approx(2 * float(seconds()), rel=0.01)
    assert seconds(contended=True) == ""
    assert seconds(node_kind=["old", "old", "new"]) == ""


def test_a_failed_trial(tmp_path: Path) -> None:
    task = Task(n_steps=5, batch_size=4, epochs=100, curve_points=10, eval_paths=20)
    found = run(tmp_path, task, ["tests.helpers.faulty:RaisesMidTraining"], range(4)).findings()
    assert rules(found) == ["failed"]
    assert "kernel launch failed" in found[0].evidence
    assert found[0].evidence.startswith("4 of tests.helpers.faulty:RaisesMidTraining on cpu")


def test_a_backend_without_a_certificate(tmp_path: Path) -> None:
    bad = Check(
        quantity="gradient",
        dtype="float64",
        element="h0[0]",
        got=-1.0,
        want=1.0,
        error=2.0,
        tolerance=1e-9,
    )
    failed = Certificate(backend="process:./a b", device="cpu", node="n", checks=(bad,))
    broken = Certificate(backend="c:D", device="cpu", node="n", error="ImportError: no c")
    passed = Certificate(
        backend="e:F", device="cpu", node="n", checks=(bad.model_copy(update={"error": 0.0}),)
    )
    other = replace_node(passed, failed_too=True)
    task = Task(n_steps=5, epochs=20, eval_paths=20)
    found = run(tmp_path, task, seeds=(), parity=(failed, broken, passed, other)).findings()
    assert rules(found) == ["backends-disagree", "failed"]
    assert "relative error 2.0e+00" in found[0].evidence
    assert found[0].remedy == "`python -m harness parity --backends 'process:./a b'`"
    assert "no c" in found[1].evidence


def test_a_check_that_failed_is_told_though_the_search_for_its_fault_broke_off(
    tmp_path: Path,
) -> None:
    check = Check(
        quantity="gradient",
        dtype="float64",
        element="h0[0]",
        got=-1.0,
        want=1.0,
        error=2.0,
        tolerance=1e-9,
    )
    certificate = Certificate(
        backend="a:B",
        device="cpu",
        node="n",
        checks=(check,),
        error="killed by SIGKILL\x1b[2J (in the parity check)",
    )
    assert certificate.reason.startswith("gradient in float64: worst at h0[0], got -1")
    assert "; its fault could not be looked for: killed by SIGKILL\\x1b[2J (" in certificate.reason
    task = Task(n_steps=5, epochs=20, eval_paths=20)
    assert rules(run(tmp_path, task, seeds=(), parity=(certificate,)).findings()) == [
        "backends-disagree"
    ]


def replace_node(certificate: Certificate, failed_too: bool) -> Certificate:
    """Return a certificate of another node, on which the same backend failed."""
    return certificate.model_copy(update={"node": "other", "error": "lost" * failed_too})


def test_a_run_without_trials(tmp_path: Path) -> None:
    assert run(tmp_path, Task(), seeds=()).findings() == []


def test_each_point_of_a_sweep_is_diagnosed(tmp_path: Path) -> None:
    task = Task(n_steps=10, epochs=2000)
    sweep = {"lag_weight": (0.5, 1.0), "train_sign": (1, -1)}
    found = run(tmp_path, task, sweep=sweep).findings()
    wrong = one(found, "wrong-sign")
    assert wrong.where == "lag_weight=0.5, train_sign=-1; lag_weight=1.0, train_sign=-1"
    assert "Likewise lag_weight=" in wrong.evidence
    assert one(found, "learned").where == (
        "lag_weight=0.5, train_sign=1; lag_weight=1.0, train_sign=1"
    )
    assert rules(found)[0] == "wrong-sign"
    assert rules(found)[-1] == "learned"


def test_the_same_finding_at_many_points_is_said_once(tmp_path: Path) -> None:
    sweep = {"learning_rate": tuple(0.5 + i / 10 for i in range(6))}
    task = Task(optimiser="sgd", epochs=100, n_steps=10, curve_points=10)
    found = run(tmp_path, task, sweep=sweep).findings()
    assert rules(found) == ["diverged"]
    assert found[0].where == "all 6 points of the sweep"
    assert len(found[0].evidence) < 600


# ---- what is healthy


HEALTHY: list[dict[str, Any]] = [
    {},
    {"lag_weight": 1.0},
    {"lag_weight": 0.0},
    {"lag_weight": 0.5},
    {"lag_weight": -0.3},
    {"lag_weight": 2.0},
    {"lag_weight": 0.2, "hidden": 16},
    {"lag_weight": 0.5, "hidden": 6},
    {"hidden": 24},
    {"rho": 0.5},
    {"rho": -0.5},
    {"rho": 0.0},
    {"rho": 0.8, "lag_weight": 0.5},
    {"rho": -0.8, "lag_weight": 0.5},
    {"rho": 0.9, "lag_weight": 1.0},
    {"n_steps": 10, "lag_weight": 0.5},
    {"n_steps": 100, "lag_weight": 0.3},
    {"batch_size": 64},
    {"learning_rate": 2e-3},
    {"eval_paths": 300, "lag_weight": 0.5},
    {"lag_weight": 0.0, "rho": 0.7},
    {"lag_weight": 0.0, "hidden": 20},
]


def test_healthy_runs(learned: Run, tmp_path: Path) -> None:
    """Without a lag: `test_a_sign_without_a_lag_is_no_fault`."""
    for shown in (learned, run(tmp_path, Task(**SHORT), seeds=(3,))):
        assert rules(shown.findings()) == ["learned"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_healthy_runs_have_learned_and_nothing_else(tmp_path: Path) -> None:
    for number, fields in enumerate(HEALTHY):
        task = Task(**SHORT | {"epochs": 20_000} | fields)
        found = run(tmp_path / str(number), task, seeds=range(10, 14)).findings()
        assert rules(found) == ["learned"], (fields, found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_as_it_is_measured(tmp_path: Path) -> None:
    """With parity and worker processes. Parity does not find a backend that goes wrong late."""
    measured = harness.run(
        Task.preset("strong-lag", **SHORT | {"epochs": 4000}),
        backends=["floor", "benchmarks.helpers.ailing:Forgets"],
        seeds=3,
        dispatch="inline",
        results=tmp_path,
    )
    assert all(certificate.passed for certificate in measured.manifest.parity)
    found = measured.findings()
    assert set(rules(found)) == {"backends-disagree", "memoryless", "learned"}


def _trainings(run: Run) -> list[Observed]:
    points = run.manifest.plan.points
    return [found for *_, found in by_arm(run.trials, run.curves, run.steps, points)]


def _healthy(step_mse_ST: Array) -> Observed:
    epochs_K = np.arange(1.0, 21) * 500
    rng = np.random.default_rng(0)
    mse_SK = 2e-3 * (epochs_K / 1e4) ** -1.5 * np.exp(0.1 * rng.standard_normal((4, 20)))
    curve = Curve(epochs_K, None, mse_SK, mse_SK)
    return trainings(Task(epochs=10_000), (0, 1, 2, 3), curve, step_mse_ST)


@given(seed=st.integers(0, 2**32), spread=st.floats(0, 1.5))
def test_luck_at_single_steps_is_no_growth(seed: int, spread: float) -> None:
    """Steps that differ by a factor of five and more, in no order, are what sampling does."""
    rng = np.random.default_rng(seed)
    steps_ST = 2e-3 * np.exp(spread * rng.standard_normal((4, 100)))
    observed = observe(_healthy(steps_ST))
    assert "error-grows" not in {rule.id for rule, _ in observed}
