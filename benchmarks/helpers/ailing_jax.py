"""As `benchmarks.helpers.ailing`, of the backend `jax`: a network whose gradient is ill."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from backends.jax_backend import JaxBackend, Network
from harness.backend.model import Model


class _CutCell(nn.SimpleCell):
    def __call__(self, carry: Any, inputs: Any) -> Any:
        step: Any = super().__call__
        return step(jax.lax.stop_gradient(carry), inputs)


class _CutNetwork(Network):
    def _cell(self, name: str) -> nn.RNNCellBase:
        return _CutCell(self.model.hidden, **self._kind, name=name)


class Cut(JaxBackend):
    """No gradient goes from a step to the one before, or to the initial state."""

    def __init__(self, model: Model, device: str) -> None:
        super().__init__(model, device)
        self.network = _CutNetwork(model)
