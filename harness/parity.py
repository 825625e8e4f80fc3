"""Parity: a backend is timed only after it matched the float64 reference.

Three things are compared, each element by element, in float64 and in float32, on random data and
random parameters (none of them zero, so that nothing hides behind a zero bias or initial state):
- outputs;
- gradients: one step of plain gradient descent at rate 1 moves every parameter by its gradient;
- a trajectory: the losses of 20 Adam steps and how far each parameter moved, in two calls of
  `train`, so that an optimiser which forgets its state between calls is found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np

from harness import contract, registry
from harness.jobs import Check
from harness.model import Model
from harness.protocol import Array, Backend, BackendFactory, Params
from harness.task import Task

TOLERANCE: Mapping[Literal["float32", "float64"], float] = {"float64": 1e-9, "float32": 1e-4}
TRAJECTORY_STEPS = 20
# Not the default: a backend that ignores the rate it was told must not pass.
_TRAJECTORY_RATE = 3e-3
_STEPS, _PATHS, _OFFSET = 32, 32, 10
# Adam divides by the size of the gradient, so among very many parameters one whose gradient happens
# to vanish moves by rounding alone. The optimiser works element by element: a small network shows
# it whole. Outputs and gradients are compared at the size of the task.
_TRAJECTORY_HIDDEN = 16


def compare(factory: BackendFactory, device: str, task: Task) -> Iterator[Check]:
    """Yield the checks of a backend on the network of `task`, in either precision.

    Whatever the backend raises comes through.
    """
    reference = registry.load("reference")
    for dtype, tolerance in TOLERANCE.items():
        for observe, hidden in (
            (_outputs_and_gradient, task.hidden),
            (_trajectory, _TRAJECTORY_HIDDEN),
        ):
            case = _Case(replace(task.model, dtype=dtype, hidden=hidden))
            got, want = observe(case, factory, device), observe(case, reference, "cpu")
            for quantity in want:
                yield _worst(quantity, got[quantity], want[quantity], dtype, tolerance)


_Quantity: TypeAlias = Literal["outputs", "gradient", "losses", "trajectory"]
_Observed: TypeAlias = dict[_Quantity, Params]


class _Case:
    """Random parameters and data, the same for every backend."""

    def __init__(self, model: Model) -> None:
        rng = np.random.default_rng(20230801)

        def draw(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(model.dtype)

        self.model = model
        self.params = {
            name: draw(*shape) / np.sqrt(shape[-1]).astype(model.dtype)
            for name, shape in model.shapes.items()
        }
        self.x_ETB = draw(TRAJECTORY_STEPS, _STEPS + 1, _PATHS)
        # Targets away from zero give every parameter a gradient well above its own rounding.
        self.y_ETB = draw(TRAJECTORY_STEPS, _STEPS, _PATHS) + _OFFSET

    def moved(self, backend: Backend[Any], epochs: int, calls: int) -> tuple[Params, Array]:
        """Train for calls x epochs steps; return how far each parameter fell, and the losses."""
        state = backend.init(self.params)
        losses = []
        for first in range(0, epochs * calls, epochs):
            part = slice(first, first + epochs)
            result = backend.train(state, self.x_ETB[part], self.y_ETB[part])
            state, losses_E = contract.train_result(result, epochs)
            losses.append(losses_E)
        end = contract.params(backend.params(state), self.model)
        fell = {name: start.astype(np.float64) - end[name] for name, start in self.params.items()}
        return fell, np.concatenate(losses)


def _outputs_and_gradient(case: _Case, factory: BackendFactory, device: str) -> _Observed:
    backend = factory(replace(case.model, optimiser="sgd", learning_rate=1.0), device)
    x_TB = case.x_ETB[0]
    output_TB = contract.outputs(backend.predict(backend.init(case.params), x_TB), x_TB.shape)
    gradient, _ = case.moved(backend, epochs=1, calls=1)
    return {"outputs": {"output": output_TB}, "gradient": gradient}


def _trajectory(case: _Case, factory: BackendFactory, device: str) -> _Observed:
    backend = factory(replace(case.model, optimiser="adam", learning_rate=_TRAJECTORY_RATE), device)
    moved, losses = case.moved(backend, epochs=TRAJECTORY_STEPS // 2, calls=2)
    return {"losses": {"loss": losses}, "trajectory": moved}


def _worst(
    quantity: _Quantity,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    dtype: Literal["float32", "float64"],
    tolerance: float,
) -> Check:
    name, index, error = max(
        ((name, *_largest(_relative_error(got[name], want[name]))) for name in want),
        key=lambda found: found[2],
    )
    value = float(got[name][index])
    return Check(
        quantity=quantity,
        dtype=dtype,
        element=f"{name}[{', '.join(map(str, index))}]",
        got=value if np.isfinite(value) else None,
        want=float(want[name][index]),
        error=error if np.isfinite(error) else None,
        tolerance=tolerance,
    )


def _relative_error(got: Array, want: Array) -> Array:
    """Elementwise |got - want| / max(|want|, rms(want)); infinite where `got` is not finite."""
    scale = np.maximum(np.abs(want), np.sqrt(np.mean(want**2)))
    difference = np.abs(got.astype(np.float64) - want)
    error = np.divide(difference, scale, out=np.zeros_like(difference), where=difference != 0)
    return np.where(np.isfinite(error), error, np.inf)


def _largest(error: Array) -> tuple[tuple[int, ...], float]:
    index = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    return index, float(error[index])
