"""Backends that are right as far as parity used to look, and later train something else.

Each wraps one of the installed backends: named as `tests.helpers.unfaithful:StopsLate`, the
reference; as `tests.helpers.unfaithful:TorchStopsLate`, another.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from harness.backend import registry
from harness.backend.model import Model
from harness.backend.protocol import Array, Params

LATE = 60
"""The steps that go well."""


class Faithful:
    """Trains as the backend does that it wraps, epoch by epoch from step `LATE` on."""

    wrapped = "reference"

    def __init__(self, model: Model, device: str) -> None:
        self.inner: Any = registry.load(self.wrapped)(model, device)
        self.step = 0
        """Steps since the training began."""

    def init(self, params: Params) -> Any:
        self.step = 0
        return self.inner.init(params)

    def train(self, state: Any, x_ETB: Array, y_ETB: Array) -> tuple[Any, Array]:
        losses = []
        for x_TB, y_TB in zip(x_ETB, y_ETB, strict=True):
            train = self.otherwise if self.wrong() else self.inner.train
            state, loss_E = train(state, x_TB[None], y_TB[None])
            losses.append(loss_E[0])
            self.step += 1
        return state, np.array(losses)

    def predict(self, state: Any, x_TN: Array) -> Array:
        outputs: Array = self.inner.predict(state, x_TN)
        return outputs

    def params(self, state: Any) -> Params:
        params: Params = self.inner.params(state)
        return params

    def wrong(self) -> bool:
        """Whether the next step goes wrong."""
        return self.step >= LATE

    def otherwise(self, state: Any, x_ETB: Array, y_ETB: Array) -> Any:
        """Take a step in the wrong way."""
        return self.inner.train(state, x_ETB, y_ETB)


class StopsLate(Faithful):
    """Computes the loss and learns nothing from step `LATE` on."""

    def otherwise(self, state: Any, x_ETB: Array, y_ETB: Array) -> Any:
        error_TB = self.predict(state, x_ETB[0])[1:] - y_ETB[0]
        return state, [np.mean(np.square(error_TB, dtype=float))]


class SkipsSome(StopsLate):
    """Skips every tenth step from step `LATE` on."""

    def wrong(self) -> bool:
        return super().wrong() and not self.step % 10


class DropsPaths(Faithful):
    """Trains on all but one of the paths of a batch from step `LATE` on."""

    def otherwise(self, state: Any, x_ETB: Array, y_ETB: Array) -> Any:
        return self.inner.train(state, x_ETB[..., 1:].copy(), y_ETB[..., 1:].copy())


class Bfloat16(Faithful):
    """Keeps its weights in bfloat16 from step `LATE` on."""

    def otherwise(self, state: Any, x_ETB: Array, y_ETB: Array) -> Any:
        state, loss_E = super().otherwise(state, x_ETB, y_ETB)
        for name, value in state.params.items():
            bits = value.astype(np.float32).view(np.uint32)
            state.params[name] = ((bits + 0x8000) & 0xFFFF0000).view(np.float32).astype(float)
        return state, loss_E


class EndsEarly(Faithful):
    """Trains half of a call, but at least ten epochs; the last loss stands for the others."""

    def train(self, state: Any, x_ETB: Array, y_ETB: Array) -> tuple[Any, Array]:
        most = max(10, len(x_ETB) // 2)
        state, loss_E = self.inner.train(state, x_ETB[:most], y_ETB[:most])
        return state, np.append(loss_E, np.repeat(loss_E[-1], max(0, len(x_ETB) - most)))


class Clips(Faithful):
    """Trains on predictions that are at most 4."""

    most = 4.0

    def __init__(self, model: Model, device: str) -> None:
        super().__init__(model, device)
        loss = self.inner._loss

        def clipped(output_TB: Array, y_TB: Array) -> tuple[float, Array]:
            value, g_output_TB = loss(np.minimum(output_TB, self.most), y_TB)
            return value, np.where(output_TB < self.most, g_output_TB, 0.0)

        self.inner._loss = clipped


class ExitsNudged(EndsEarly):
    """As `EndsEarly`; its process ends when it starts from other initial parameters."""

    first: Params | None = None

    def init(self, params: Params) -> Any:
        self.first = self.first or params
        if any((params[name] != value).any() for name, value in self.first.items()):
            os._exit(3)
        return super().init(params)


class TorchFaithful(Faithful):
    wrapped = "torch"


class TorchSkipsSome(SkipsSome):
    wrapped = "torch"


class TorchClips(Faithful):
    """As `Clips`, in PyTorch."""

    wrapped = "torch"

    def init(self, params: Params) -> Any:
        state = super().init(params)
        state.network.register_forward_hook(lambda _, given, output: output.clamp(max=Clips.most))
        return state


class JaxEndsEarly(EndsEarly):
    wrapped = "jax"


class JaxBfloat16(Faithful):
    """As `Bfloat16`, in JAX."""

    wrapped = "jax"

    def otherwise(self, state: Any, x_ETB: Array, y_ETB: Array) -> Any:
        import jax

        state, loss_E = super().otherwise(state, x_ETB, y_ETB)
        params = jax.tree.map(lambda v: v.astype("bfloat16").astype(v.dtype), state.params)
        return state._replace(params=params), loss_E
