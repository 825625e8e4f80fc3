"""The training step, fused by hand for one core: forward, backward, gradients, optimiser.

W paths are one vector (`floor_lanes`). They go through all steps, forward and back, before the next
W. Two arrays hold what a step needs, as rows of W; both are [T+2, K, W], and K >= H+2:

    U[t] = 1, x_t, h_{t-1}, 0 ...           what step t reads
    V[t] = g_{t-1}, d_t, 0 ...              derivatives of the loss by output t-1 and, through
                                            the activation, by what goes into step t

So each part of the step is a product of matrices. With A = [b_h | W_xh | W_hh], and v the two
linear layers in one (there is no activation between them):

    h_t = f(A U[t])        output_t = v h_t + c        d_t = f'(h_t) * ([v | W_hh^T] V[t+1])
    sum over t and paths of V[t] (x) U[t] = the gradients of c and v (first row) and of A

Every product is computed in tiles of two rows or more: each vector that is loaded is used twice,
and the multiply-adds of one row need not wait for those of the other.

numba compiles functions, so every part is a function that returns compiled functions for given
vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import get_thread_id, prange

from backends.floor_activations import activation_and_slope
from backends.floor_lanes import Vectors, compiled, vectors
from backends.floor_layout import REGISTER, A, Work
from harness.backend.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS
from harness.backend.protocol import Array

_BLOCK = 8
"""Steps whose rows of U and V fit into the first-level cache together."""


class Kernels(NamedTuple):
    """Compiled for one dtype, activation and width; hidden units, steps and paths are free."""

    train: Callable[..., None]
    predict: Callable[..., None]


@cache
def kernels(dtype: str, activation: str, lanes: int, parallel: bool) -> Kernels:
    """Return the compiled functions; with `parallel`, the threads share the seeds."""
    register = REGISTER // np.dtype(dtype).itemsize
    wide, narrow = vectors(dtype, lanes), vectors(dtype, register)
    f, slope = activation_and_slope(activation, dtype, wide)
    product, paths = _product(wide), _paths(wide, lanes)
    start, step = _step(wide, product, f)
    collapse, output = _head(wide, dtype)
    forward = _forward(wide, dtype, paths, step, output)
    backward = _backward(wide, _step_back(wide, product, slope), _outer(narrow, lanes, register))
    sweep = _sweep(wide, narrow, dtype, lanes, collapse, start, forward, backward)
    train = _train(sweep, _spread(narrow), _update(dtype))
    predict = _predict(wide, lanes, paths, collapse, start, step, output)
    options: Any = {"error_model": "numpy", "no_cfunc_wrapper": True, "parallel": parallel}
    return Kernels(numba.njit(train, **options), numba.njit(predict, **options))


def _product(wide: Vectors) -> Any:
    load, each = wide.load, wide.each

    @compiled
    def product(table: Array, row: int, rows: Array, t: int, count: int, a: Any, b: Any) -> Any:
        """Return a and b plus two rows of a table times rows 1, 2, ... count-1 at t."""
        for k in range(1, count):
            vector = load(rows, (t, k, 0))
            a += each(table[row, k]) * vector
            b += each(table[row + 1, k]) * vector
        return a, b

    return product


def _paths(wide: Vectors, lanes: int) -> Any:
    load = wide.load

    @compiled
    def paths(x_TB: Array, t: int, first: int, spare: Array) -> Any:
        """Return a vector of x_TB[t]; beyond the batch its last path is repeated."""
        if first + lanes <= x_TB.shape[1]:
            return load(x_TB, (t, first))
        for lane in range(lanes):
            spare[0, lane] = x_TB[t, min(first + lane, x_TB.shape[1] - 1)]
        return load(spare, (0, 0))

    return paths


def _step(wide: Vectors, product: Any, f: Any) -> tuple[Any, Any]:
    store, each = wide.store, wide.each

    @compiled
    def start(params: Array, U: Array) -> None:
        """Put the initial state where step 0 reads it."""
        for k in range(2, params.shape[1]):
            store(U, (0, k, 0), each(params[0, k]))

    @compiled
    def step(params: Array, U: Array, t: int) -> None:
        """h_t = f(A U[t])."""
        units, count = params.shape[0] - A, params.shape[1]
        for i in range(0, units, 2):
            a, b = each(params[A + i, 0]), each(params[A + i + 1, 0])
            a, b = product(params, A + i, U, t, count, a, b)
            store(U, (t + 1, 2 + i, 0), f(a))
            store(U, (t + 1, 3 + i, 0), f(b))

    return start, step


def _step_back(wide: Vectors, product: Any, slope: Any) -> Any:
    load, store, each = wide.load, wide.store, wide.each

    @compiled
    def step_back(B: Array, U: Array, V: Array, t: int) -> None:
        """d_t = f'(h_t) * (B V[t+1])."""
        g = load(V, (t + 1, 0, 0))
        for k in range(0, B.shape[0], 2):
            a, b = each(B[k, 0]) * g, each(B[k + 1, 0]) * g
            a, b = product(B, k, V, t + 1, B.shape[1], a, b)
            store(V, (t, 1 + k, 0), a * slope(load(U, (t + 1, 2 + k, 0))))
            store(V, (t, 2 + k, 0), b * slope(load(U, (t + 1, 3 + k, 0))))

    return step_back


