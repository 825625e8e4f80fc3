"""How the floor lays out parameters and memory, so that vectors come whole from the cache."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from harness.backend.model import HEAD
from harness.backend.protocol import Array

REGISTER = 32
"""Bytes of a vector register (AVX2); LLVM splits them or puts them together on other processors."""
_LINE = 64
"""Bytes of a cache line."""
_WIDEST = 4
"""Registers in a vector: enough independent multiply-adds to hide the latency of each."""
HEADS = slice(1, 1 + HEAD)
A = 1 + HEAD
"""The parameters of a network are one table of 2 + H columns:

    row 0             b_2     -      h0
    rows HEADS        b_1     W_2    W_1
    rows A, A+1 ...   b_h     W_xh   W_hh

If H is odd, there is one more row, always 0.
"""


def width(dtype: str, paths: int) -> int:
    """Return how many numbers a vector holds that suits a batch of so many paths."""
    register = REGISTER // np.dtype(dtype).itemsize
    registers = -(-paths // register)
    return register * min(_WIDEST, 1 << (registers - 1).bit_length())


def named(table: Array, hidden: int) -> dict[str, Array]:
    """Return the parameters by name, as views of their table [1 + D + H, 2 + H]."""
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
    """Return the number, rounded up to an even one."""
    return number + number % 2


def aligned(shape: tuple[int, ...], dtype: str) -> Array:
    """Return zeros that begin with a cache line, so that no vector crosses two lines."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + _LINE, np.uint8)
    begin = -room.ctypes.data % _LINE
    array: Array = room[begin : begin + size].view(dtype).reshape(shape)
    return array


class Work(NamedTuple):
    """Memory for one sweep, for each thread."""

    U: Array
    V: Array
    G: Array
    """Sums over t of V[t] (x) U[t], one for each number of a register: [H+1, K, register]."""
    B: Array
    """[v | W_hh^T], [H, 1+H]."""
    gradient: Array
    """The gradient, as a table like that of the parameters."""
    spare: Array
    """Two vectors."""

    @classmethod
    def make(cls, threads: int, steps: int, hidden: int, dtype: str, lanes: int) -> Work:
        """Return zeros, and ones where U has them."""
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
