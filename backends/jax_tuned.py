"""JAX, as far as it goes: the one-layer rnn, its gradient by hand, on tapes that stay in place.

At this size XLA's calls into its own kernels cost more than what they compute, so there are as few
as can be: two for a time step forwards, two backwards. What is done, and why
(`docs/performance.md` has what each buys):
- the batch is the last axis; what a step is fed, its past, its input and 1 for the bias, are rows
  of one tape, so that a step is one product, written as a sum over columns, which XLA fuses with
  the activation into one loop, where a `dot` of this size is a call into a library;
- a step reads from the tape what the step before it wrote: nothing else is carried, or copied;
- there is no activation between the two linear layers, so the head is one vector W_2 W_1 and a
  scalar, and all its gradients follow from the sums of the errors, and of them times h;
- the gradients of all weights are one product after the loop, of a tape of the derivatives, with
  the errors as one row more, and the tape of what was fed;
- tapes are made once for a chunk of epochs;
- tanh in float32 is a quotient of polynomials, good to a few units in the last place;
- parameters, and Adam's moments, are one flat vector;
- many seeds are one more axis, in groups of `GROUP` on a CPU.

Shapes: E epochs, R seeds, T time steps, B batch, H hidden, F = H + 2 rows fed, P parameters of a
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from backends.jax_backend import configure, peak_gpu_mb
from backends.many_seeds import ByManySeeds, cut, flat
from harness.backend.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, Model
from harness.backend.protocol import Array, Params

GROUP = 8  # As many seeds at once as leave what a time loop touches in the cache.
COLUMNS = 40  # Products of wider matrices are left to XLA's library.
CPU_OPTIONS = {
    # XLA copies what a loop carries before every step of it, unless it is told to look closer.
    "xla_cpu_copy_insertion_use_region_analysis": True,
    # XLA takes vectors of 256 bits unless it is told that the core has a use for wider ones.
    "xla_cpu_prefer_vector_width": 512,
}
# XLA launches kernels one by one, unless five or more in a row can be one CUDA graph. A step has
# fewer, and a graph of so few is launched as fast as one of them.
GPU_OPTIONS = {"xla_gpu_graph_min_graph_size": 1}

Weights: TypeAlias = Mapping[str, jax.Array]
Activation: TypeAlias = Callable[[jax.Array], jax.Array]


class State(NamedTuple):
    """Parameters and Adam's two moments [R, P], and the number of steps taken, []."""

    flat: jax.Array
    mean: jax.Array
    square: jax.Array
    step: jax.Array


class Tapes(NamedTuple):
    """What the steps are fed [R, H+2, T+2, B], and derivatives by their arguments [R, H+1, T+2, B].

    Place t has the state before step t, its input and 1; the derivative by the argument of step t,
    and the error of the output before step t. Only the last place has no step.
    """

    fed: jax.Array
    delta: jax.Array


