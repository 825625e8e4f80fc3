"""What one core can do: how long the pieces take that every training is made of.

    python -m backends.limits

measures them when it is asked to. It reads one line of JSON, such as

    {"model": {"hidden": 10}, "n_steps": 100, "batch_size": 32, "cores": [1],
     "work": {"multiply_add": 1131200, "tanh": 32320}}

compiles for some seconds and answers `ready`. It answers each further line with `{name: seconds}`,
after `MEASURED_S` or so on the given cores:

    multiply_add            a multiply-add, at the highest rate that the core reaches
    tanh, sigmoid, relu     an activation, on data in the first-level cache; those in `work`
    byte:16384, ...         a byte read or written by an operation on so many bytes in all
    floor_epoch             an epoch of the backend `floor`, where it can train the model

Numbers and arrays are of the model's dtype. Every time is the lowest tenth of many short turns: a
disturbance only ever makes a turn longer. All of it is one thread's: several can be faster by as
much as there are cores, and share the memory and the last cache.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from time import perf_counter
from typing import Any, TypeAlias

import numba
import numpy as np

from backends.floor import FloorBackend
from backends.floor_activations import activation_and_slope
from backends.floor_lanes import compiled, vectors
from backends.floor_layout import aligned
from backends.reference import ReferenceBackend
from harness.backend.model import Model
from harness.backend.protocol import Array, Params
from harness.errors import Unavailable

Turn: TypeAlias = Callable[[], float]
"""Does some work for about a millisecond; returns how many seconds a unit of it took."""

SIZES = (16 * 2**10, 256 * 2**10, 4 * 2**20, 64 * 2**20)
"""Bytes; most processors hold them in the first, second and last cache, and in memory."""
MEASURED_S = 0.5
VECTOR_BYTES = 128
_MOVED = 16 * 2**20
_CHECKED = (5, 100, 64)
"""Epochs, steps and paths."""
_WORK, _MOST_WORK = 50_000_000, 1_000_000_000
"""Multiply-adds of the floor in a turn if one epoch has fewer, and in its longest turn: 20 ms."""


def multiply_add(dtype: str = "float32") -> Turn:
    """Return a turn that returns the seconds of a multiply-add at the core's highest rate."""
    number, lanes = _number_and_lanes(dtype)
    wide = vectors(dtype, lanes)
    load, store, each = wide.load, wide.store, wide.each
    half, one = number(0.5), number(1)

    # Three vectors are twelve registers of eight floats: each is ready again when its turn comes.
    def chains(rows: Array, times: int) -> None:
        a, b, c = load(rows, (0, 0)), load(rows, (1, 0)), load(rows, (2, 0))
        x, y = each(half), each(one)
        for _ in range(times):
            a, b, c = a * x + y, b * x + y, c * x + y
        store(rows, (0, 0), a)
        store(rows, (1, 0), b)
        store(rows, (2, 0), c)

    run: Any = numba.njit(chains)
    rows, times = aligned((3, lanes), dtype), 200_000
    return _turn(lambda: run(rows, times), times * rows.size)


def activation(name: str, dtype: str = "float32") -> Turn:
    """Return a turn that returns the seconds of a `tanh`, `relu` or `sigmoid`, as `floor` does it.

    sigmoid(x) is (1 + tanh(x / 2)) / 2.
    """
    number, lanes = _number_and_lanes(dtype)
    wide = vectors(dtype, lanes)
    load, store, each, half = wide.load, wide.store, wide.each, number(0.5)
    f = activation_and_slope("relu" if name == "relu" else "tanh", dtype, wide)[0]
    if name == "sigmoid":
        tanh = f
        f = compiled(lambda x: each(half) * tanh(each(half) * x) + each(half))

    def all_of_them(rows: Array, times: int) -> None:
        for _ in range(times):
            for i in range(rows.shape[0]):
                store(rows, (i, 0), f(load(rows, (i, 0))))

    run: Any = numba.njit(all_of_them)
    rows, times = np.linspace(-4, 4, 40 * lanes, dtype=dtype).reshape(40, lanes), 500
    return _turn(lambda: run(rows, times), times * rows.size)


def byte(size: int, dtype: str = "float32") -> Turn:
    """Return a turn that returns the seconds of a byte in an operation on `size` bytes.

    It is STREAM's "scale", b[i] = s a[i] (McCalpin 1995), and counted as there: half of the bytes
    are read, half are written; that a cache may first read what is written over is not counted.
    """
    run, two = _scale(dtype), np.dtype(dtype).type(2)
    length, times = size // 2 // np.dtype(dtype).itemsize, max(1, _MOVED // size)
    source, target = aligned((length,), dtype), aligned((length,), dtype)
    source[:] = 1
    target[:] = 1

    def warm() -> None:
        if size < _MOVED:  # Else no cache keeps it.
            run(source, target, two, 1)

    return _turn(lambda: run(source, target, two, times), times * size, warm)


