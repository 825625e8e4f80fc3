"""Backends that train many seeds at once, one of them well.

Named on the command line as `tests.helpers.many:Name`.
"""

from __future__ import annotations

import numpy as np

from backends.reference import ReferenceBackend, State
from benchmarks.helpers.looped import Looped
from harness.backend.model import Model
from harness.backend.protocol import Array
from harness.errors import Unavailable


class MixesSeeds(Looped):
    """Gives every seed the data of the first."""

    def train_many(
        self, state: list[State], x_ERTB: Array, y_ERTB: Array
    ) -> tuple[list[State], Array]:
        first = np.zeros(x_ERTB.shape[1], int)
        return super().train_many(state, x_ERTB[:, first], y_ERTB[:, first])


class SecondDiverges(Looped):
    """Its second seed diverges late, and so does that seed alone, if it is seed 1."""

    def train_many(
        self, state: list[State], x_ERTB: Array, y_ERTB: Array
    ) -> tuple[list[State], Array]:
        state, losses_ER = super().train_many(state, x_ERTB, y_ERTB)
        if state[1].step > 60:
            losses_ER[-1, 1] = np.nan
        return state, losses_ER


class NoDouble(ReferenceBackend):
    """A backend of a device that lacks float64."""

    def __init__(self, model: Model, device: str) -> None:
        model.require("tests.helpers.many:NoDouble", dtype=("float32",))
        super().__init__(model, device)


class NoGru(ReferenceBackend):
    def __init__(self, model: Model, device: str) -> None:
        if model.cell == "gru":
            raise Unavailable("backend `tests.helpers.many:NoGru` has no gru.")
        super().__init__(model, device)
