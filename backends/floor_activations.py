"""The activations of the floor, on vectors of numbers; tanh as quotients of polynomials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from backends.floor_lanes import Vectors, compiled


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


def _tanh32(wide: Vectors) -> Any:
    """Return tanh as in Eigen, x P(x^2) / Q(x^2): right to 3 units in the last place."""
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
    """Return (e^2x - 1) / (e^2x + 1) with e^2x = 2^n e^r; |r| <= log(2) / 2, so e^r is a series."""
    each, where_less, two_to = wide.each, wide.where_less, wide.two_to
    limit, shift, per_log2 = 20.0, 1.5 * 2.0**52, 2 / math.log(2)
    # log(2) / 2 in two parts: the first has so few bits that n * high is exact.
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