def _outer(narrow: Vectors, lanes: int, register: int) -> Any:
    load_1, store_1 = narrow.load, narrow.store

    @compiled
    def outer(V: Array, U: Array, first: int, last: int, G: Array) -> None:
        """G += V[t] (x) U[t], summed over some t, in tiles of 2 x 4 that stay in registers."""
        for i in range(0, G.shape[0], 2):
            for k in range(0, G.shape[1], 4):
                a0, b0 = load_1(G, (i, k, 0)), load_1(G, (i + 1, k, 0))
                a1, b1 = load_1(G, (i, k + 1, 0)), load_1(G, (i + 1, k + 1, 0))
                a2, b2 = load_1(G, (i, k + 2, 0)), load_1(G, (i + 1, k + 2, 0))
                a3, b3 = load_1(G, (i, k + 3, 0)), load_1(G, (i + 1, k + 3, 0))
                for t in range(first, last):
                    for lane in range(0, lanes, register):
                        a, b = load_1(V, (t, i, lane)), load_1(V, (t, i + 1, lane))
                        u = load_1(U, (t, k, lane))
                        a0, b0 = a0 + a * u, b0 + b * u
                        u = load_1(U, (t, k + 1, lane))
                        a1, b1 = a1 + a * u, b1 + b * u
                        u = load_1(U, (t, k + 2, lane))
                        a2, b2 = a2 + a * u, b2 + b * u
                        u = load_1(U, (t, k + 3, lane))
                        a3, b3 = a3 + a * u, b3 + b * u
                store_1(G, (i, k, 0), a0), store_1(G, (i + 1, k, 0), b0)
                store_1(G, (i, k + 1, 0), a1), store_1(G, (i + 1, k + 1, 0), b1)
                store_1(G, (i, k + 2, 0), a2), store_1(G, (i + 1, k + 2, 0), b2)
                store_1(G, (i, k + 3, 0), a3), store_1(G, (i + 1, k + 3, 0), b3)

    return outer


