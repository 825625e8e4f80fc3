"""The task specification: what is learned, by which network, how, and how it is scored.

A `Task` validates and does nothing else: it touches no file, no clock and no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from harness.backend.model import Activation, Cell, Gradient, Model
from harness.errors import InvalidInput, UnknownName
from harness.inputs.quantities import integer
from harness.inputs.validated import Integer, Number, Validated
from harness.task.names import OTHER_NAMES

# The most input values a chunk may hold (16 MiB of float32): the length of a training does not
# decide how much memory it needs.
_CHUNK_VALUES = 2**22
# Far above what anybody trains: a mistyped number, or one in a file from elsewhere, must not fill
# the memory or be factorised for ever.
_MOST = 10**9


def _sign(value: object) -> object:
    # A literal is compared, not parsed, and the command line sends text.
    return integer(value) if isinstance(value, str) else value


class Task(Validated):
    """Teach a recurrent network `x_t^2 + lag_weight * x_{t-lag}^2` on AR(1) paths.

    The path is `x_0 = 0`, `x_t = rho*x_{t-1} + N(0, 1)`, t = 1..n_steps, and 0 before. The network
    sees one value a step and is scored at t >= 1. Training aims at
    `x_t^2 + train_sign*lag_weight*x_{t-lag}^2`; evaluation always uses the plus sign.

    Raises `InvalidInput` with a sentence for every bad field.
    """

    other_names = OTHER_NAMES

    rho: Number = Field(0.1, gt=-1, lt=1, description="AR(1) coefficient; |rho| < 1")
    lag_weight: Number = Field(
        0.1, ge=-1e6, le=1e6, description="w, the weight of the squared value `lag` steps before"
    )
    lag: Integer = Field(
        1, ge=1, le=10**6, description="L: how many steps back that value is; at most n_steps"
    )
    train_sign: Annotated[Literal[1, -1], BeforeValidator(_sign)] = Field(
        1, description="sign of the lag term in the training target"
    )
    n_steps: Integer = Field(100, ge=1, le=10**6, description="T, the scored time steps of a path")
    batch_size: Integer = Field(
        32, ge=1, le=_MOST, description="paths in a batch, new at every epoch"
    )
    epochs: Integer = Field(1000, ge=1, le=_MOST, description="optimiser steps")
    cell: Cell = Field("rnn", description="rnn, gru or lstm: the recurrent cell")
    activation: Activation = Field("tanh", description="tanh or relu, of the rnn cell")
    layers: Integer = Field(
        1, ge=1, le=1000, description="recurrent layers, one on top of the other"
    )
    hidden: Integer = Field(10, ge=1, le=10**6, description="units of a recurrent layer")
    learning_rate: Number = Field(1e-3, gt=0, description="step size of the optimiser")
    optimiser: Literal["adam", "sgd"] = Field("adam", description="betas 0.9/0.999, eps 1e-8")
    gradient: Gradient = Field("exact", description="exact, or stateful-broadcast: a known fault")
    dtype: Literal["float32", "float64"] = Field("float32", description="of data and network")
    eval_paths: Integer = Field(
        2000, ge=1, le=_MOST, description="held-out paths, never trained on"
    )
    curve_points: Integer = Field(
        20, ge=1, le=_MOST, description="most evaluations during a training"
    )

    @property
    def epochs_per_point(self) -> int:
        """Epochs between two evaluations: `epochs` over its largest divisor <= `curve_points`."""
        return self.epochs // largest_divisor(self.epochs, self.curve_points)

    def chunk_epochs(self, seeds: int = 1) -> int:
        """Epochs in a call that trains so many seeds; it divides `epochs_per_point` evenly."""
        return largest_divisor(self.epochs_per_point, self._most_chunk_epochs(seeds))

    def refuse_uncuttable(self, seeds: int) -> None:
        """Raise `InvalidInput` if a call that trains so many seeds could hold but few epochs."""
        if not self._cuts_well(self.epochs, seeds):
            nearest = self.nearest_epochs(self.epochs, seeds)
            raise InvalidInput(
                f"`epochs` = {self.epochs}: cannot be cut into equal chunks for {seeds} seeds at "
                f"once; the nearest that can is {nearest} (or train fewer at once)."
            )

    def nearest_epochs(self, epochs: int, seeds: int = 1) -> int:
        """Return the number of epochs nearest to one that can be cut into equal chunks."""
        near = (e for d in range(epochs) for e in (epochs + d, epochs - d))
        return next(e for e in near if e >= 1 and self._cuts_well(e, seeds))

    def _most_chunk_epochs(self, seeds: int = 1) -> int:
        return max(1, _CHUNK_VALUES // (seeds * (self.n_steps + 1) * self.batch_size))

    @property
    def model(self) -> Model:
        """What a backend is told: the network and its optimiser, nothing of the data."""
        return Model(
            hidden=self.hidden,
            optimiser=self.optimiser,
            learning_rate=self.learning_rate,
            dtype=self.dtype,
            cell=self.cell,
            activation=self.activation,
            layers=self.layers,
            gradient=self.gradient,
        )

    @model_validator(mode="after")
    def _has_a_choice_of_activation(self) -> Self:
        if self.activation != "tanh" and self.cell != "rnn":
            raise InvalidInput(
                f"`activation` = {self.activation!r}: a {self.cell} is defined with tanh; "
                "only `cell` = rnn has a choice."
            )
        return self

    @model_validator(mode="after")
    def _lag_is_on_the_path(self) -> Self:
        if self.lag > self.n_steps:
            raise InvalidInput(
                f"`lag` = {self.lag}: a path has {self.n_steps} steps (`n_steps`), so no step has "
                f"a value so far back; allowed is 1 to {self.n_steps}."
            )
        return self

    @model_validator(mode="after")
    def _can_be_cut(self) -> Self:
        if not self._cuts_well(self.epochs):
            raise InvalidInput(
                f"`epochs` = {self.epochs}: cannot be cut into equal chunks for "
                f"{self.curve_points} points of the curve; the nearest that can is "
                f"{self.nearest_epochs(self.epochs)} (or change `curve_points`)."
            )
        return self

    def _cuts_well(self, epochs: int, seeds: int = 1) -> bool:
        """Whether the curve and the chunks can be at least half as long as asked for."""
        points = largest_divisor(epochs, self.curve_points)
        per_point = epochs // points
        most = self._most_chunk_epochs(seeds)
        chunk = largest_divisor(per_point, most)
        return 2 * points >= min(epochs, self.curve_points) and 2 * chunk >= min(per_point, most)

    @classmethod
    def preset(cls, name: str, **changes: object) -> Task:
        """Build a named preset with some fields changed. Raises `InvalidInput`."""
        if name not in PRESETS:
            raise UnknownName("preset", name, PRESETS)
        return cls(**{**PRESETS[name], **changes})

    def changed(self, **changes: object) -> Task:
        """Return the task with some fields changed. Raises `InvalidInput`."""
        return type(self)(**{**self.model_dump(exclude_unset=True), **changes}) if changes else self


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "corrected": {},
    "posted": {"train_sign": -1, "gradient": "stateful-broadcast"},
    "posted-sign-mended": {"gradient": "stateful-broadcast"},
    "posted-gradient-mended": {"train_sign": -1},
    "no-lag": {"lag_weight": 0.0},
    "strong-lag": {"lag_weight": 1.0},
    "far-lag": {"lag_weight": 1.0, "lag": 4},
}


@lru_cache(maxsize=1000)
def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of a number that is not above the limit."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return max(d for s in small for d in (s, number // s) if d <= limit)
