"""JAX as most people write it: the network of `jax`, one call into compiled code per epoch.

Against `jax` it pays for the dispatch of a call and the transfer of a batch in every epoch. Losses
stay on the device until the end of the chunk, so that the next step need not wait for them.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from backends.jax_backend import JaxBackend, State
from harness.backend.model import Model
from harness.backend.protocol import Array


class JaxStepBackend(JaxBackend):
    """Trains with a Python loop over epochs, each of them one call."""

    name = "jax-step"

    def __init__(self, model: Model, device: str) -> None:
        super().__init__(model, device)
        self._step_one = jax.jit(self._step, donate_argnums=0)
        self._step_many = jax.jit(jax.vmap(self._step), donate_argnums=0)

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Take one step per epoch."""
        return self._loop(self._step_one, state, x_ETB, y_ETB)

    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        """Take one step per epoch with all seeds."""
        return self._loop(self._step_many, state, x_ERTB, y_ERTB)

    def _loop(self, step: Any, state: State, x_E: Array, y_E: Array) -> tuple[State, Array]:
        losses = []
        for batch in zip(x_E, y_E, strict=True):
            state, loss = step(state, batch)
            losses.append(loss)
        return state, np.array(jax.device_get(losses))