def _head(wide: Vectors, dtype: str) -> tuple[Any, Any]:
    number: Any = np.dtype(dtype).type
    load, each, zero = wide.load, wide.each, number(0)

    @compiled
    def collapse(params: Array, B: Array) -> Any:
        """Leave [v | W_hh^T] in B and return c: the two linear layers as one."""
        hidden, c = B.shape[1] - 1, params[0, 0]
        for d in range(1, A):
            c += params[d, 1] * params[d, 0]
        for k in range(hidden):
            v = zero
            for d in range(1, A):
                v += params[d, 1] * params[d, 2 + k]
            B[k, 0] = v
            for i in range(hidden):
                B[k, 1 + i] = params[A + i, 2 + k]
        return c

    @compiled
    def output(B: Array, c: Any, U: Array, t: int) -> Any:
        """output_t = v h_t + c."""
        a, b = each(c), each(zero)
        for k in range(0, B.shape[0], 2):
            a += each(B[k, 0]) * load(U, (t + 1, 2 + k, 0))
            b += each(B[k + 1, 0]) * load(U, (t + 1, 3 + k, 0))
        return a + b

    return collapse, output


def _forward(wide: Vectors, dtype: str, paths: Any, step: Any, output: Any) -> Any:
    number: Any = np.dtype(dtype).type
    load, store, each = wide.load, wide.store, wide.each

    @compiled
    def forward(
        params: Array, c: Any, x_TB: Array, y_TB: Array, first: int, work: Work, me: int, loss: Any
    ) -> Any:
        """Run the steps with the paths from `first` on; return `loss` plus their squared errors."""
        U, V, B, spare = work.U[me], work.V[me], work.B[me], work.spare[me]
        scale = each(number(2 / (y_TB.shape[0] * y_TB.shape[1])))
        for t in range(y_TB.shape[0] + 1):
            store(U, (t, 1, 0), paths(x_TB, t, first, spare))
            step(params, U, t)
            if t == 0:
                continue
            error = output(B, c, U, t) - paths(y_TB, t - 1, first, spare)
            error = error * load(spare, (1, 0))
            loss += error * error
            store(V, (t + 1, 0, 0), scale * error)
        return loss

    return forward


def _backward(wide: Vectors, step_back: Any, outer: Any) -> Any:
    load, each, total = wide.load, wide.each, wide.total

    @compiled
    def backward(steps: int, zero: Any, work: Work, me: int) -> None:
        """Run the steps back; add to the gradients in G, and to that of h0."""
        U, V, G, B, gradient = work.U[me], work.V[me], work.G[me], work.B[me], work.gradient[me]
        for last in range(steps + 2, 0, -_BLOCK):
            earliest = max(last - _BLOCK, 0)
            for t in range(min(last - 1, steps), earliest - 1, -1):
                step_back(B, U, V, t)
            outer(V, U, earliest, last, G)
        for k in range(B.shape[1] - 1):
            h = each(zero)
            for i in range(1, B.shape[1]):
                h += each(B[k, i]) * load(V, (0, i, 0))
            gradient[0, 2 + k] += total(h)

    return backward


def _sweep(
    wide: Vectors,
    narrow: Vectors,
    dtype: str,
    lanes: int,
    collapse: Any,
    start: Any,
    forward: Any,
    backward: Any,
) -> Any:
    number: Any = np.dtype(dtype).type
    each, total, store_1, each_1 = wide.each, wide.total, narrow.store, narrow.each
    zero, one = number(0), number(1)

    @compiled
    def sweep(params: Array, x_TB: Array, y_TB: Array, work: Work, me: int) -> Any:
        """Return the loss; leave its derivatives in G, and those by h0 in their place."""
        G, gradient, spare = work.G[me], work.gradient[me], work.spare[me]
        steps, batch = y_TB.shape
        c = collapse(params, work.B[me])
        for k in range(gradient.shape[1]):
            gradient[0, k] = zero
        for i in range(G.shape[0]):
            for k in range(G.shape[1]):
                store_1(G, (i, k, 0), each_1(zero))
        loss = each(zero)
        for first in range(0, batch, lanes):
            for lane in range(lanes):
                spare[1, lane] = one if first + lane < batch else zero
            start(params, work.U[me])
            loss = forward(params, c, x_TB, y_TB, first, work, me, loss)
            backward(steps, zero, work, me)
        return total(loss) / number(steps * batch)

    return sweep


