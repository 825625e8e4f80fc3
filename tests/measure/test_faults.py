"""Parity names the fault of a backend, alone, and says so if it knows none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.faults.estimate import rounded
from backends.reference import ReferenceBackend, State
from benchmarks.faults import FLOAT64_ONLY, OF_A_CELL, ONE_LAYER, PLANTED
from benchmarks.helpers import beginner
from harness import Model
from harness.backend import registry
from harness.backend.evidence import Sample, Suspect
from harness.backend.protocol import Array, Params
from harness.measure import faults
from harness.measure.faults import Found, name_fault
from harness.measure.parity import TOLERANCE

CELLS = [("rnn", 1), ("gru", 1), ("lstm", 1), ("rnn", 2), ("gru", 2)]


def said(make: Callable[[Model], Any], model: Model) -> str:
    return name_fault(make, Sample.draw(model), TOLERANCE[model.dtype])


def check(name: str, model: Model, words: str) -> None:
    if name == "ExactGradient":
        model = replace(model, gradient="stateful-broadcast")
    sentence = said(getattr(beginner, name), model)
    assert words in sentence
    assert ", or " not in sentence


@pytest.mark.parametrize(
    "name",
    [
        *(
            "ForwardOrder",
            "FixedStart",
            "Transposed",
            "SumLoss",
            "PlusInLoss",
            "OneStepOff",
            "TwoBiases",
        ),
        *("KerasEpsilon", "NewOptimiser", "Bfloat16", "Dropout", "ClipsNorm", "LossAfter"),
    ],
)
def test_a_fault_is_named(name: str) -> None:
    check(name, Model(hidden=3, dtype="float64"), PLANTED[name])


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "layers"), CELLS)
@pytest.mark.parametrize("name", PLANTED)
def test_each_fault_is_named_with_each_cell(name: str, cell: Any, layers: int) -> None:
    check(name, Model(hidden=5, dtype="float64", cell=cell, layers=layers), PLANTED[name])


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["rnn", "gru"])
@pytest.mark.parametrize("name", [name for name in PLANTED if name not in FLOAT64_ONLY])
def test_each_fault_is_named_in_float32(name: str, cell: Any) -> None:
    check(name, Model(hidden=4, dtype="float32", cell=cell), PLANTED[name])


@pytest.mark.parametrize(("name", "cell"), OF_A_CELL)
def test_faults_of_a_cell(name: str, cell: Any) -> None:
    check(name, Model(hidden=4, dtype="float64", cell=cell), OF_A_CELL[name, cell])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ONE_LAYER, "Single", "RoundsData"])
def test_faults_of_one_layer_or_one_precision(name: str) -> None:
    words = (ONE_LAYER | FLOAT64_ONLY)[name]
    check(name, Model(hidden=4, dtype="float64"), words)


class TwoAtOnce(beginner.ForwardOrder):
    """The gradient is that of a broadcast, and the targets are halved."""

    def train(self, state: Any, x_ETB: Array, y_ETB: Array) -> Any:
        return super().train(state, x_ETB, y_ETB / 2)


class Noise(ReferenceBackend):
    """The gradient is off by a per cent, always by the same."""

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        loss, gradient = super().loss_and_gradient(params, x_TB, y_TB)
        rng = np.random.default_rng(0)
        return loss, {n: g * (1 + 0.01 * rng.standard_normal(g.shape)) for n, g in gradient.items()}


class Shrinks(ReferenceBackend):
    """The learning rate falls from step to step."""

    def _update(self, state: State, gradient: Params) -> None:
        before = dict(state.params)
        super()._update(state, gradient)
        for name, value in before.items():
            state.params[name] = value + (state.params[name] - value) * 0.9**state.step


class OutputsOff(ReferenceBackend):
    def predict(self, state: State, x_TN: Array) -> Array:
        return super().predict(state, x_TN) + 0.1


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        (TwoAtOnce, "in the loss or the gradient"),
        (Noise, "in the loss or the gradient"),
        (Shrinks, "no known fault explains it"),
        (OutputsOff, "in the outputs"),
    ],
)
def test_an_unknown_fault_is_called_unknown(kind: Any, where: str) -> None:
    sentence = said(lambda model: kind(model, "cpu"), Model(hidden=3, dtype="float64"))
    assert "no known fault explains it" in sentence
    assert where in sentence


def test_what_is_not_finite_is_called_so() -> None:
    class Nan(beginner.Right):
        def loss(self, output_TB: Any, y_TB: Any) -> Any:
            return super().loss(output_TB, y_TB) * float("nan")

    assert said(Nan, Model(hidden=3, dtype="float64")) == "it computes numbers that are not finite"


def test_losses_that_are_not_finite_beside_a_right_gradient_are_called_so() -> None:
    class Nan(ReferenceBackend):
        def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
            state, loss_E = super().train(state, x_ETB, y_ETB)
            return state, loss_E * np.nan

    sentence = said(lambda model: Nan(model, "cpu"), Model(hidden=3, dtype="float64"))
    assert sentence == "the losses that it returns are not finite; what it trains is"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_estimate_that_is_not_finite_is_a_text(value: float) -> None:
    assert rounded(value, "float64") == str(value)


def test_a_cut_is_not_named_beside_another_fault_that_agrees() -> None:
    found = [
        Found(Suspect(name, name, faults.reference), 0.0)
        for name in ("cut", "truncated", "multiple", "exact gradient")
    ]
    assert faults.best(found) == found[3:]
    assert faults.best(found[:3]) == found[:2]


def test_of_many_faults_that_agree_the_first_ones_are_named() -> None:
    found = [Found(Suspect("cut", f"fault {n}", faults.reference), 0.0) for n in range(6)]
    assert faults.sentence(found).startswith("fault 0, or fault 1, or fault 2, or 3 more (")


class Times(ReferenceBackend):
    """The outputs are off, too, so that no known fault explains it."""

    by, also = 1.0, 0.0

    def predict(self, state: State, x_TN: Array) -> Array:
        return super().predict(state, x_TN) + self.also

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        loss, gradient = super().loss_and_gradient(params, x_TB, y_TB)
        return loss, gradient | {"W_hh": self.by * gradient["W_hh"]}


@pytest.mark.parametrize(
    ("by", "also", "words"),
    [
        (np.nan, 0.0, "its gradient of `W_hh` is not finite"),
        (np.nan, 0.1, "its gradient of `W_hh` is not finite"),
        (1.0002, 0.0, "its gradient of `W_hh` is 1.0002 times the right one"),
        (-1.0009, 0.0, "its gradient of `W_hh` is -1.00"),
        (-1.0, 0.0, "its gradient of `W_hh` has the wrong sign"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_factor_is_told_as_it_is(by: float, also: float, words: str, dtype: Any) -> None:
    kind = type("Kind", (Times,), {"by": by, "also": also})
    assert words in said(lambda model: kind(model, "cpu"), Model(hidden=3, dtype=dtype))


def test_a_right_backend_is_not_accused() -> None:
    assert "agrees on a small sample" in said(beginner.Right, Model(hidden=3, dtype="float32"))


@pytest.mark.parametrize("name", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_backend_of_the_project_is_not_accused(name: str) -> None:
    """JAX compiles for seconds."""
    sentence = said(lambda m: registry.load(name)(m, "cpu"), Model(hidden=3, dtype="float32"))
    assert "agrees on a small sample" in sentence
