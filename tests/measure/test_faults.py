"""Parity names the fault of a backend, alone, and says so if it knows none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.jax_backend import JaxBackend
from backends.reference import ReferenceBackend, State
from harness import Model
from harness.backend.protocol import Array, Params
from harness.measure.faults import name_fault
from tests.helpers import beginner

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
CELLS = [("rnn", 1), ("gru", 1), ("lstm", 1), ("rnn", 2), ("gru", 2)]

# Each backend with words of the one sentence that must be said of it.
PLANTED = {
    "ForwardOrder": "its gradient is that of backward steps in forward order of time",
    "ExactGradient": "its gradient is the exact one; the task asks for",
    "Detached": "the state is detached at every step",
    "CutEverySeven": "its gradient is cut after every 7 steps",
    "FollowsThree": "each loss is followed back through 3 steps only",
    "FixedStart": "not trained: the gradient is zero",
    "FixedBias": "`b_1` is not trained",
    "FixedMatrix": "not trained",
    "NeverTrains": "it does not train: no parameter moves",
    "Transposed": "it uses `W_hh`",
    "IgnoresStart": "it ignores `h0`",
    "HeadActivation": "it applies relu between the two linear layers",
    "SwappedAxes": "it takes the axes of its data for [path, time]",
    "SumLoss": "its loss is a sum over time steps and paths in place of a mean",
    "SumOverTime": "its loss is a sum over the time steps in place of a mean",
    "MeanOverMore": "its loss is divided by T + 1 time steps in place of T",
    "WithoutLast": "its loss is without the last time step (",
    "WrongSign": "its loss has the wrong sign",
    "OneStepOff": "it scores output t - 1 against target t (",
    "AllPairs": "it scores the output of each path against the targets of all paths",
    "RootLoss": "its loss is the root of the mean squared error",
    "AbsoluteLoss": "its loss is the mean absolute error",
    "TwoBiases": "it has two biases in the place of `b_h` and trains both",
    "NoCorrection": "its Adam is without bias correction",
    "EpsilonInside": "its Adam has an eps of 1e-08 inside the square root",
    "KerasEpsilon": "its Adam has an eps of 1e-07 in place of 1e-08",
    "OtherBetas": "its Adam has a beta2 of 0.99 in place of 0.999",
    "OtherBeta1": "its Adam has a beta1 of 0.95 in place of 0.9",
    "AdamW": "it decays the parameters as AdamW does, by 0.01 times the rate",
    "AdamPenalty": "it adds a weight decay of 0.05 to the gradient in Adam",
    "AmsGrad": "its optimiser is AMSGrad in place of Adam",
    "OtherRate": "its learning rate is 0.001 where it is told 0.003",
    "PlainDescent": "it trains with plain gradient descent, whatever `optimiser` says",
    "AlwaysAdam": "it trains with adam, whatever `optimiser` says",
    "ClipsNorm": "it clips the gradient at a norm of 0.5",
    "ClipsValue": "it clips each element of the gradient at 0.25",
    "Decays": "it has weight decay of 0.001 on all parameters, in its gradient",
    "NewOptimiser": "it begins with a new optimiser at each call of `train`",
    "NoZeroGrad": "it adds up the gradients of all steps",
    "Bfloat16": "its products are computed in bfloat16",
    "Half": "its products are computed in float16",
    "Dropout": "something random is in it, such as dropout",
    "DropoutInTraining": "something random is in it, such as dropout",
    "FirstBatch": "it trains all epochs of a call on its first batch",
    "BatchBefore": "it trains each epoch on the batch of the epoch before",
    "LossAfter": "it takes the loss after the step in place of before it",
}
ONE_LAYER = {
    "KeepsState": "it carries the hidden state from one sequence to the next even past `init`",
    "KeepsStateInTraining": "it carries the hidden state from one sequence to the next in training",
}
FLOAT64_ONLY = {
    "Single": "its products are computed in float32",
    "RoundsData": "it rounds inputs to float32",
    "EpsilonInside": "",
    "KerasEpsilon": "",
}
OF_A_CELL = {
    ("GateOrder", "gru"): "it takes the gates for z, r, n, as in Keras",
    ("GateOrder", "lstm"): "it takes the gates for i, g, f, o, as in Haiku",
    ("UpdateGate", "gru"): "its update gate is the other way round",
}


def said(make: Callable[[Model], Any], model: Model) -> str:
    return name_fault(make, model, TOLERANCE[model.dtype])


def check(name: str, model: Model, words: str) -> None:
    if name == "ExactGradient":
        model = replace(model, gradient="stateful-broadcast")
    sentence = said(getattr(beginner, name), model)
    assert words in sentence
    assert ", or " not in sentence


@pytest.mark.parametrize(
    "name",
    [
        *("ForwardOrder", "FixedStart", "Transposed", "SumLoss", "OneStepOff", "TwoBiases"),
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


@pytest.mark.parametrize("make", [beginner.Right, lambda m: JaxBackend(m, "cpu")])
def test_a_right_backend_is_not_accused(make: Any) -> None:
    assert "agrees on a small sample" in said(make, Model(hidden=3, dtype="float32"))
