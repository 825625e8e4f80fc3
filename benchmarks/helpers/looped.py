"""A backend that is the reference in all but name, and trains many seeds, too."""

from __future__ import annotations

import numpy as np

from backends.reference import ReferenceBackend, State
from harness.backend.protocol import Array, Params


class Looped(ReferenceBackend):
    """Trains its seeds in turn, which is all that the protocol asks for."""

    def init_many(self, params: Params) -> list[State]:
        seeds = len(next(iter(params.values())))
        return [self.init({name: value[r] for name, value in params.items()}) for r in range(seeds)]

    def train_many(
        self, state: list[State], x_ERTB: Array, y_ERTB: Array
    ) -> tuple[list[State], Array]:
        trained = [self.train(s, x_ERTB[:, r], y_ERTB[:, r]) for r, s in enumerate(state)]
        return [s for s, _ in trained], np.stack([losses_E for _, losses_E in trained], axis=1)

    def predict_many(self, state: list[State], x_RTN: Array) -> Array:
        return np.stack([self.predict(s, x_TN) for s, x_TN in zip(state, x_RTN, strict=True)])

    def params_many(self, state: list[State]) -> Params:
        params = [self.params(s) for s in state]
        return {name: np.stack([p[name] for p in params]) for name in params[0]}
