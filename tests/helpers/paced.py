"""Backends whose calls take long enough for one to be a turn; some go wrong in their third turn.

Named on the command line as `tests.helpers.paced:Name`.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from backends.reference import ReferenceBackend, State
from harness.backend.protocol import Array

LOG = "HARNESS_TEST_LOG"
"""The environment variable with the name of the file that gets a line for each call of `train`."""
LATE = 20
"""The steps that go well: more than those before the turns, if a call trains 10 epochs."""


class Paced(ReferenceBackend):
    """Right, and needs 25 ms for a call of `train`."""

    call_s = 0.025

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        if log := os.environ.get(LOG):
            with open(log, "a") as file:
                file.write(f"{type(self).__name__}\n")
        time.sleep(self.call_s)
        state, losses = super().train(state, x_ETB, y_ETB)
        return self.spoil(state, losses) if state.step > LATE else (state, losses)

    def spoil(self, state: State, losses: Array) -> Any:
        return state, losses


class Second(Paced):
    """As right as the first."""


class Third(Paced):
    """As right as the first."""


class Long(Paced):
    """Needs longer for a call of 10 epochs than a turn may take."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        self.call_s = 0.12 * len(x_ETB)
        return super().train(state, x_ETB, y_ETB)


class StartsSlowly(ReferenceBackend):
    """Works for 0.4 s of processor time when it is made."""

    def __init__(self, *given: Any) -> None:
        end = time.process_time() + 0.4
        while time.process_time() < end:
            pass
        super().__init__(*given)


class FailsWhenTimed(ReferenceBackend):
    """Ends a training of 100 epochs; then its turns begin."""

    calls = 0

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        self.calls += 1
        if self.calls > 2 + 100 / len(x_ETB):
            raise RuntimeError("kernel launch failed")
        return super().train(state, x_ETB, y_ETB)


class Raises(Paced):
    def spoil(self, state: State, losses: Array) -> Any:
        raise RuntimeError("kernel launch failed")


class Exits(Paced):
    def spoil(self, state: State, losses: Array) -> Any:
        os._exit(3)


class Diverges(Paced):
    def spoil(self, state: State, losses: Array) -> Any:
        return state, losses * np.nan


class Hangs(Paced):
    def spoil(self, state: State, losses: Array) -> Any:
        time.sleep(600)