def _spread(narrow: Vectors) -> Any:
    load_1, total_1 = narrow.load, narrow.total

    @compiled
    def spread(params: Array, G: Array, gradient: Array) -> None:
        """Bring the derivatives from G to the places of the parameters they belong to."""
        for i in range(params.shape[1] - 2):
            for k in range(params.shape[1]):
                gradient[A + i, k] = total_1(load_1(G, (1 + i, k, 0)))
        g_c = total_1(load_1(G, (0, 0, 0)))
        gradient[0, 0] = g_c
        for d in range(1, A):
            gradient[d, 0] = params[d, 1] * g_c
            gradient[d, 1] = params[d, 0] * g_c
        for k in range(2, params.shape[1]):
            g_v = total_1(load_1(G, (0, k, 0)))
            for d in range(1, A):
                gradient[d, k] = params[d, 1] * g_v
                gradient[d, 1] += params[d, k] * g_v

    return spread


def _update(dtype: str) -> Any:
    number: Any = np.dtype(dtype).type

    @compiled
    def update(
        params: Array, gradient: Array, mean: Array, square: Array, n: int, rate: float, adam: bool
    ) -> None:
        """Step n of Adam (Kingma and Ba 2015, algorithm 1) or of plain gradient descent."""
        mean_scale = number(rate / (1 - ADAM_BETA1**n))
        square_scale = number(1 / (1 - ADAM_BETA2**n))
        for i in range(params.shape[0]):
            for k in range(params.shape[1]):
                g = gradient[i, k]
                if not adam:
                    params[i, k] -= number(rate) * g
                    continue
                mean[i, k] = number(ADAM_BETA1) * mean[i, k] + number(1 - ADAM_BETA1) * g
                square[i, k] = number(ADAM_BETA2) * square[i, k] + number(1 - ADAM_BETA2) * g * g
                root = np.sqrt(square_scale * square[i, k]) + number(ADAM_EPS)
                params[i, k] -= mean_scale * mean[i, k] / root

    return update


def _train(sweep: Any, spread: Any, update: Any) -> Any:
    def train(
        params_R: Array,
        mean_R: Array,
        square_R: Array,
        done: int,
        rate: float,
        adam: bool,
        x_ERTB: Array,
        y_ERTB: Array,
        losses_ER: Array,
        work: Work,
    ) -> None:
        """Take E optimiser steps with each network, in place."""
        for r in prange(len(params_R)):
            me = get_thread_id()
            for e in range(len(losses_ER)):
                losses_ER[e, r] = sweep(params_R[r], x_ERTB[e, r], y_ERTB[e, r], work, me)
                gradient = work.gradient[me]
                spread(params_R[r], work.G[me], gradient)
                update(params_R[r], gradient, mean_R[r], square_R[r], done + e + 1, rate, adam)

    return train


def _predict(
    wide: Vectors, lanes: int, paths: Any, collapse: Any, start: Any, step: Any, output: Any
) -> Any:
    store = wide.store

    def predict(params_R: Array, x_RTN: Array, output_RTN: Array, work: Work) -> None:
        """Leave in output_RTN one output per step fed."""
        for r in prange(len(params_R)):
            me = get_thread_id()
            U, B, spare = work.U[me], work.B[me], work.spare[me]
            c = collapse(params_R[r], B)
            for first in range(0, x_RTN.shape[2], lanes):
                start(params_R[r], U)
                for t in range(x_RTN.shape[1]):
                    store(U, (t, 1, 0), paths(x_RTN[r], t, first, spare))
                    step(params_R[r], U, t)
                    store(spare, (1, 0), output(B, c, U, t))
                    for lane in range(min(lanes, x_RTN.shape[2] - first)):
                        output_RTN[r, t, first + lane] = spare[1, lane]

    return predict
