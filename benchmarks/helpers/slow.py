"""A backend that is slow enough to be interrupted, once the parity check is over."""

from __future__ import annotations

import time

from backends.reference import ReferenceBackend, State
from harness.backend.protocol import Array

# More than parity ever trains.
LATE = 60


class Slow(ReferenceBackend):
    """Right, and slow enough to be interrupted."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        if state.step > LATE:
            time.sleep(0.2)
        return super().train(state, x_ETB, y_ETB)
