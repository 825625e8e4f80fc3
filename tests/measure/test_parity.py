"""A wrong backend is caught, and what is wrong with it is named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.reference import ReferenceBackend
from harness import BackendFactory, ContractViolation, Task
from harness.backend.protocol import Array
from harness.measure import parity
from harness.task import data
from harness.trial.events import Check
from harness.trial.jobs import ParityJob
from tests.helpers import faulty, unfaithful
from tests.helpers.commands import ROOT


def failed(factory: BackendFactory) -> list[Check]:
    return [check for check in parity.compare(factory, "cpu", Task()) if not check.passed]


@pytest.mark.parametrize(
    ("factory", "quantity", "parameter"),
    [
        (faulty.WrongSign, "gradient", "h0["),
        (faulty.TransposedMatrix, "outputs", "output["),
        (faulty.MissingBiasGradient, "gradient", "b_1["),
        (faulty.WrongEpsilon, "losses", ""),
        (faulty.ForgetsMoments, "losses", ""),
        (faulty.IgnoresRate, "losses", ""),
        (faulty.HalfPrecision, "outputs", "output["),
    ],
)
def test_a_wrong_backend_is_caught(factory: BackendFactory, quantity: str, parameter: str) -> None:
    first = failed(factory)[0]
    assert first.quantity == quantity
    assert first.element.startswith(parameter)
    assert first.element in str(first)


def test_an_optimiser_fault_does_not_show_in_outputs_or_gradients() -> None:
    assert {check.quantity for check in failed(faulty.WrongEpsilon)} <= {"losses", "trajectory"}


def test_lost_precision_shows_in_float32_too() -> None:
    assert "float32" in {check.dtype for check in failed(faulty.HalfPrecision)}


@pytest.mark.parametrize(("most", "task"), [(20.0, Task()), (500.0, Task(rho=0.99))])
def test_a_backend_that_clips_at_values_that_the_task_reaches_is_caught(
    most: float, task: Task
) -> None:
    class ClipsOutputs(unfaithful.Faithful):
        def predict(self, state: Any, x_TN: Array) -> Array:
            return np.minimum(super().predict(state, x_TN), most)

    class ClipsInTraining(unfaithful.Clips):
        pass

    ClipsInTraining.most = most
    for factory, quantity in ((ClipsOutputs, "outputs"), (ClipsInTraining, "gradient")):
        checks = parity.compare(factory, "cpu", task)
        assert {check.quantity for check in checks if not check.passed} == {quantity}


def test_the_evaluation_has_values_as_large_as_parity() -> None:
    for task in (Task(), Task(rho=0.9, lag_weight=1), Task(n_steps=2, eval_paths=10)):
        x, y = data.reach(task)
        held_out = [data.evaluation_paths(task, seed) for seed in range(20)]
        largest = [(np.abs(x_TN).max(), y_TN.max()) for x_TN, y_TN in held_out]
        assert 0.6 * x < np.mean([a for a, _ in largest]) < x
        assert sum(a > x or b > y for a, b in largest) <= 1


def test_values_that_are_not_finite_fail() -> None:
    class Nan(ReferenceBackend):
        def predict(self, state, x_TN):  # type: ignore[no-untyped-def]
            return super().predict(state, x_TN) * float("nan")

    check = failed(Nan)[0]
    assert check.error is None
    assert "not finite" in str(check)


def test_a_wrong_shape_is_a_sentence() -> None:
    with pytest.raises(ContractViolation, match=r"`predict` outputs: .*expected .* \(33, 32\)"):
        failed(faulty.WrongOutputShape)


@pytest.mark.parametrize(
    ("program", "more"),
    [
        ("flock -n {0}/lock {1}", "; its process answered `params` with h0=10 "),
        (
            "sh -c 'mkdir {0}/once && exec {1}'",
            "; what else is wrong was not found: Unavailable: .* ended with exit code 1 before ",
        ),
    ],
    ids=["a program that holds a lock", "a program that starts only once"],
)
def test_the_first_error_is_kept(program: str, more: str, tmp_path: Path) -> None:
    odd = f"{sys.executable} {ROOT}/tests/helpers/odd_worker.py transposed"
    job = ParityJob(
        backend=f"process:{program.format(tmp_path, odd)}",
        task=Task(),
        device="cpu",
        threads=1,
        exclusive=True,
    )
    first = "^its process answered `predict` with outputs=32,33, not with outputs=33,32"
    with pytest.raises(ContractViolation, match=first + more):
        parity.run(job, lambda kind, value: None)


@pytest.mark.parametrize(("device", "peak_mb"), [("gpu", 12.5), ("cpu", None)])
def test_it_tells_how_much_memory_of_a_gpu_it_took(device: str, peak_mb: float | None) -> None:
    job = ParityJob.model_validate(
        {
            "backend": "tests.helpers.faulty:ReportsPeak",
            "task": Task(),
            "device": device,
            "threads": 1,
            "exclusive": True,
        }
    )
    told: dict[str, object] = {}
    parity.run(job, lambda kind, value: told.update(value) if kind == "fields" else None)
    assert told.get("peak_gpu_mb") == peak_mb
