"""Backends with a fault each; the faults of the first kind only show after the parity check.

Named on the command line as `tests.helpers.faulty:Name`.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

from backends.reference import ReferenceBackend, State
from benchmarks.helpers.slow import LATE
from benchmarks.helpers.slow import Slow as Slow
from harness.backend.model import Model
from harness.backend.protocol import Array, Params


class RaisesInInit(ReferenceBackend):
    def init(self, params: Params) -> State:
        raise RuntimeError("no memory for parameters")


class Dies(ReferenceBackend):
    def __init__(self, model: Model, device: str) -> None:
        os.write(2, b"a warning\n\n" + b"long " * 200 + b"\n  the reason \xff\x1b[31m is here\n")
        os._exit(1)


class _Late(ReferenceBackend):
    """Goes wrong in training, but only after `LATE` steps."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        state, losses = super().train(state, x_ETB, y_ETB)
        return self.spoil(state, losses) if state.step > LATE else (state, losses)

    def spoil(self, state: State, losses: Array) -> Any:
        raise NotImplementedError


class RaisesMidTraining(_Late):
    def spoil(self, state: State, losses: Array) -> Any:
        raise RuntimeError("kernel launch failed")


class WrongLossShape(_Late):
    def spoil(self, state: State, losses: Array) -> Any:
        return state, losses[:-1]


class ReturnsNone(_Late):
    def spoil(self, state: State, losses: Array) -> Any:
        return None


class ReturnsNan(_Late):
    def spoil(self, state: State, losses: Array) -> Any:
        return state, losses * np.nan


class Exits(_Late):
    def spoil(self, state: State, losses: Array) -> Any:
        os._exit(0)


class KillsItself(_Late):
    def spoil(self, state: State, losses: Array) -> Any:
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(_Late):
    def spoil(self, state: State, losses: Array) -> Any:
        time.sleep(600)


class WrongOutputShape(ReferenceBackend):
    def predict(self, state: State, x_TN: Array) -> Array:
        return super().predict(state, x_TN)[1:]


class WrongSign(ReferenceBackend):
    """The gradient of one parameter points the wrong way."""

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        loss, gradient = super().loss_and_gradient(params, x_TB, y_TB)
        return loss, gradient | {"h0": -gradient["h0"]}


class TransposedMatrix(ReferenceBackend):
    """The recurrent matrix is used transposed, forwards and backwards."""

    def init(self, params: Params) -> State:
        return super().init({**params, "W_hh": params["W_hh"].T})

    def params(self, state: State) -> Params:
        params = super().params(state)
        return {**params, "W_hh": params["W_hh"].T}


class MissingBiasGradient(ReferenceBackend):
    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        loss, gradient = super().loss_and_gradient(params, x_TB, y_TB)
        return loss, gradient | {"b_1": np.zeros_like(gradient["b_1"])}


class WrongEpsilon(ReferenceBackend):
    """Adam with eps 1e-7, the default of another framework."""

    def _update(self, state: State, gradient: Params) -> None:
        before = {name: value.copy() for name, value in state.params.items()}
        super()._update(state, gradient)
        if self.model.optimiser == "sgd":
            return
        for name in gradient:
            root = np.sqrt(state.square[name] / (1 - 0.999**state.step))
            step = (before[name] - state.params[name]) * (root + 1e-8) / (root + 1e-7)
            state.params[name] = before[name] - step


class ForgetsMoments(ReferenceBackend):
    """Starts Adam anew at every call of `train`."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        return super().train(self.init(state.params), x_ETB, y_ETB)


class IgnoresRate(ReferenceBackend):
    def __init__(self, model: Model, device: str) -> None:
        fixed = Model(model.hidden, model.optimiser, 1e-3, model.dtype)
        super().__init__(model if model.optimiser == "sgd" else fixed, device)


class HalfPrecision(ReferenceBackend):
    """Rounds its weights to the ten bits of mantissa of TF32 before every product."""

    def _forward(self, params: Params, x_TB: Array) -> Any:
        rounded: dict[str, Array] = {
            name: value.astype(np.float16).astype(np.float64) for name, value in params.items()
        }
        return super()._forward(rounded, x_TB)


class AnyDevice(ReferenceBackend):
    """Says that it runs on whatever device it is told to."""

    def __init__(self, model: Model, device: str) -> None:
        super().__init__(model, "cpu")


class ReportsPeak(AnyDevice):
    """Says how much memory of a GPU it took."""

    def peak_gpu_mb(self) -> float:
        return 12.5


class SlowAnyDevice(AnyDevice):
    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        if state.step > LATE:
            time.sleep(0.2)
        return super().train(state, x_ETB, y_ETB)
