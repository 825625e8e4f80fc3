"""A wrong backend is caught, and what is wrong with it is named."""

from __future__ import annotations

import pytest

from backends.reference import ReferenceBackend
from harness import BackendFactory, ContractViolation, Task
from harness.measure import parity
from harness.trial.events import Check
from tests.helpers import faulty


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
