"""What a backend computes on a small sample, from which its fault can be told.

The same calls are made of a backend and of each variation of the reference that may explain it.
They come in stages: if an earlier one differs from the reference, a later one says little more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from harness.backend import contract
from harness.backend.model import Model
from harness.backend.protocol import Array, Backend, Params

Evidence: TypeAlias = dict[str, Params]
"""By quantity: its arrays by name."""
Make: TypeAlias = Callable[[Model], Backend[Any]]
Stage: TypeAlias = Literal["outputs", "gradient", "training"]

SGD_RATE = 1.0
# Not the default, so that a backend that ignores the rate is found out.
ADAM_RATE = 3e-3
EPOCHS = 8
# Unlike each other, so that a sum over one of them is not one over the other.
_STEPS, _PATHS, _MOST_HIDDEN = 32, 5, 16
# An optimiser does not see the time steps, so few are enough.
_STEPS_IN_TRAINING = 8


class Suspect(NamedTuple):
    """The reference with a fault."""

    fault: str
    """Its name in tables, for example `forward order`."""
    sentence: str
    """What the backend does, for people: "its gradient is ...", without a full stop."""
    make: Make
    exact: bool = True
    """Whether it must agree to the tolerance; rounding can only be imitated."""


@dataclass(frozen=True)
class Sample:
    """Parameters and data on which a backend is observed."""

    model: Model
    params: Params
    x_ETB: Array
    y_ETB: Array

    @classmethod
    def draw(cls, model: Model, seed: int = 0, steps: int = _STEPS, paths: int = _PATHS) -> Sample:
        """Draw one like that of the parity check, but small."""
        model = replace(model, hidden=min(model.hidden, _MOST_HIDDEN))
        rng = np.random.default_rng((20230802, seed))

        def draw(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(model.dtype)

        params = {
            name: draw(*shape) / np.sqrt(shape[-1]).astype(model.dtype)
            for name, shape in model.shapes.items()
        }
        x_ETB = draw(EPOCHS, steps + 1, paths)
        # Targets away from zero give every parameter a gradient well above its own rounding.
        return cls(model, params, x_ETB, draw(EPOCHS, steps, paths) + 10)

    def short(self) -> Sample:
        """Return the sample for `training`, with fewer time steps."""
        x_ETB, y_ETB = self.x_ETB[:, : _STEPS_IN_TRAINING + 1], self.y_ETB[:, :_STEPS_IN_TRAINING]
        return replace(self, x_ETB=x_ETB, y_ETB=y_ETB)

    def predict(self, backend: Backend[Any], state: Any) -> Params:
        """Return the outputs for the first inputs."""
        x_TB = self.x_ETB[0]
        return {"output": contract.outputs(backend.predict(state, x_TB), x_TB.shape)}

    def train(self, backend: Backend[Any], state: Any, part: slice) -> tuple[Any, Array, Params]:
        """Train on a part of the epochs; return state, losses and how far each parameter is."""
        result = backend.train(state, self.x_ETB[part], self.y_ETB[part])
        state, loss_E = contract.train_result(result, (part.stop - part.start,))
        return state, loss_E, self.moved(backend, state)

    def moved(self, backend: Backend[Any], state: Any) -> Params:
        """Return start minus now, by parameter."""
        end = contract.params(
            {name: value[None] for name, value in backend.params(state).items()}, self.model, 1
        )
        return {
            name: start.astype(np.float64) - end[name][0] for name, start in self.params.items()
        }


def outputs(make: Make, sample: Sample) -> Evidence:
    """Predict twice from the same state."""
    backend = make(replace(sample.model, optimiser="sgd", learning_rate=SGD_RATE))
    state = backend.init(sample.params)
    return {
        "outputs": sample.predict(backend, state),
        "outputs again": sample.predict(backend, state),
    }


def gradient(make: Make, sample: Sample) -> Evidence:
    """Take one step of gradient descent at rate 1, and once more from the same start."""
    backend = make(replace(sample.model, optimiser="sgd", learning_rate=SGD_RATE))
    evidence: Evidence = {}
    for again in ("", " again"):
        state = backend.init(sample.params)
        _, loss_E, moved = sample.train(backend, state, slice(0, 1))
        evidence |= {f"gradient{again}": moved, f"loss{again}": {"loss": loss_E}}
    return evidence


def training(make: Make, sample: Sample) -> Evidence:
    """Take Adam steps, each in a call of its own, and from the same start in two calls."""
    evidence: Evidence = {}
    sample = sample.short()
    for quantity, epochs in (("steps", 1), ("calls", EPOCHS // 2)):
        backend = make(replace(sample.model, optimiser="adam", learning_rate=ADAM_RATE))
        state = backend.init(sample.params)
        losses, places = [], []
        for first in range(0, EPOCHS, epochs):
            state, loss_E, moved = sample.train(backend, state, slice(first, first + epochs))
            losses.append(loss_E)
            places.append(moved)
        evidence[f"losses of {quantity}"] = {"loss": np.concatenate(losses)}
        evidence[quantity] = {name: np.stack([p[name] for p in places]) for name in sample.params}
    return evidence


STAGES: Mapping[Stage, Callable[[Make, Sample], Evidence]] = {
    "outputs": outputs,
    "gradient": gradient,
    "training": training,
}


def difference(got: Evidence, want: Evidence) -> float:
    """Return the largest |got - want| / max(|want|, rms of its array); infinite if not finite."""
    return max(
        float(np.max(relative_error(got[quantity][name], value)))
        for quantity, arrays in want.items()
        for name, value in arrays.items()
    )


def relative_error(got: Array, want: Array) -> Array:
    """Return |got - want| / max(|want|, rms of want) by element; infinite if not finite."""
    with np.errstate(all="ignore"):
        scale = np.maximum(np.abs(want), np.sqrt(np.mean(np.square(want, dtype=np.float64))))
        off = np.abs(got.astype(np.float64) - want)
        error = np.divide(off, scale, out=np.zeros_like(off), where=off != 0)
    return np.where(np.isfinite(error), error, np.inf)
