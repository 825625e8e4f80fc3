"""Gives a backend that trains one seed the methods of `TrainsManySeeds`.

So the harness calls every backend in the same way: all arrays have an axis for the seeds.
"""

from __future__ import annotations

from typing import Any

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
