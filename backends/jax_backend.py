"""JAX: Flax (linen) modules, optax, and one compiled `lax.scan` over the epochs of a chunk."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from harness.backend.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, HEAD, Model
from harness.backend.protocol import Array, Params
from harness.errors import Unavailable

# A cell of Flax has a Dense layer `i` + gate on its input and one `h` + gate on its past.
_GATES = {"rnn": [""], "gru": ["r", "z", "n"], "lstm": ["i", "f", "g", "o"]}
# Which of the two has the bias.
_BIASED = {"rnn": "i", "gru": "i", "lstm": "h"}


class Network(nn.Module):
    """The network of a `Model`: inputs [T+1, B] to outputs [T+1, B]."""

    model: Model

    @nn.compact
    def __call__(self, x_TB: jax.Array) -> jax.Array:
        """Return one output per step and path."""
        sequence_TBI: Any = x_TB[..., None]
        for number in range(1, self.model.layers + 1):
            cell = self._cell(f"cell_{number}")
            carry = self._initial_carry(number, batch=x_TB.shape[1])
            if self.model.gradient == "exact":
                rnn = nn.RNN(cell, time_major=True)
                sequence_TBI = rnn(sequence_TBI, initial_carry=carry)
            else:
                sequence_TBI = _broadcast(cell, carry, sequence_TBI)
        d_TBD = nn.Dense(HEAD, **self._kind, name="head_1")(sequence_TBI)
        output: jax.Array = nn.Dense(1, **self._kind, name="head_2")(d_TBD)[..., 0]
        return output

    def _cell(self, name: str) -> nn.RNNCellBase:
        hidden, kind = self.model.hidden, self._kind
        if self.model.cell == "gru":
            return nn.GRUCell(hidden, **kind, name=name)
        if self.model.cell == "lstm":
            return nn.OptimizedLSTMCell(hidden, **kind, name=name)
        activation = {"tanh": nn.tanh, "relu": nn.relu}[self.model.activation]
        return nn.SimpleCell(hidden, **kind, activation_fn=activation, name=name)

    def _initial_carry(self, number: int, batch: int) -> Any:
        """Return the trained initial state of a layer: (c, h) of an lstm, else h; [B, H] each."""

        def state(name: str) -> jax.Array:
            shape, dtype = (self.model.hidden,), self._kind["dtype"]
            value = self.param(f"{name}_{number}", nn.initializers.zeros, shape, dtype)
            return jnp.broadcast_to(value, (batch, *shape))

        return (state("c0"), state("h0")) if self.model.cell == "lstm" else state("h0")

    @property
    def _kind(self) -> dict[str, Any]:
        dtype = jnp.dtype(self.model.dtype)
        return {"dtype": dtype, "param_dtype": dtype}


def _broadcast(cell: nn.RNNCellBase, carry: Any, x_TBI: jax.Array) -> Any:
    """Return what `nn.RNN` puts out, but with the gradient `stateful-broadcast`.

    After a first pass the steps run once more, from the last to the first. Each has the values that
    it has in the right order, but its gradient goes to the step that ran before it, the next one in
    time. So the backward steps run in forward order of time.
    """

    def first_pass(cell: nn.RNNCellBase, before: Any, x_BI: jax.Array) -> tuple[Any, Any]:
        return cell(before, x_BI)[0], before

    def second_pass(cell: nn.RNNCellBase, later: Any, step: Any) -> tuple[Any, Any]:
        before, x_BI = step
        nothing = jax.tree.map(lambda other: other - jax.lax.stop_gradient(other), later)
        later, output_BH = cell(jax.tree.map(jnp.add, before, nothing), x_BI)
        return later, output_BH

    scan = partial(nn.scan, variable_broadcast="params", split_rngs={"params": False})
    _, carries = scan(first_pass)(cell, carry, x_TBI)
    none = jax.tree.map(jnp.zeros_like, carry)
    steps = (jax.lax.stop_gradient(carries), x_TBI)
    return scan(second_pass, reverse=True)(cell, none, steps)[1]


class State(NamedTuple):
    """A pytree of parameters and the optimiser's moments."""

    params: Any
    optimiser: optax.OptState


