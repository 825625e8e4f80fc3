"""The training step, fused by hand for one core: forward, backward, gradients, optimiser.

W paths are one vector (`floor_lanes`), and are taken through all steps, forward and back, before
the next W. Two arrays hold what a step needs, as rows of W; both are [T+2, K, W], and K >= H+2:

    U[t] = 1, x_t, h_{t-1}, 0 ...           what step t reads
    V[t] = g_{t-1}, d_t, 0 ...              derivatives of the loss by output t-1 and, through
                                            the activation, by what goes into step t

So each part of the step is a product of matrices. With A = [b_h | W_xh | W_hh] and v the two
linear layers in one, as no activation is between them:

    h_t = f(A U[t])        output_t = v h_t + c        d_t = f'(h_t) * ([v | W_hh^T] V[t+1])
    sum over t and paths of V[t] (x) U[t] = the gradients of c and v (first row) and of A

Every product is computed in tiles of two rows or more, so that a vector that was loaded is used
twice and the multiply-adds of one need not wait for those of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba import get_thread_id, prange

from backends.floor_lanes import Vectors, vectors
from harness.backend.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, HEAD
from harness.backend.protocol import Array

REGISTER = 32
"""Bytes of a vector register (AVX2); others are put together from these by LLVM, or split."""
_LINE = 64
"""Bytes of a line of the cache."""
_WIDEST = 4
"""Registers in a vector: enough independent multiply-adds to hide the time that each takes."""
_BLOCK = 8
"""Steps whose rows of U and V stay in the first-level cache while they are multiplied."""
HEADS = slice(1, 1 + HEAD)
A = 1 + HEAD
"""The parameters of a network are one table of 2 + H columns:

    row 0             b_2     -      h0
    rows HEADS        b_1     W_2    W_1
    rows A, A+1 ...   b_h     W_xh   W_hh

If H is odd, there is one row more, which is and stays 0.
"""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function for the others here; a division by zero gives an infinity or a NaN."""
    options: Any = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast("_Function", numba.njit(function, **options))


def entry(function: _Function, parallel: bool) -> _Function:
    """Compile a function that Python calls."""
    options: Any = {"error_model": "numpy", "no_cfunc_wrapper": True, "parallel": parallel}
    return cast("_Function", numba.njit(function, **options))


