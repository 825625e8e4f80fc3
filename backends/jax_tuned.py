"""JAX as far as it goes: the one-layer rnn, its gradient by hand, laid out for XLA's loops.

What is done, and why (`docs/performance.md` has what each buys):
- the batch is the last axis, [H, B], so that it fills vector registers; a product with W_hh is
  written as a sum of outer products, which XLA fuses with the activation into one loop, where a
  `dot` of this size is a call into a library;
- there is no activation between the two linear layers, so the head is one vector W_2 W_1 and a
  scalar, and all its gradients follow from the sums of g and of g h over time and batch;
- one scan goes back through time and adds up every gradient on the way: nothing but h is kept;
- tanh in float32 is a quotient of polynomials, good to a few units in the last place;
- parameters, and Adam's moments, are one flat vector;
- seeds in groups of `LANES`, as the last axis of everything: weights differ from lane to lane, and
  no operation has to broadcast them.

So every array below may have one more axis at its end, the lanes R; the formulas are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import gcd, prod
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from backends.jax_backend import CPU_OPTIONS, configure, peak_gpu_mb
from harness.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, Model
from harness.protocol import Array, Params

LANES = 8  # Of float32 in a vector register of AVX2, the width that most machines have.

Weights: TypeAlias = Mapping[str, jax.Array]


class State(NamedTuple):
    """The parameters in one flat vector, Adam's two moments and the number of steps taken."""

    flat: jax.Array
    mean: jax.Array
    square: jax.Array
    step: jax.Array


class SeedsState(NamedTuple):
    """Groups of `LANES` seeds [groups, P, R], and one after another those left over [seeds, P]."""

    lanes: State
    rest: State


