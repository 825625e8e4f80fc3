"""Gives a backend that trains one seed the methods of `TrainsManySeeds`, and the other way round.

So the harness calls every backend in the same way: all arrays have an axis for the seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.backend import contract
from harness.backend.protocol import Array, Backend, Params, TrainsManySeeds
from harness.errors import ContractViolation


def many_seeds(backend: Backend[Any]) -> TrainsManySeeds[Any]:
    """Return the backend as one that trains many seeds; raise `ContractViolation` if it is not."""
    if not isinstance(backend, TrainsManySeeds):
        raise ContractViolation(f"{type(backend).__name__} cannot train many seeds at once.")
    return backend


class Alone:
    """A backend that trains one seed, as one that trains many."""

    def __init__(self, backend: Backend[Any]) -> None:
        self.backend = backend

    def init_many(self, params: Params) -> Any:
        """Start the one training."""
        return self.backend.init({name: value[0] for name, value in params.items()})

    def train_many(self, state: Any, x_ERTB: Array, y_ERTB: Array) -> tuple[Any, Array]:
        """Train it."""
        result = self.backend.train(state, x_ERTB[:, 0], y_ERTB[:, 0])
        state, losses_E = contract.train_result(result, x_ERTB.shape[:1])
        return state, losses_E[:, None]

    def predict_many(self, state: Any, x_RTN: Array) -> Array:
        """Predict with it."""
        return contract.outputs(self.backend.predict(state, x_RTN[0]), x_RTN.shape[1:])[None]

    def params_many(self, state: Any) -> Params:
        """Return its parameters."""
        return {name: value[None] for name, value in self.backend.params(state).items()}


def one_of_many(backend: Any) -> Backend[Any]:
    """Return one seed of a backend that trains many at once, beside another one."""
    return _OneOfMany(many_seeds(backend))


class _OneOfMany:
    """The second of two seeds; the first has other parameters and other data."""

    def __init__(self, backend: TrainsManySeeds[Any]) -> None:
        self.backend = backend

    def init(self, params: Params) -> Any:
        """Start both."""
        both = {name: np.stack([value / 2, value]) for name, value in params.items()}
        return self.backend.init_many(both)

    def train(self, state: Any, x_ETB: Array, y_ETB: Array) -> tuple[Any, Array]:
        """Train both; return the losses of the second."""
        x_ERTB, y_ERTB = np.stack([-x_ETB, x_ETB], axis=1), np.stack([y_ETB / 2, y_ETB], axis=1)
        result = self.backend.train_many(state, x_ERTB, y_ERTB)
        state, losses_ER = contract.train_result(result, x_ERTB.shape[:2])
        return state, losses_ER[:, 1]

    def predict(self, state: Any, x_TN: Array) -> Array:
        """Predict with the second."""
        x_RTN = np.stack([-x_TN, x_TN])
        output: Array = contract.outputs(self.backend.predict_many(state, x_RTN), x_RTN.shape)[1]
        return output

    def params(self, state: Any) -> Params:
        """Return the parameters of the second."""
        return {name: value[1] for name, value in self.backend.params_many(state).items()}