@cache
def _scale(dtype: str) -> Any:
    _, lanes = _number_and_lanes(dtype)
    wide = vectors(dtype, lanes)
    load, store, each = wide.load, wide.store, wide.each

    def scale(source: Array, target: Array, by: Any, times: int) -> None:
        for _ in range(times):
            for i in range(0, len(source), lanes):
                store(target, (i,), load(source, (i,)) * each(by))

    return numba.njit(scale)


def floor(model: Model, n_steps: int, batch_size: int, epochs: int = 50) -> Turn | None:
    """Return a turn of so many epochs that returns the seconds of one of the backend `floor`.

    None if it cannot train the model. Its losses were found to be those of `reference` on the
    first steps and paths of the same data: the same compiled code runs on all of them.
    """
    try:
        backend = FloorBackend(model, "cpu")
    except Unavailable:
        return None
    rng = np.random.default_rng(0)
    x_ETB = rng.standard_normal((epochs, n_steps + 1, batch_size), model.dtype)
    y_ETB = x_ETB[:, 1:] ** 2
    width = model.hidden**-0.5
    params = {n: rng.uniform(-width, width, s) for n, s in model.shapes.items()}
    params = {name: value.astype(model.dtype) for name, value in params.items()}
    few, steps, paths = map(slice, _CHECKED)
    x_few, y_few = x_ETB[few, : steps.stop + 1, paths], y_ETB[few, steps, paths]
    check_losses(model, params, x_few, y_few, backend.train(backend.init(params), x_few, y_few)[1])
    state = backend.init(params)

    def train() -> None:
        backend.train(state, x_ETB, y_ETB)

    return _turn(train, epochs)


def check_losses(model: Model, params: Params, x_ETB: Array, y_ETB: Array, losses_E: Array) -> None:
    """Raise `AssertionError` unless losses are those of `reference`: it trains what was timed."""
    reference = ReferenceBackend(model, "cpu")
    _, want_E = reference.train(reference.init(params), x_ETB, y_ETB)
    np.testing.assert_allclose(losses_E, want_E, rtol=1e-4)


def turns(model: Model, n_steps: int, batch_size: int, work: Mapping[str, int]) -> dict[str, Turn]:
    """Return a turn for every cost of a training, by name, all of them compiled.

    `work` has the multiply-adds of an epoch, and its activations by name (`harness.task.work`).
    """
    products = work["multiply_add"]
    found = {"multiply_add": multiply_add(model.dtype)}
    found |= {n: activation(n, model.dtype) for n in work if n != "multiply_add"}
    found |= {f"byte:{size}": byte(size, model.dtype) for size in SIZES}
    if products <= _MOST_WORK:
        with suppress(AssertionError):  # A learning rate so high that rounding decides.
            epoch = floor(model, n_steps, batch_size, epochs=min(1000, max(1, _WORK // products)))
            found |= {"floor_epoch": epoch} if epoch else {}
    return found


def measured(turns: dict[str, Turn]) -> dict[str, float]:
    """Return the lowest tenth of what each turn returns; they take turns for `MEASURED_S`."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    start, rounds = perf_counter(), 0
    while rounds < 2 or perf_counter() - start < MEASURED_S:
        for name, turn in turns.items():
            seconds[name].append(turn())
        rounds += 1
    return {name: float(np.quantile(values, 0.1)) for name, values in seconds.items()}


def _number_and_lanes(dtype: str) -> tuple[Any, int]:
    """Return the type of a number and how many of them are a vector."""
    return np.dtype(dtype).type, VECTOR_BYTES // np.dtype(dtype).itemsize


def _turn(work: Callable[[], None], units: int, warm: Callable[[], None] = lambda: None) -> Turn:
    def turn() -> float:
        warm()
        start = perf_counter()
        work()
        return (perf_counter() - start) / units

    turn()
    return turn


def _answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Answer each line of standard input but the first, which says what for, with the costs."""
    about = json.loads(sys.stdin.readline())
    cores = about.pop("cores")
    compiled_turns = turns(**about | {"model": Model(**about["model"])})
    _answer("ready")
    for _ in sys.stdin:
        if cores:
            os.sched_setaffinity(0, cores)
        _answer(json.dumps(measured(compiled_turns)))


if __name__ == "__main__":
    main()
