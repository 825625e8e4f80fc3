"""The reference with something replaced: the base of every fault in the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

import numpy as np

from backends.reference import ReferenceBackend, State
from harness.backend.model import Model
from harness.backend.protocol import Array, Params

Change: TypeAlias = Callable[[Params], Params]


class Variation(ReferenceBackend):
    """The reference; its subclasses replace a method or two."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, "cpu")


class Misread(Variation):
    """Other parameters inside than outside; `back` undoes `change`."""

    def __init__(self, model: Model, change: Change, back: Change) -> None:
        super().__init__(model)
        self.change, self.back = change, back

    def init(self, params: Params) -> State:
        """Start at the changed parameters."""
        return super().init(self.change(params))

    def params(self, state: State) -> Params:
        """Return them changed back."""
        return self.back(super().params(state))


class Regraded(Variation):
    """Another gradient, made of the right one and the parameters."""

    def __init__(self, model: Model, change: Callable[[Params, Params], Params]) -> None:
        super().__init__(model)
        self.change = change

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        """Return the right loss and the changed gradient."""
        loss, gradient = super().loss_and_gradient(params, x_TB, y_TB)
        return loss, {**gradient, **self.change(gradient, params)}


def zeros(params: Params, names: Collection[str]) -> dict[str, Array]:
    """Return zeros in place of these parameters."""
    return {name: np.zeros_like(params[name]) for name in names}


def listed(names: Collection[str]) -> str:
    """Return names as text: `a`, `b` and `c`."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}" if first else last
