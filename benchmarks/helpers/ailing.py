"""Backends that pass parity and then fall ill, each of one thing that a diagnosis should find.

Named on the command line as `benchmarks.helpers.ailing:Name`. Each is `floor` with one fault, and
as fast.
"""

from __future__ import annotations

import numpy as np

from backends import floor_layout
from backends.floor import FloorBackend, State
from benchmarks.helpers.slow import LATE
from harness.backend.protocol import Array, Params


class _Ailing(FloorBackend):
    """Spoils every parameter table after each step, once parity is over."""

    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        losses = []
        for x_RTB, y_RTB in zip(x_ERTB, y_ERTB, strict=True):
            before = state.params_R.copy()
            state, loss = super().train_many(state, x_RTB[None], y_RTB[None])
            losses.append(loss)
            if state.steps > LATE:
                for r, table in enumerate(state.params_R):
                    self.spoil(table, before[r])
        return state, np.concatenate(losses)

    def spoil(self, table: Array, before: Array) -> None:
        raise NotImplementedError


class Forgets(_Ailing):
    """The recurrent weights stay zero: it sees the present and nothing else."""

    def spoil(self, table: Array, before: Array) -> None:
        floor_layout.named(table, self.model.hidden)["W_hh"][:] = 0


class KeepsStart(_Ailing):
    """The initial state is not trained: it stays where it began."""

    def spoil(self, table: Array, before: Array) -> None:
        h0 = floor_layout.named(table, self.model.hidden)["h0"]
        h0[:] = floor_layout.named(before, self.model.hidden)["h0"]


class Rounds(_Ailing):
    """Keeps its weights to the ten bits of mantissa of half precision."""

    def spoil(self, table: Array, before: Array) -> None:
        table[:] = table.astype(np.float16)


class _SomeSeeds(_Ailing):
    """Ill in one start of six or so, which its first weight tells."""

    def init_many(self, params: Params) -> State:
        self.ill = bool(params["W_1"][0, 0, 0] < -0.3)
        return super().init_many(params)


class FreezesSome(_SomeSeeds):
    """Does not move any more."""

    def spoil(self, table: Array, before: Array) -> None:
        if self.ill:
            table[:] = before


class ForgetsSome(_SomeSeeds, Forgets):
    """As `Forgets`."""

    def spoil(self, table: Array, before: Array) -> None:
        if self.ill:
            super().spoil(table, before)


class Drifts(FloorBackend):
    """Its outputs are ever more too large, the later the time step."""

    def predict_many(self, state: State, x_RTN: Array) -> Array:
        output_RTN = super().predict_many(state, x_RTN)
        if state.steps > LATE:
            output_RTN *= 1 + 1e-3 * np.arange(x_RTN.shape[1], dtype=x_RTN.dtype)[:, None]
        return output_RTN


class TurnsSign(FloorBackend):
    """Trains towards a lag term with the other sign, once parity is over."""

    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        if state.steps > LATE:
            y_ERTB = 2 * x_ERTB[:, :, 1:] ** 2 - y_ERTB
        return super().train_many(state, x_ERTB, y_ERTB)


class Unlearns(_Ailing):
    """Its weights are shifted after some time, and then they stay."""

    AFTER = 3000
    SHIFT = 0.05

    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        self.shift = self.SHIFT * (state.steps < self.AFTER <= state.steps + len(x_ERTB))
        self.stays = state.steps >= self.AFTER
        state, losses_ER = super().train_many(state, x_ERTB, y_ERTB)
        state.params_R += np.asarray(self.shift, state.params_R.dtype)
        return state, losses_ER

    def spoil(self, table: Array, before: Array) -> None:
        if self.stays:
            table[:] = before
