"""Faults that show in training alone: what is kept between steps, and which data it trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from backends.faults import optimiser
from backends.faults.gradient import Told
from backends.faults.outputs import carried
from backends.faults.variation import Variation
from backends.reference import State
from harness.backend.evidence import Evidence, Sample, Suspect
from harness.backend.model import Model
from harness.backend.protocol import Array, Params


def suspects(sample: Sample, got: Evidence) -> Iterator[Suspect]:
    """Yield every variation that changes the training, and not the first gradient."""
    yield from _memory()
    yield from _data()
    yield from carried()
    yield from optimiser.suspects(sample, got)


class _Forgets(Variation):
    """Begins with a new optimiser at each call, or at each step."""

    def __init__(self, model: Model, each_step: bool) -> None:
        super().__init__(model)
        self.each_step = each_step

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        return super().train(self.init(state.params), x_ETB, y_ETB)

    def _update(self, state: State, gradient: Params) -> None:
        if self.each_step:
            state.step = 0
            for memory in (state.mean, state.square):
                memory.update({name: np.zeros_like(g) for name, g in gradient.items()})
        super()._update(state, gradient)


class _CountsCalls(Variation):
    """Counts calls in place of steps in the bias correction."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        self.call = state.step + 1
        state, loss_E = super().train(state, x_ETB, y_ETB)
        state.step = self.call
        return state, loss_E

    def _update(self, state: State, gradient: Params) -> None:
        state.step = self.call - 1
        super()._update(state, gradient)


class _Adds(Variation):
    """Adds up the gradients of all steps."""

    def init(self, params: Params) -> State:
        self.sum: dict[str, Array] = {}
        return super().init(params)

    def _update(self, state: State, gradient: Params) -> None:
        self.sum = {name: self.sum.get(name, 0) + g for name, g in gradient.items()}
        super()._update(state, self.sum)


def _memory() -> Iterator[Suspect]:
    yield Suspect(
        "optimiser reset",
        "it begins with a new optimiser at each call of `train`: the moments are lost",
        partial(_Forgets, each_step=False),
    )
    yield Suspect(
        "optimiser reset",
        "it begins with a new optimiser at each step",
        partial(_Forgets, each_step=True),
    )
    yield Suspect(
        "step number",
        "its Adam counts the calls of `train` in place of the steps in the bias correction",
        _CountsCalls,
    )
    yield Suspect(
        "gradients added up",
        "it adds up the gradients of all steps: nothing sets them to zero (`zero_grad`)",
        _Adds,
    )


class _Data(Variation):
    """Trains on other batches: `choose` has their numbers for that of a call's epochs."""

    def __init__(self, model: Model, choose: Callable[[int], Sequence[int]]) -> None:
        super().__init__(model)
        self.choose = choose

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        chosen = list(self.choose(len(x_ETB)))
        return super().train(state, x_ETB[chosen], y_ETB[chosen])


class _Before(Variation):
    """Trains each epoch on the batch before it, or always on the first one it saw."""

    def __init__(self, model: Model, always_first: bool) -> None:
        super().__init__(model)
        self.always_first = always_first

    def init(self, params: Params) -> State:
        self.last: tuple[Array, Array] | None = None
        return super().init(params)

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        losses = []
        for batch in zip(x_ETB, y_ETB, strict=True):
            x_TB, y_TB = self.last or batch
            if not (self.always_first and self.last):
                self.last = batch
            state, loss_E = super().train(state, x_TB[None], y_TB[None])
            losses.append(loss_E)
        return state, np.concatenate(losses)


def _data() -> Iterator[Suspect]:
    for sentence, choose in (
        ("it trains all epochs of a call on its first batch", lambda n: [0] * n),
        ("it trains all epochs of a call on its last batch", lambda n: [n - 1] * n),
        ("it takes the batches of a call in reverse order", lambda n: range(n)[::-1]),
        ("in each call it trains an epoch on the batch before it", lambda n: [0, *range(n - 1)]),
    ):
        yield Suspect("stale batch", sentence, partial(_Data, choose=choose))
    for sentence, always in (
        ("it trains on the first batch that it ever saw, in all epochs", True),
        ("it trains each epoch on the batch of the epoch before", False),
    ):
        yield Suspect("stale batch", sentence, partial(_Before, always_first=always))
    for sentence, change in (
        ("it reports the mean of the losses of a call", lambda e: np.full_like(e, e.mean())),
        ("it reports the last loss of a call for all its epochs", lambda e: np.full_like(e, e[-1])),
        ("it reports the losses of a call in reverse order", lambda e: e[::-1]),
        (
            "it reports a running mean of the losses of a call",
            lambda e: np.cumsum(e) / np.arange(1, len(e) + 1),
        ),
    ):
        yield Suspect("reported loss", sentence, partial(Told, change=change))