class JaxTunedBackend(ByManySeeds[list[State]]):
    """Trains seeds in groups, each over a whole chunk of epochs in one call."""

    name = "jax-tuned"

    def __init__(self, model: Model, device: str) -> None:
        model.require(self.name, cell=("rnn",), layers=(1,), gradient=("exact",))
        configure(self.name, model, device)
        self.model = model
        self.on_cpu = device == "cpu"
        compiled = partial(jax.jit, compiler_options=dict(self.compiler_options(device)))
        self._train = compiled(self._scan, donate_argnums=0, static_argnums=4)
        self._predict = compiled(jax.vmap(self._output))

    @staticmethod
    def compiler_options(device: str) -> Mapping[str, Any]:
        """Return those that differ from XLA's own."""
        return CPU_OPTIONS if device == "cpu" else GPU_OPTIONS

    def init_many(self, params: Params) -> list[State]:
        """As `init`, for each group of seeds."""
        flat_RP = flat(params, self.model)
        zeros, step = np.zeros_like(flat_RP), np.zeros((), flat_RP.dtype)
        groups = self._groups(len(flat_RP))
        return [State(*map(jnp.array, (flat_RP[g], zeros[g], zeros[g], step))) for g in groups]

    def train_many(
        self, state: list[State], x_ERTB: Array, y_ERTB: Array
    ) -> tuple[list[State], Array]:
        """As `train`: one group of seeds after another, each over all epochs of the chunk."""
        x, y = jax.device_put((x_ERTB, y_ERTB))
        groups = self._groups(x.shape[1])
        trained = [
            self._train(rows, x, y, group.start, group.stop - group.start)
            for rows, group in zip(state, groups, strict=True)
        ]
        losses_ER = np.concatenate([np.asarray(losses) for _, losses in trained], axis=1)
        return [rows for rows, _ in trained], losses_ER

    def predict_many(self, state: list[State], x_RTN: Array) -> Array:
        """Return the outputs for every seed and step fed."""
        return np.asarray(self._predict(_flat(state), x_RTN))

    def params_many(self, state: list[State]) -> Params:
        """Return a copy of the parameters of every seed."""
        return {name: np.array(value) for name, value in cut(_flat(state), self.model).items()}

    def peak_gpu_mb(self) -> float | None:
        """Return the peak of live arrays."""
        return peak_gpu_mb()

    def _groups(self, seeds: int) -> Iterator[slice]:
        size = GROUP if self.on_cpu else seeds
        return (slice(first, min(first + size, seeds)) for first in range(0, seeds, size))

    def _output(self, flat_P: jax.Array, x_TB: jax.Array) -> jax.Array:
        weights = {name: value[0] for name, value in cut(flat_P[None], self.model).items()}
        f, _ = _activation(self.model)
        W_2 = weights["W_2"][0]
        v_H, c = W_2 @ weights["W_1"], W_2 @ weights["b_1"] + weights["b_2"][0]

        def step(h_HB: jax.Array, x_B: jax.Array) -> tuple[jax.Array, jax.Array]:
            h_HB = f(weights["W_hh"] @ h_HB + (weights["W_xh"] * x_B + weights["b_h"][:, None]))
            return h_HB, v_H @ h_HB + c

        h_HB = jnp.broadcast_to(weights["h0"][:, None], (self.model.hidden, x_TB.shape[1]))
        return lax.scan(step, h_HB, x_TB)[1]

    def _scan(
        self, state: State, x_ERTB: jax.Array, y_ERTB: jax.Array, first: jax.Array, seeds: int
    ) -> tuple[State, jax.Array]:
        hidden, fed, batch = self.model.hidden, x_ERTB.shape[2], x_ERTB.shape[3]
        tapes = Tapes(
            jnp.ones((seeds, hidden + 2, fed + 1, batch), x_ERTB.dtype),
            jnp.zeros((seeds, hidden + 1, fed + 1, batch), x_ERTB.dtype),
        )

        def of_epoch(array: jax.Array, epoch: jax.Array) -> jax.Array:
            return lax.dynamic_slice(array, (epoch, first, 0, 0), (1, seeds, *array.shape[2:]))[0]

        def step(carry: tuple[State, Tapes], epoch: jax.Array) -> tuple[Any, jax.Array]:
            return self._step(*carry, of_epoch(x_ERTB, epoch), of_epoch(y_ERTB, epoch))

        (state, _), losses_ER = lax.scan(step, (state, tapes), jnp.arange(len(x_ERTB)))
        return state, losses_ER

    def _step(
        self, state: State, tapes: Tapes, x_RTB: jax.Array, y_RTB: jax.Array
    ) -> tuple[tuple[State, Tapes], jax.Array]:
        weights = cut(state.flat, self.model)
        loss_R, gradient, tapes = loss_and_gradient(self.model, weights, x_RTB, y_RTB, tapes)
        seeds, rate = len(loss_R), self.model.learning_rate
        g = jnp.concatenate([gradient[n].reshape(seeds, -1) for n in self.model.shapes], axis=1)
        if self.model.optimiser == "sgd":
            return (state._replace(flat=state.flat - rate * g), tapes), loss_R
        step = state.step + 1
        mean = ADAM_BETA1 * state.mean + (1 - ADAM_BETA1) * g
        square = ADAM_BETA2 * state.square + (1 - ADAM_BETA2) * g * g
        root = jnp.sqrt(square / (1 - ADAM_BETA2**step)) + ADAM_EPS
        flat = state.flat - rate * (mean / (1 - ADAM_BETA1**step)) / root
        return (State(flat, mean, square, step), tapes), loss_R


def loss_and_gradient(
    model: Model, p: Weights, x_RTB: jax.Array, y_RTB: jax.Array, tapes: Tapes
) -> tuple[jax.Array, dict[str, jax.Array], Tapes]:
    """Return the loss [R], its derivative by every parameter, and the tapes that were written."""
    f, slope = _activation(model)
    scale = 2 / (y_RTB.shape[1] * y_RTB.shape[2])
    # The two linear layers as one: output = v h + c.
    v_R1H = (p["W_2"].swapaxes(1, 2) * p["W_1"]).sum(1, keepdims=True)
    c_R11 = (p["W_2"] * p["b_1"][:, None]).sum(2, keepdims=True) + p["b_2"][:, :, None]

    fed = _forward(p, x_RTB, tapes.fed, f)
    # The first two states, the initial one and that after x_0, are not scored.
    outputs = (v_R1H[:, :, k, None] * fed[:, k, 2:] for k in range(model.hidden))
    error_RTB = sum(outputs, start=c_R11 - y_RTB)
    scaled_RH1 = scale * v_R1H.swapaxes(1, 2)
    delta = _backward(p["W_hh"], scaled_RH1, error_RTB, fed, tapes.delta, slope)

    error_R1K = error_RTB.reshape(len(error_RTB), 1, -1)
    loss_R = (error_R1K @ error_R1K.swapaxes(1, 2))[:, 0, 0] * (scale / 2)
    return loss_R, _gradient(p, fed, delta, scale), Tapes(fed, delta)


