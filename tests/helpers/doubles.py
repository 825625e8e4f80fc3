"""Doubles for tests: a clock that is set by hand, and a backend that costs what it is told to.

They let a test of the measuring itself be exact, with nothing patched.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.backend.model import Model
from harness.backend.protocol import Array, Params


@dataclass
class ManualClock:
    """A clock that stands still until somebody spends time."""

    seconds: float = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds

    def spend(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds


@dataclass
class FakeBackend:
    """Learns nothing, but spends the clock's time as told and keeps a log of its calls.

    Its loss at epoch e is `1 / (e + 1)`, and its prediction is always zero. From `diverge_after`
    epochs on, losses are NaN.
    """

    clock: ManualClock
    compile_s: float = 10.0
    epoch_s: float = 1.0
    predict_s: float = 100.0
    setup_s: float = 1000.0
    init_s: float = 0.0
    diverge_after: int | None = None
    calls: list[str] = field(default_factory=list)
    compiled: bool = False
    start: Params = field(default_factory=dict)

    def __call__(self, model: Model, device: str) -> FakeBackend:
        """Be the factory, too."""
        self.calls.append(f"make {device} {model.hidden}")
        self.clock.spend(self.setup_s)
        return self

    def init(self, params: Params) -> int:
        """Return the state: the number of epochs trained."""
        self.calls.append(f"init {len(params)}")
        self.clock.spend(self.init_s)
        self.start = params
        return 0

    def train(self, state: int, x_ETB: Array, y_ETB: Array) -> tuple[int, Array]:
        """Spend the time of the epochs, and of compilation on the first call."""
        epochs = len(x_ETB)
        self.calls.append(f"train {epochs}")
        self.clock.spend(epochs * self.epoch_s + (0 if self.compiled else self.compile_s))
        self.compiled = True
        epoch_E = np.arange(state, state + epochs)
        losses_E = 1 / (epoch_E + 1.0)
        if self.diverge_after is not None:
            losses_E[epoch_E >= self.diverge_after] = np.nan
        return state + epochs, losses_E

    def predict(self, state: int, x_TN: Array) -> Array:
        """Spend the time of a prediction."""
        self.calls.append(f"predict {x_TN.shape[1]}")
        self.clock.spend(self.predict_s)
        return np.zeros_like(x_TN)

    def params(self, state: int) -> Params:
        """Return parameters that have moved by 1 for each epoch."""
        return {name: value + state for name, value in self.start.items()}
