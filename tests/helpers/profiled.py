"""Backends that do something under a profiler."""

from __future__ import annotations

import os
import signal
import sys
import time

from backends.reference import ReferenceBackend, State
from harness.backend.protocol import Array


class Sleeps(ReferenceBackend):
    """Sleeps for longer than it trains."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        time.sleep(0.02)
        return super().train(state, x_ETB, y_ETB)


class Dies(ReferenceBackend):
    """Ends at the first call that is looked at."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        if "harness.profiling.profiler" in sys.modules:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(state, x_ETB, y_ETB)