def _forward(p: Weights, x_RTB: jax.Array, fed: jax.Array, f: Activation) -> jax.Array:
    """Return the tape of what the steps are fed, written from the first step to the last."""
    seeds, steps, batch = x_RTB.shape
    hidden = p["h0"].shape[1]
    all_RHF = jnp.concatenate([p["W_hh"], p["W_xh"], p["b_h"][:, :, None]], axis=2)

    def forth(t: jax.Array, fed: jax.Array) -> jax.Array:
        return _put(fed, f(_product(all_RHF, _at(fed, t))), t + 1)

    start_RHB = jnp.broadcast_to(p["h0"][:, :, None], (seeds, hidden, batch))
    fed = lax.dynamic_update_slice(_put(fed, start_RHB, 0), x_RTB[:, None], (0, hidden, 0, 0))
    written: jax.Array = lax.fori_loop(0, steps, forth, fed)
    return written


def _backward(
    W_RHH: jax.Array,
    scaled_RH1: jax.Array,
    error_RTB: jax.Array,
    fed: jax.Array,
    delta: jax.Array,
    slope: Activation,
) -> jax.Array:
    """Return the tape of the derivatives, written from the last step to the first."""
    hidden, steps = W_RHH.shape[1], error_RTB.shape[1]
    back_RHH = W_RHH.swapaxes(1, 2)

    def back(i: jax.Array, delta: jax.Array) -> jax.Array:
        t = steps - i
        after, h_RHB = _at(delta, t + 1), _at(fed, t + 1)[:, :hidden]
        error_R1B = after[:, hidden:]
        total = scaled_RH1 * error_R1B + _product(back_RHH, after[:, :hidden])
        return _put(delta, total * slope(h_RHB), t)

    delta = lax.dynamic_update_slice(delta, error_RTB[:, None], (0, hidden, 2, 0))
    written: jax.Array = lax.fori_loop(0, steps + 1, back, delta)
    return written


def _gradient(p: Weights, fed: jax.Array, delta: jax.Array, scale: float) -> dict[str, jax.Array]:
    """Return the derivative of the loss by every parameter."""
    hidden = p["h0"].shape[1]
    flat_RFK, flat_RDK = (tape.reshape(*tape.shape[:2], -1) for tape in (fed, delta))
    sums_RDF = jnp.einsum("rdk,rfk->rdf", flat_RDK, flat_RFK)
    g_RHF, g_v_R1H = sums_RDF[:, :hidden], scale * sums_RDF[:, hidden:, :hidden]
    g_c_R11 = scale * sums_RDF[:, hidden:, hidden + 1 :]
    g_start_RH1 = _at(delta, 0)[:, :hidden].sum(2, keepdims=True)
    return {
        "h0": (p["W_hh"] * g_start_RH1).sum(1),
        "W_xh": g_RHF[:, :, hidden, None],
        "W_hh": g_RHF[:, :, :hidden],
        "b_h": g_RHF[:, :, hidden + 1],
        "W_1": p["W_2"].swapaxes(1, 2) * g_v_R1H,
        "b_1": p["W_2"][:, 0] * g_c_R11[:, 0],
        "W_2": (p["W_1"] * g_v_R1H).sum(2) + p["b_1"] * g_c_R11[:, 0],
        "b_2": g_c_R11[:, 0],
    }


def _flat(state: list[State]) -> jax.Array:
    return jnp.concatenate([group.flat for group in state])


def _at(tape: jax.Array, t: jax.Array | int) -> jax.Array:
    place: jax.Array = lax.dynamic_index_in_dim(
        tape, t, 2, keepdims=False, allow_negative_indices=False
    )
    return place


def _put(tape: jax.Array, rows: jax.Array, t: jax.Array | int) -> jax.Array:
    """Write the first rows of place t."""
    where = (0, 0, t, 0)
    return lax.dynamic_update_slice(tape, rows[:, :, None], where, allow_negative_indices=False)


def _product(W: jax.Array, h: jax.Array) -> jax.Array:
    """Return W h as a sum over columns of W, which XLA makes one loop over the batch."""
    if W.shape[2] > COLUMNS:
        return W @ h
    columns = (W[:, :, k, None] * h[:, None, k] for k in range(W.shape[2]))
    total: jax.Array = sum(columns, start=next(columns))
    return total


def _activation(model: Model) -> tuple[Activation, Activation]:
    """Return the activation, and its derivative in terms of its value."""
    if model.activation == "relu":
        return jax.nn.relu, lambda h: jnp.where(h > 0, 1, 0).astype(h.dtype)
    return _tanh if model.dtype == "float32" else jnp.tanh, lambda h: 1 - h * h


# tanh(x) = x P(x^2) / Q(x^2) for |x| < 7.9, where it is 1 to the last place of float32.
_P = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


def _tanh(x: jax.Array) -> jax.Array:
    x = jnp.clip(x, -7.90531, 7.90531)
    return x * jnp.polyval(jnp.array(_P), x * x) / jnp.polyval(jnp.array(_Q), x * x)