class JaxTunedBackend:
    """Trains a chunk in one call; the gradient is a pair of scans written by hand."""

    name = "jax-tuned"

    def __init__(self, model: Model, device: str) -> None:
        model.require(self.name, cell=("rnn",), layers=(1,))
        configure(self.name, model, device)
        self.model = model
        compiled = partial(jax.jit, compiler_options=CPU_OPTIONS if device == "cpu" else None)
        self._train = compiled(self._scan, donate_argnums=0)
        self._train_many = compiled(self._scan_many, donate_argnums=0)
        self._predict = compiled(self._output)
        self._predict_many = compiled(jax.vmap(self._output))

    def init(self, params: Params) -> State:
        """Lay the parameters out in one vector; the moments start at zero."""
        return _fresh(np.concatenate([params[name].ravel() for name in self.model.shapes]))

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Scan the epochs of the chunk on the device."""
        state, losses_E = self._train(state, x_ETB, y_ETB)
        return state, np.asarray(losses_E)

    def predict(self, state: State, x_TN: Array) -> Array:
        """Return the outputs for every step fed."""
        return np.asarray(self._predict(state.flat, x_TN))

    def params(self, state: State) -> Params:
        """Return a copy of the parameters."""
        return {name: np.array(value) for name, value in self._weights(state.flat).items()}

    def init_many(self, params: Params) -> SeedsState:
        """As `init`, with whole groups of seeds side by side."""
        seeds = len(params["h0"])
        flat = np.concatenate([params[n].reshape(seeds, -1) for n in self.model.shapes], axis=1)
        lanes, rest = _grouped(flat, axis=0)
        return SeedsState(_fresh(lanes, groups=True), _fresh(rest, groups=True))

    def train_many(
        self, state: SeedsState, x_ERTB: Array, y_ERTB: Array
    ) -> tuple[SeedsState, Array]:
        """As `train`: one group of seeds after another, each over all epochs of the chunk."""
        state, losses_ER = self._train_many(state, x_ERTB, y_ERTB)
        return state, np.asarray(losses_ER)

    def predict_many(self, state: SeedsState, x_RTN: Array) -> Array:
        """Return the outputs for every seed and step fed."""
        return np.asarray(self._predict_many(_ungrouped(state), x_RTN))

    def params_many(self, state: SeedsState) -> Params:
        """Return a copy of the parameters of every seed."""
        many = jax.vmap(self._weights)(_ungrouped(state))
        return {name: np.array(value) for name, value in many.items()}

    def peak_gpu_mb(self) -> float:
        """Return the peak of live arrays."""
        return peak_gpu_mb()

    def _weights(self, flat: jax.Array) -> dict[str, jax.Array]:
        """Cut the flat vector [P] or [P, R] into the parameters, each with the lanes at its end."""
        weights, first = {}, 0
        for name, shape in self.model.shapes.items():
            last = first + prod(shape)
            weights[name] = flat[first:last].reshape(*shape, *flat.shape[1:])
            first = last
        return weights

    def _output(self, flat: jax.Array, x_TB: jax.Array) -> jax.Array:
        weights = self._weights(flat)
        f, _ = _activation(self.model)
        v, c = _head(weights)

        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = f(_argument(weights, h, x))
            return h, (v[:, None] * h).sum(0) + c

        h0 = jnp.broadcast_to(weights["h0"][:, None], (self.model.hidden, x_TB.shape[1]))
        return jax.lax.scan(step, h0, x_TB)[1]

    def _step(self, state: State, batch: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        loss, gradient = loss_and_gradient(self.model, self._weights(state.flat), *batch)
        lanes = state.flat.shape[1:]
        g = jnp.concatenate([gradient[n].reshape(-1, *lanes) for n in self.model.shapes])
        rate = self.model.learning_rate
        if self.model.optimiser == "sgd":
            return state._replace(flat=state.flat - rate * g), loss
        step = state.step + 1
        mean = ADAM_BETA1 * state.mean + (1 - ADAM_BETA1) * g
        square = ADAM_BETA2 * state.square + (1 - ADAM_BETA2) * g * g
        root = jnp.sqrt(square / (1 - ADAM_BETA2**step)) + ADAM_EPS
        flat = state.flat - rate * (mean / (1 - ADAM_BETA1**step)) / root
        return State(flat, mean, square, step), loss

    def _scan(self, state: State, x_E: jax.Array, y_E: jax.Array) -> tuple[State, jax.Array]:
        return jax.lax.scan(self._step, state, (x_E, y_E))

    def _scan_many(
        self, state: SeedsState, x_ERTB: jax.Array, y_ERTB: jax.Array
    ) -> tuple[SeedsState, jax.Array]:
        (x, x_rest), (y, y_rest) = _grouped(x_ERTB, axis=1), _grouped(y_ERTB, axis=1)
        lanes, losses_GER = jax.lax.map(lambda group: self._scan(*group), (state.lanes, x, y))
        rest, losses_RE = jax.lax.map(lambda one: self._scan(*one), (state.rest, x_rest, y_rest))
        losses_EG = losses_GER.swapaxes(0, 1).reshape(len(x_ERTB), -1)
        return SeedsState(lanes, rest), jnp.concatenate([losses_EG, losses_RE.T], axis=1)


def loss_and_gradient(
    model: Model, p: Weights, x_TB: jax.Array, y_TB: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the loss and its derivative by every parameter; all may have lanes at their end."""
    f, slope = _activation(model)
    v, c = _head(p)
    v, W_T = v[:, None], p["W_hh"].swapaxes(0, 1)
    lanes = p["h0"].shape[1:]

    def zeros(*shape: int) -> jax.Array:
        return jnp.zeros((*shape, *lanes), x_TB.dtype)

    def forth(h: jax.Array, batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
        x, y = batch
        h = f(_argument(p, h, x))
        return h, (h, (v * h).sum(0) + c - y)

    # The first step is not scored, and the state before it is the same for the whole batch.
    first = f(_argument(p, p["h0"][:, None], x_TB[0]))
    _, (h_THB, error_TB) = jax.lax.scan(forth, first, (x_TB[1:], y_TB))
    scale = 2 / (y_TB.shape[0] * y_TB.shape[1])

    def back(sums: tuple[jax.Array, ...], tape: tuple[jax.Array, ...]) -> tuple[Any, None]:
        delta, g_W, g_b, g_x, g_v = sums  # delta is that of the step after this one.
        h, error, x = tape
        g_W = g_W + _outer(delta, h)
        delta = (scale * v * error + _product(W_T, delta)) * slope(h)
        return (delta, g_W, g_b + delta, g_x + delta * x, g_v + error * h), None

    hidden, batch = h_THB.shape[1:3]
    start = [zeros(hidden, batch)] * 4
    start.insert(1, jnp.zeros_like(_outer(start[0], start[0])))
    sums, _ = jax.lax.scan(back, tuple(start), (h_THB, error_TB, x_TB[1:]), reverse=True)
    delta, g_W, g_b, g_x, g_v = sums

    g_W = g_W + _outer(delta, first)
    delta = _product(W_T, delta) * slope(first)
    g_start = delta.sum(1)
    g_v, g_c = scale * g_v.sum(1), scale * error_TB.sum(0).sum(0)
    return (error_TB * error_TB).sum(0).sum(0) * (scale / 2), {
        "h0": (W_T * g_start).sum(1),
        "W_xh": (g_x + delta * x_TB[0]).sum(1)[:, None],
        "W_hh": (g_W if lanes else g_W.sum(2)) + g_start[:, None] * p["h0"],
        "b_h": g_b.sum(1) + g_start,
        "W_1": p["W_2"].swapaxes(0, 1) * g_v,
        "b_1": p["W_2"][0] * g_c,
        "W_2": ((p["W_1"] * g_v).sum(1) + p["b_1"] * g_c)[None],
        "b_2": g_c[None],
    }


def _argument(p: Weights, h: jax.Array, x: jax.Array) -> jax.Array:
    """Return what the activation is applied to: [H, B]."""
    return _product(p["W_hh"], h) + (p["W_xh"] * x + p["b_h"][:, None])


def _product(W: jax.Array, h: jax.Array) -> jax.Array:
    """Return W h as a sum over columns of W, which XLA makes one loop over the batch."""
    total = W[:, 0, None] * h[0]
    for k in range(1, W.shape[1]):
        total = total + W[:, k, None] * h[k]
    return total


def _outer(delta: jax.Array, h: jax.Array) -> jax.Array:
    """Return the sum over the batch of delta h^T, but for what fills a register: [H, H, R].

    Without lanes of seeds, every R-th path of the batch is a lane, to be summed after the loop.
    """
    hidden, batch = h.shape[:2]
    if h.ndim == 2:
        lanes = gcd(batch, LANES)
        delta, h = (a.reshape(hidden, -1, lanes) for a in (delta, h))
        return (delta[:, None] * h[None]).sum(2)
    total = delta[:, None, 0] * h[None, :, 0]
    for b in range(1, batch):
        total = total + delta[:, None, b] * h[None, :, b]
    return total


def _head(p: Weights) -> tuple[jax.Array, jax.Array]:
    """Return v [H] and c of the head in one: output = v h + c."""
    W_2 = p["W_2"][0]
    return (W_2[:, None] * p["W_1"]).sum(0), (W_2 * p["b_1"]).sum(0) + p["b_2"][0]


def _activation(model: Model) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
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


def _fresh(flat: Array, groups: bool = False) -> State:
    zeros = jnp.zeros_like(flat)
    step = jnp.zeros(flat.shape[:1] if groups else (), flat.dtype)
    return State(jnp.array(flat), zeros, zeros.copy(), step)


def _grouped(array: Any, axis: int) -> tuple[Any, Any]:
    """Split the axis of the seeds: [groups, ..., R], and [seeds left over, ...]."""
    whole = array.shape[axis] // LANES * LANES
    array = array.swapaxes(0, axis)
    lanes = array[:whole].reshape(-1, LANES, *array.shape[1:])
    return lanes.transpose(0, *range(2, lanes.ndim), 1), array[whole:]


def _ungrouped(state: SeedsState) -> jax.Array:
    """Return the flat parameters of every seed, [R, P]."""
    lanes = state.lanes.flat.swapaxes(1, 2)
    return jnp.concatenate([lanes.reshape(-1, lanes.shape[2]), state.rest.flat])
