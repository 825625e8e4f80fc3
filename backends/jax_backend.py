"""JAX: Flax (linen) modules, optax, and one compiled `lax.scan` over the epochs of a chunk."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from harness.errors import Unavailable
from harness.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, HEAD, Model
from harness.protocol import Array, Params

# Our names for Flax's parameters, and whether Flax stores the transpose ([in, out]).
_NAMES: dict[str, tuple[tuple[str, ...], bool]] = {
    "h0": (("h0",), False),
    "W_xh": (("cell", "i", "kernel"), True),
    "W_hh": (("cell", "h", "kernel"), True),
    "b_h": (("cell", "i", "bias"), False),
    "W_1": (("head_1", "kernel"), True),
    "b_1": (("head_1", "bias"), False),
    "W_2": (("head_2", "kernel"), True),
    "b_2": (("head_2", "bias"), False),
}


class Network(nn.Module):
    """The network of a `Model`: inputs [T+1, B] to outputs [T+1, B]."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x_TB: jax.Array) -> jax.Array:
        """Return one output per step and path."""
        kind = {"dtype": self.dtype, "param_dtype": self.dtype}
        h0 = self.param("h0", nn.initializers.zeros, (self.hidden,), self.dtype)
        h0_BH = jnp.broadcast_to(h0, (x_TB.shape[1], self.hidden))
        cell = nn.SimpleCell(self.hidden, **kind, name="cell")
        h_TBH = nn.RNN(cell, time_major=True)(x_TB[..., None], initial_carry=h0_BH)
        d_TBD = nn.Dense(HEAD, **kind, name="head_1")(h_TBH)
        output: jax.Array = nn.Dense(1, **kind, name="head_2")(d_TBD)[..., 0]
        return output


def _configure(name: str, value: Any) -> None:
    jax.config.update(name, value)  # type: ignore[no-untyped-call]


class State(NamedTuple):
    """A pytree of parameters and the optimiser's moments."""

    params: Any
    optimiser: optax.OptState


class JaxBackend:
    """Trains a whole chunk of epochs in one call into compiled code."""

    def __init__(self, model: Model, device: str) -> None:
        # One platform, so that a CPU trial never wakes the GPU; full float32 products (no TF32);
        # double precision only where it is asked for.
        _configure("jax_platforms", "cuda" if device == "gpu" else "cpu")
        _configure("jax_default_matmul_precision", "highest")
        _configure("jax_enable_x64", model.dtype == "float64")
        try:
            jax.devices()
        except (RuntimeError, AssertionError) as error:  # The latter without a CUDA plug-in.
            raise Unavailable(f"backend `jax`: JAX finds no usable {device.upper()}.") from error
        self.network = Network(model.hidden, jnp.dtype(model.dtype))
        self.optimiser = (
            optax.adam(model.learning_rate, ADAM_BETA1, ADAM_BETA2, ADAM_EPS)
            if model.optimiser == "adam"
            else optax.sgd(model.learning_rate)
        )

    def init(self, params: Params) -> State:
        """Lay the parameters out as Flax does and start the optimiser."""
        tree: dict[str, Any] = {}
        for name, (path, transposed) in _NAMES.items():
            branch = tree
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = jnp.array(params[name].T if transposed else params[name])
        return State(tree, jax.jit(self.optimiser.init)(tree))

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Scan the epochs of the chunk on the device."""
        state, losses_E = self._train(state, x_ETB, y_ETB)
        return state, np.asarray(losses_E)

    def predict(self, state: State, x_TN: Array) -> Array:
        """Return the outputs for every step fed."""
        return np.asarray(self._predict(state.params, x_TN))

    def params(self, state: State) -> Params:
        """Return a copy of the parameters."""
        params = {}
        for name, (path, transposed) in _NAMES.items():
            leaf = state.params
            for key in path:
                leaf = leaf[key]
            array = np.array(leaf)
            params[name] = array.T if transposed else array
        return params

    def peak_gpu_mb(self) -> float:
        """Return the peak of live arrays."""
        return float(jax.devices()[0].memory_stats()["peak_bytes_in_use"]) / 1e6

    def _loss(self, params: Any, x_TB: jax.Array, y_TB: jax.Array) -> jax.Array:
        output_TB: Any = self.network.apply({"params": params}, x_TB)
        return jnp.mean((output_TB[1:] - y_TB) ** 2)

    def _step(self, state: State, batch: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        loss, gradients = jax.value_and_grad(self._loss)(state.params, *batch)
        updates, optimiser = self.optimiser.update(gradients, state.optimiser, state.params)
        return State(optax.apply_updates(state.params, updates), optimiser), loss

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _train(self, state: State, x_ETB: jax.Array, y_ETB: jax.Array) -> tuple[State, jax.Array]:
        return jax.lax.scan(self._step, state, (x_ETB, y_ETB))

    @partial(jax.jit, static_argnums=0)
    def _predict(self, params: Any, x_TN: jax.Array) -> Any:
        return self.network.apply({"params": params}, x_TN)
