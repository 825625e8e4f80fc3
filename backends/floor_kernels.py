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
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numba
import numpy as np
from numba import prange
from numba.extending import register_jitable

from backends.floor_lanes import Vectors, vectors
from harness.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, HEAD
from harness.protocol import Array

REGISTER = 32
"""Bytes of a vector register (AVX2); others are put together from these by LLVM, or split."""
_WIDEST = 4
"""Registers in a vector: enough independent multiply-adds to hide the time that each takes."""
_BLOCK = 8
"""Steps whose rows of U and V stay in the first-level cache while they are multiplied."""
_SAVED = 2
"""U begins with the rows 1 and x_t."""

_P, _R = ParamSpec("_P"), TypeVar("_R")


def compiled(function: Callable[_P, _R], **options: bool) -> Callable[_P, _R]:
    """Compile a function at its first call; a division by zero gives an infinity or a NaN."""
    machine: Callable[_P, _R] = numba.njit(error_model="numpy", **options)(function)
    return machine


def shared(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let compiled code call a function of Python too."""
    function = register_jitable(function)
    return function


def width(dtype: str, paths: int) -> int:
    """Return the numbers in the vectors that suit a batch of so many paths."""
    register = REGISTER // np.dtype(dtype).itemsize
    registers = -(-paths // register)
    return register * min(_WIDEST, 1 << (registers - 1).bit_length())


@shared
def even(number: int) -> int:
    """Return the number of rows once the last has a partner."""
    return number + number % 2


def size(hidden: int) -> int:
    """Return the length of the flat vector of parameters that `parts` cuts."""
    return even(hidden) * (hidden + 3) + HEAD * (hidden + 2) + 1


@shared
def parts(flat: Array, hidden: int) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Return A [H, H+2], h0 [H], W_1 [D, H], b_1 [D], W_2 [D], b_2 [1]: views of a flat vector.

    If `hidden` is odd, A and h0 have a unit more, whose weights are and stay 0.
    """
    units = even(hidden)
    ends = np.cumsum(
        np.array([units * (hidden + 2), units, HEAD * hidden, HEAD, HEAD, 1])
    )
    return (
        flat[: ends[0]].reshape(units, hidden + 2),
        flat[ends[0] : ends[1]],
        flat[ends[1] : ends[2]].reshape(HEAD, hidden),
        flat[ends[2] : ends[3]],
        flat[ends[3] : ends[4]],
        flat[ends[4] :],
    )


def _tanh32(wide: Vectors) -> Any:
    """x P(x^2) / Q(x^2): the rational approximation of Eigen, to some units in the last place."""
    each, where_less, number = wide.each, wide.where_less, np.float32
    limit = number(7.90531110763549805)
    p6, p5, p4 = number(-2.76076847742355e-16), number(2.00018790482477e-13), number(-8.60467152213735e-11)
    p3, p2 = number(5.12229709037114e-08), number(1.48572235717979e-05)
    p1, p0 = number(6.37261928875436e-04), number(4.89352455891786e-03)
    q3, q2 = number(1.19825839466702e-06), number(1.18534705686654e-04)
    q1, q0 = number(2.26843463243900e-03), number(4.89352518554385e-03)

    def tanh(x: Any) -> Any:
        x = where_less(each(limit), x, each(limit), x)
        x = where_less(x, each(-limit), each(-limit), x)
        s = x * x
        p = each(p6) * s + each(p5)
        p = p * s + each(p4)
        p = p * s + each(p3)
        p = p * s + each(p2)
        p = p * s + each(p1)
        p = p * s + each(p0)
        q = each(q3) * s + each(q2)
        q = q * s + each(q1)
        q = q * s + each(q0)
        return x * p / q

    return compiled(tanh)


def _tanh64(wide: Vectors) -> Any:
    """(e^2x - 1) / (e^2x + 1), from e^2x = 2^n e^r with |r| <= log(2) / 2 and a Taylor series."""
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


def _activation(name: str, dtype: str, wide: Vectors) -> tuple[Any, Any]:
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

    train: Callable[..., Array]
    predict: Callable[..., Array]


@cache
def kernels(dtype: str, activation: str, lanes: int, parallel: bool) -> Kernels:
    """Return the compiled functions; with `parallel`, the seeds are shared among the threads."""
    number: Any = np.dtype(dtype).type
    register = REGISTER // np.dtype(dtype).itemsize
    wide, narrow = vectors(dtype, lanes), vectors(dtype, register)
    load, store, each, total = wide.load, wide.store, wide.each, wide.total
    load_1, store_1, total_1 = narrow.load, narrow.store, narrow.total
    f, slope = _activation(activation, dtype, wide)
    zero, one = number(0), number(1)

    @compiled
    def product(matrix: Array, row: int, rows: Array, t: int, count: int, a: Any, b: Any) -> Any:
        """Return a and b plus two rows of the matrix times the first `count` rows at t."""
        for k in range(1, count):
            vector = load(rows, (t, k, 0))
            a += each(matrix[row, k]) * vector
            b += each(matrix[row + 1, k]) * vector
        return a, b

    @compiled
    def step(A: Array, U: Array, t: int) -> None:
        """h_t = f(A U[t])."""
        for i in range(0, A.shape[0], 2):
            a, b = product(A, i, U, t, A.shape[1], each(A[i, 0]), each(A[i + 1, 0]))
            store(U, (t + 1, _SAVED + i, 0), f(a))
            store(U, (t + 1, _SAVED + i + 1, 0), f(b))

    @compiled
    def step_back(B: Array, U: Array, V: Array, t: int) -> None:
        """d_t = f'(h_t) * (B V[t+1])."""
        for k in range(0, B.shape[0], 2):
            g = load(V, (t + 1, 0, 0))
            a, b = product(B, k, V, t + 1, B.shape[1], each(B[k, 0]) * g, each(B[k + 1, 0]) * g)
            store(V, (t, 1 + k, 0), a * slope(load(U, (t + 1, _SAVED + k, 0))))
            store(V, (t, 2 + k, 0), b * slope(load(U, (t + 1, _SAVED + k + 1, 0))))

    @compiled
    def output(v: Array, c: Any, U: Array, t: int) -> Any:
        """output_t = v h_t + c."""
        a, b = each(c), each(zero)
        for k in range(0, len(v), 2):
            a += each(v[k]) * load(U, (t + 1, _SAVED + k, 0))
            b += each(v[k + 1]) * load(U, (t + 1, _SAVED + k + 1, 0))
        return a + b

    @compiled
    def paths(x_TB: Array, t: int, first: int, spare: Array) -> Any:
        """Return a vector of x_TB[t]; beyond the batch its last path is repeated."""
        if first + lanes <= x_TB.shape[1]:
            return load(x_TB, (t, first))
        for lane in range(lanes):
            spare[lane] = x_TB[t, min(first + lane, x_TB.shape[1] - 1)]
        return load(spare, (0,))

    @compiled
    def start(U: Array, h0: Array, x_TB: Array, first: int, spare: Array) -> None:
        """Fill in the first two rows and the initial state."""
        for t in range(x_TB.shape[0]):
            store(U, (t, 1, 0), paths(x_TB, t, first, spare))
        for t in range(x_TB.shape[0] + 1):
            store(U, (t, 0, 0), each(one))
        for k in range(len(h0)):
            store(U, (0, _SAVED + k, 0), each(h0[k]))

    @compiled
    def outer(V: Array, U: Array, first: int, last: int, G: Array) -> None:
        """G += V[t] (x) U[t] summed over t, in tiles of 2 x 4 that stay in registers."""
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
    def head(W_1: Array, b_1: Array, W_2: Array, b_2: Array, v: Array) -> Any:
        """Leave the two linear layers as one in v, and return its constant."""
        c = b_2[0]
        v[:] = zero
        for d in range(HEAD):
            c += W_2[d] * b_1[d]
            for k in range(W_1.shape[1]):
                v[k] += W_2[d] * W_1[d, k]
        return c

    @compiled
    def turn(A: Array, v: Array, B: Array) -> None:
        """Leave [v | W_hh^T] in B."""
        hidden = B.shape[1] - 1
        for k in range(hidden):
            B[k, 0] = v[k]
            for i in range(hidden):
                B[k, 1 + i] = A[i, 2 + k]

    @compiled
    def sweep(work: Any, flat: Array, g_flat: Array, x_TB: Array, y_TB: Array) -> Any:
        """Return the loss; leave the gradients of h0 in place and those of A, v and c in G."""
        U, V, G, B, v, spare, real = work
        hidden, (steps, batch) = B.shape[1] - 1, y_TB.shape
        A, h0, W_1, b_1, W_2, b_2 = parts(flat, hidden)
        g_h0 = parts(g_flat, hidden)[1]
        c = head(W_1, b_1, W_2, b_2, v)
        turn(A, v, B)
        G[:] = zero
        g_h0[:] = zero
        scale, loss = each(number(2 / (steps * batch))), each(zero)
        for first in range(0, batch, lanes):
            for lane in range(lanes):
                real[lane] = one if first + lane < batch else zero
            start(U, h0, x_TB, first, spare)
            step(A, U, 0)
            for t in range(1, steps + 1):
                step(A, U, t)
                error = output(v, c, U, t) - paths(y_TB, t - 1, first, spare)
                error = error * load(real, (0,))
                loss = loss + error * error
                store(V, (t + 1, 0, 0), scale * error)
            for last in range(steps + 2, 0, -_BLOCK):
                earliest = max(last - _BLOCK, 0)
                for t in range(min(last - 1, steps), earliest - 1, -1):
                    step_back(B, U, V, t)
                outer(V, U, earliest, last, G)
            for k in range(0, len(h0), 2):
                a, b = product(B, k, V, 0, B.shape[1], each(zero), each(zero))
                g_h0[k] += total(a)
                g_h0[k + 1] += total(b)
        return total(loss) / number(steps * batch)

    @compiled
    def spread(G: Array, flat: Array, g_flat: Array, hidden: int) -> None:
        """Leave in g_flat the gradients that follow from the sums in G."""
        _, _, W_1, b_1, W_2, _ = parts(flat, hidden)
        g_A, _, g_W_1, g_b_1, g_W_2, g_b_2 = parts(g_flat, hidden)
        for i in range(hidden):
            for k in range(hidden + 2):
                g_A[i, k] = total_1(load_1(G, (1 + i, k, 0)))
        g_c = total_1(load_1(G, (0, 0, 0)))
        g_b_2[0] = g_c
        for d in range(HEAD):
            g_b_1[d] = W_2[d] * g_c
            g_W_2[d] = b_1[d] * g_c
        for k in range(hidden):
            g_v = total_1(load_1(G, (0, 2 + k, 0)))
            for d in range(HEAD):
                g_W_1[d, k] = W_2[d] * g_v
                g_W_2[d] += W_1[d, k] * g_v

    @compiled
    def descend(flat: Array, g_flat: Array, rate: float) -> None:
        for i in range(len(flat)):
            flat[i] -= number(rate) * g_flat[i]

    @compiled
    def adam(flat: Array, g_flat: Array, mean: Array, square: Array, n: int, rate: float) -> None:
        """Step n of Adam (Kingma and Ba 2015, algorithm 1)."""
        mean_scale = number(rate / (1 - ADAM_BETA1**n))
        square_scale = number(1 / (1 - ADAM_BETA2**n))
        for i in range(len(flat)):
            g = g_flat[i]
            mean[i] = number(ADAM_BETA1) * mean[i] + number(1 - ADAM_BETA1) * g
            square[i] = number(ADAM_BETA2) * square[i] + number(1 - ADAM_BETA2) * g * g
            root = np.sqrt(square_scale * square[i]) + number(ADAM_EPS)
            flat[i] -= mean_scale * mean[i] / root

    @compiled
    def workspace(steps: int, hidden: int) -> Any:
        """Return U, V, G, B, v and two vectors, for all epochs."""
        rows = -(-(hidden + 2) // 4) * 4
        return (
            np.zeros((steps + 2, rows, lanes), number),
            np.zeros((steps + 2, rows, lanes), number),
            np.zeros((even(hidden + 1), rows, register), number),
            np.zeros((even(hidden), hidden + 1), number),
            np.zeros(even(hidden), number),
            np.zeros(lanes, number),
            np.zeros(lanes, number),
        )

    def train(
        flat_RP: Array,
        mean_RP: Array,
        square_RP: Array,
        done: int,
        rate: float,
        with_adam: bool,
        hidden: int,
        x_ERTB: Array,
        y_ERTB: Array,
    ) -> Array:
        """Take E optimiser steps with each network, in place; return the losses [E, R]."""
        epochs, seeds, steps = y_ERTB.shape[:3]
        losses_ER = np.zeros((epochs, seeds), number)
        for r in prange(seeds):
            work = workspace(steps, hidden)
            flat, g_flat = flat_RP[r], np.zeros_like(flat_RP[r])
            for e in range(epochs):
                losses_ER[e, r] = sweep(work, flat, g_flat, x_ERTB[e, r], y_ERTB[e, r])
                spread(work[2], flat, g_flat, hidden)
                if with_adam:
                    adam(flat, g_flat, mean_RP[r], square_RP[r], done + e + 1, rate)
                else:
                    descend(flat, g_flat, rate)
        return losses_ER

    def predict(flat_RP: Array, hidden: int, x_RTN: Array) -> Array:
        """Return one output per step fed, [R, T+1, N]."""
        seeds, fed, n_paths = x_RTN.shape
        output_RTN = np.zeros_like(x_RTN)
        for r in prange(seeds):
            U, _, _, _, v, spare, _ = workspace(fed - 1, hidden)
            A, h0, W_1, b_1, W_2, b_2 = parts(flat_RP[r], hidden)
            c = head(W_1, b_1, W_2, b_2, v)
            for first in range(0, n_paths, lanes):
                start(U, h0, x_RTN[r], first, spare)
                for t in range(fed):
                    step(A, U, t)
                    store(spare, (0,), output(v, c, U, t))
                    for lane in range(min(lanes, n_paths - first)):
                        output_RTN[r, t, first + lane] = spare[lane]
        return output_RTN

    return Kernels(compiled(train, parallel=parallel), compiled(predict, parallel=parallel))