class JaxBackend:
    """Trains a whole chunk of epochs in one call into compiled code."""

    name = "jax"

    def __init__(self, model: Model, device: str) -> None:
        configure(self.name, model, device)
        self.model = model
        self.network = Network(model)
        self.optimiser = (
            optax.adam(model.learning_rate, ADAM_BETA1, ADAM_BETA2, ADAM_EPS)
            if model.optimiser == "adam"
            else optax.sgd(model.learning_rate)
        )
        across_seeds = partial(jax.vmap, in_axes=(0, 1, 1), out_axes=(0, 1))
        self._train = jax.jit(self._scan, donate_argnums=0)
        self._train_many = jax.jit(across_seeds(self._scan), donate_argnums=0)
        self._predict = jax.jit(self._output)
        self._predict_many = jax.jit(jax.vmap(self._output))

    def init(self, params: Params) -> State:
        """Lay the parameters out as Flax does and start the optimiser."""
        tree = self._to_flax(params)
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
        return self._from_flax(state.params)

    def init_many(self, params: Params) -> State:
        """As `init`, with the seeds as the first axis of everything."""
        tree = self._to_flax(params)
        return State(tree, jax.jit(jax.vmap(self.optimiser.init))(tree))

    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        """As `train`: every operation on the device does all seeds at once."""
        state, losses_ER = self._train_many(state, x_ERTB, y_ERTB)
        return state, np.asarray(losses_ER)

    def predict_many(self, state: State, x_RTN: Array) -> Array:
        """Return the outputs for every seed and step fed."""
        return np.asarray(self._predict_many(state.params, x_RTN))

    def params_many(self, state: State) -> Params:
        """Return a copy of the parameters of every seed."""
        return self._from_flax(state.params)

    def peak_gpu_mb(self) -> float | None:
        """Return the peak of live arrays."""
        return peak_gpu_mb()

    def _output(self, params: Any, x_TB: jax.Array) -> Any:
        return self.network.apply({"params": params}, x_TB)

    def _loss(self, params: Any, x_TB: jax.Array, y_TB: jax.Array) -> jax.Array:
        return jnp.mean((self._output(params, x_TB)[1:] - y_TB) ** 2)

    def _step(self, state: State, batch: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        loss, gradients = jax.value_and_grad(self._loss)(state.params, *batch)
        updates, optimiser = self.optimiser.update(gradients, state.optimiser, state.params)
        return State(optax.apply_updates(state.params, updates), optimiser), loss

    def _scan(self, state: State, x_ETB: jax.Array, y_ETB: jax.Array) -> tuple[State, jax.Array]:
        return jax.lax.scan(self._step, state, (x_ETB, y_ETB))

    def _to_flax(self, params: Params) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for name, paths in _layout(self.model).items():
            axis = params[name].ndim - len(self.model.shapes[name])  # Of the gates: after seeds.
            for path, gate in zip(paths, np.split(params[name], len(paths), axis), strict=True):
                *branches, leaf = path
                branch = tree
                for key in branches:
                    branch = branch.setdefault(key, {})
                branch[leaf] = jnp.array(np.swapaxes(gate, -1, -2) if leaf == "kernel" else gate)
        return tree

    def _from_flax(self, tree: Any) -> Params:
        params = {}
        for name, paths in _layout(self.model).items():
            gates = []
            for path in paths:
                leaf = tree
                for key in path:
                    leaf = leaf[key]
                gates.append(np.swapaxes(leaf, -1, -2) if path[-1] == "kernel" else leaf)
            params[name] = np.concatenate(gates, axis=-len(self.model.shapes[name]))
        return params


def _layout(model: Model) -> dict[str, list[tuple[str, ...]]]:
    """Return where Flax keeps each of our parameters: one path per gate, stacked in this order.

    A Dense layer of Flax stores its weights transposed, [in, out], as `kernel`.
    """
    gates = _GATES[model.cell]
    layout: dict[str, list[tuple[str, ...]]] = {}
    for number, prefix in enumerate(model.prefixes, start=1):
        cell, biased = f"cell_{number}", _BIASED[model.cell]
        layout |= {
            f"{prefix}h0": [(f"h0_{number}",)],
            f"{prefix}c0": [(f"c0_{number}",)],
            f"{prefix}W_xh": [(cell, f"i{gate}", "kernel") for gate in gates],
            f"{prefix}W_hh": [(cell, f"h{gate}", "kernel") for gate in gates],
            f"{prefix}b_h": [(cell, f"{biased}{gate}", "bias") for gate in gates],
            f"{prefix}b_hn": [(cell, "hn", "bias")],
        }
    for number in (1, 2):
        layout[f"W_{number}"] = [(f"head_{number}", "kernel")]
        layout[f"b_{number}"] = [(f"head_{number}", "bias")]
    return {name: layout[name] for name in model.shapes}


def configure(backend: str, model: Model, device: str) -> None:
    """Set JAX up for this process, for one device and precision; raises `Unavailable`."""
    # One platform, so that a CPU trial never wakes the GPU; full float32 products (no TF32);
    # double precision only where it is asked for.
    _set("jax_platforms", "cuda" if device == "gpu" else "cpu")
    _set("jax_default_matmul_precision", "highest")
    _set("jax_enable_x64", model.dtype == "float64")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # The latter without a CUDA plug-in.
        raise Unavailable(f"backend `{backend}`: JAX finds no usable {device.upper()}.") from error


def _set(name: str, value: Any) -> None:
    jax.config.update(name, value)


def peak_gpu_mb() -> float | None:
    """Return the peak of live arrays on the GPU, in MB; None: this platform does not count them."""
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if peak is None else peak / 1e6