def width(dtype: str, paths: int) -> int:
    """Return the numbers in the vectors that suit a batch of so many paths."""
    register = REGISTER // np.dtype(dtype).itemsize
    registers = -(-paths // register)
    return register * min(_WIDEST, 1 << (registers - 1).bit_length())


def named(table: Array, hidden: int) -> dict[str, Array]:
    """Return the parameters by name: views of a table of all of them, [1 + D + H, 2 + H]."""
    layer, units = slice(A, A + hidden), slice(2, None)
    return {
        "h0": table[0, units],
        "W_xh": table[layer, 1:2],
        "W_hh": table[layer, units],
        "b_h": table[layer, 0],
        "W_1": table[HEADS, units],
        "b_1": table[HEADS, 0],
        "W_2": table[HEADS, 1][None],
        "b_2": table[0, :1],
    }


def even(number: int) -> int:
    """Return the number of rows once the last has a partner."""
    return number + number % 2


def aligned(shape: tuple[int, ...], dtype: str) -> Array:
    """Return zeros, none of whose vectors lies across two lines of the cache."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + _LINE, np.uint8)
    begin = -room.ctypes.data % _LINE
    array: Array = room[begin : begin + size].view(dtype).reshape(shape)
    return array


class Work(NamedTuple):
    """Room for one sweep, for each thread."""

    U: Array
    V: Array
    G: Array
    """Sums over t of V[t] (x) U[t], not yet over the numbers of a register: [H+1, K, register]."""
    B: Array
    """[v | W_hh^T], [H, 1+H]."""
    gradient: Array
    """By every parameter, as a table like that of the parameters."""
    spare: Array
    """Two vectors."""

    @classmethod
    def make(cls, threads: int, steps: int, hidden: int, dtype: str, lanes: int) -> Work:
        """Return zeros, and the ones of U."""
        rows = -(-(hidden + 2) // 4) * 4
        register = REGISTER // np.dtype(dtype).itemsize
        shapes = (
            (steps + 2, rows, lanes),
            (steps + 2, rows, lanes),
            (even(hidden + 1), rows, register),
            (even(hidden), hidden + 1),
            (A + even(hidden), hidden + 2),
            (2, lanes),
        )
        work = cls(*(aligned((threads, *shape), dtype) for shape in shapes))
        work.U[:, :, 0] = 1
        return work


def _tanh32(wide: Vectors) -> Any:
    """Return the tanh of Eigen, x P(x^2) / Q(x^2): within three units in the last place."""
    each, where_less, limit, one = wide.each, wide.where_less, np.float32(7.9), np.float32(1)
    p1, p2, p3, p4 = map(
        np.float32, (1.340216100e-1, 3.520756727e-3, 2.102733560e-5, 1.394553628e-8)
    )
    q1, q2, q3, q4 = map(
        np.float32, (4.673548340e-1, 2.597254514e-2, 3.326951409e-4, 8.015776984e-7)
    )

    def tanh(x: Any) -> Any:
        x = where_less(each(limit), x, each(limit), x)
        x = where_less(x, each(-limit), each(-limit), x)
        s = x * x
        p = (((each(p4) * s + each(p3)) * s + each(p2)) * s + each(p1)) * s + each(one)
        q = (((each(q4) * s + each(q3)) * s + each(q2)) * s + each(q1)) * s + each(one)
        return x * p / q

    return compiled(tanh)


def _tanh64(wide: Vectors) -> Any:
    """Return (e^2x - 1) / (e^2x + 1); e^2x = 2^n e^r, and e^r is a series as |r| <= log(2) / 2."""
    each, where_less, two_to = wide.each, wide.where_less, wide.two_to
    limit, shift, per_log2 = 20.0, 1.5 * 2.0**52, 2 / math.log(2)
    # log(2) / 2 in two parts, of which the first has few enough bits for n * high to be exact.
    high = round(math.log(2) / 2 * 2**40) / 2**40
    low = math.log(2) / 2 - high
    terms = tuple(1 / math.factorial(k) for k in range(13, 0, -1))

    def tanh(x: Any) -> Any:
        x = where_less(each(limit), x, each(limit), x)
        x = where_less(x, each(-limit), each(-limit), x)
        shifted = x * each(per_log2) + each(shift)
        n = shifted - each(shift)
        r = x - n * each(high)
        r = r - n * each(low)
        r = r + r
        s = each(terms[0])
        for k in range(1, len(terms)):
            s = s * r + each(terms[k])
        power = two_to(shifted)
        less_one = power * (s * r) + (power - each(1.0))
        return less_one / (less_one + each(2.0))

    return compiled(tanh)


def activation_and_slope(name: str, dtype: str, wide: Vectors) -> tuple[Any, Any]:
    """Return f and its derivative as a function of f's value."""
    number: Any = np.dtype(dtype).type
    each, where_less, zero, one = wide.each, wide.where_less, number(0), number(1)
    if name == "relu":
        return (
            compiled(lambda x: where_less(x, each(zero), each(zero), x)),
            compiled(lambda h: where_less(each(zero), h, each(one), each(zero))),
        )
    tanh = _tanh32(wide) if dtype == "float32" else _tanh64(wide)
    return tanh, compiled(lambda h: each(one) - h * h)


class Kernels(NamedTuple):
    """Compiled for one dtype, activation and width; hidden units, steps and paths are free."""

    train: Callable[..., None]
    predict: Callable[..., None]


@cache
def kernels(dtype: str, activation: str, lanes: int, parallel: bool) -> Kernels:
    """Return the compiled functions; with `parallel`, the seeds are shared among the threads."""
    number: Any = np.dtype(dtype).type
    register = REGISTER // np.dtype(dtype).itemsize
    wide, narrow = vectors(dtype, lanes), vectors(dtype, register)
    load, store, each, total = wide.load, wide.store, wide.each, wide.total
    load_1, store_1, each_1, total_1 = narrow.load, narrow.store, narrow.each, narrow.total
    f, slope = activation_and_slope(activation, dtype, wide)
    zero, one = number(0), number(1)

    @compiled
    def product(table: Array, row: int, rows: Array, t: int, count: int, a: Any, b: Any) -> Any:
        """Return a and b plus two rows of a table times rows 1, 2, ... count-1 at t."""
        for k in range(1, count):
            vector = load(rows, (t, k, 0))
            a += each(table[row, k]) * vector
            b += each(table[row + 1, k]) * vector
        return a, b

    @compiled
    def step(params: Array, U: Array, t: int) -> None:
        """h_t = f(A U[t])."""
        units, count = params.shape[0] - A, params.shape[1]
        for i in range(0, units, 2):
            a, b = each(params[A + i, 0]), each(params[A + i + 1, 0])
            a, b = product(params, A + i, U, t, count, a, b)
            store(U, (t + 1, 2 + i, 0), f(a))
            store(U, (t + 1, 3 + i, 0), f(b))

    @compiled
    def output(B: Array, c: Any, U: Array, t: int) -> Any:
        """output_t = v h_t + c."""
        a, b = each(c), each(zero)
        for k in range(0, B.shape[0], 2):
            a += each(B[k, 0]) * load(U, (t + 1, 2 + k, 0))
            b += each(B[k + 1, 0]) * load(U, (t + 1, 3 + k, 0))
        return a + b

    @compiled
    def step_back(B: Array, U: Array, V: Array, t: int) -> None:
        """d_t = f'(h_t) * (B V[t+1])."""
        g = load(V, (t + 1, 0, 0))
        for k in range(0, B.shape[0], 2):
            a, b = each(B[k, 0]) * g, each(B[k + 1, 0]) * g
            a, b = product(B, k, V, t + 1, B.shape[1], a, b)
            store(V, (t, 1 + k, 0), a * slope(load(U, (t + 1, 2 + k, 0))))
            store(V, (t, 2 + k, 0), b * slope(load(U, (t + 1, 3 + k, 0))))

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

    @compiled
    def paths(x_TB: Array, t: int, first: int, spare: Array) -> Any:
        """Return a vector of x_TB[t]; beyond the batch its last path is repeated."""
        if first + lanes <= x_TB.shape[1]:
            return load(x_TB, (t, first))
        for lane in range(lanes):
            spare[0, lane] = x_TB[t, min(first + lane, x_TB.shape[1] - 1)]
        return load(spare, (0, 0))

    @compiled
    def start(params: Array, U: Array) -> None:
        """Put the initial state where step 0 reads it."""
        for k in range(2, params.shape[1]):
            store(U, (0, k, 0), each(params[0, k]))

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
    def sweep(params: Array, x_TB: Array, y_TB: Array, work: Work, me: int) -> Any:
        """Return the loss; leave its derivatives in G, and those by h0 in their place."""
        U, V, G, B, gradient, spare = (
            work.U[me],
            work.V[me],
            work.G[me],
            work.B[me],
            work.gradient[me],
            work.spare[me],
        )
        steps, batch = y_TB.shape
        c = collapse(params, B)
        for k in range(gradient.shape[1]):
            gradient[0, k] = zero
        for i in range(G.shape[0]):
            for k in range(G.shape[1]):
                store_1(G, (i, k, 0), each_1(zero))
        scale, loss = each(number(2 / (steps * batch))), each(zero)
        for first in range(0, batch, lanes):
            for lane in range(lanes):
                spare[1, lane] = one if first + lane < batch else zero
            start(params, U)
            for t in range(steps + 1):
                store(U, (t, 1, 0), paths(x_TB, t, first, spare))
                step(params, U, t)
                if t == 0:
                    continue
                error = output(B, c, U, t) - paths(y_TB, t - 1, first, spare)
                error = error * load(spare, (1, 0))
                loss += error * error
                store(V, (t + 1, 0, 0), scale * error)
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
        return total(loss) / number(steps * batch)

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

    return Kernels(entry(train, parallel), entry(predict, parallel))
