"""How near the floor comes to what a core can do: operations counted, and rates measured.

    python benchmarks/limits.py [--rounds N]

Prints, for the default task in float32 on one core, the arithmetic limit (multiply-adds at the
core's peak rate, and hyperbolic tangents at the rate at which they are computed from the caches),
plain C, and the backend `floor`, in milliseconds per epoch, all in turn in one process; ratios are
formed inside each round. Without a C compiler it does without C, and says so.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np
import pandas as pd

from harness import Task, data, machine, registry
from harness.clock import now, timestamp
from harness.model import HEAD
from harness.render import render

EPOCHS = 100


def multiply_adds(steps: int, batch: int, hidden: int) -> int:
    """Count the multiply-adds of an epoch, the head collapsed to one vector.

    For each of the T+1 inputs of a path, forwards: W_hh h (H^2), W_xh x + b (H), the output (H).
    Backwards: W_hh^T delta (H^2), the derivative of tanh and the output's share (2 H), the
    gradients of W_hh (H^2), W_xh and b (2 H), and the output vector (H). Head and Adam, once an
    epoch: about 10 operations for each parameter.
    """
    per_input = 3 * hidden**2 + 7 * hidden
    params = hidden * (hidden + 3) + HEAD * (hidden + 1) + HEAD + 1
    return (steps + 1) * batch * per_input + 10 * params


def tangents(steps: int, batch: int, hidden: int) -> int:
    """Count the hyperbolic tangents of an epoch: one for each unit, input and path."""
    return (steps + 1) * batch * hidden


# The same sources in C for both limits and plain C: one compiler, one set of flags.
_PEAK = """
typedef float v8 __attribute__((vector_size(32)));
float peak(long n) {
    v8 a[12];
    for (int i = 0; i < 12; i++) for (int j = 0; j < 8; j++) a[i][j] = i + j;
    v8 m = a[0] * 0 + 0.999f, c = a[0] * 0 + 0.001f;
    for (long k = 0; k < n; k++)
        for (int i = 0; i < 12; i++) a[i] = a[i] * m + c;
    float sum = 0;
    for (int i = 0; i < 12; i++) for (int j = 0; j < 8; j++) sum += a[i][j];
    return sum;
}
void tangents(float *x, long n, long size) {
    for (long k = 0; k < n; k++) for (long i = 0; i < size; i++) x[i] = fast_tanh(x[i]);
}
"""


def library(steps: int, batch: int, hidden: int) -> ctypes.CDLL | None:
    """Compile `plain_c.c`, and kernels that measure rates; None without a compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    source = Path(__file__).with_name("plain_c.c").read_text() + _PEAK
    with tempfile.TemporaryDirectory() as folder:
        code, built = Path(folder, "plain.c"), Path(folder, "plain.so")
        code.write_text(source)
        sizes = [f"-DSTEPS={steps}", f"-DBATCH={batch}", f"-DHIDDEN={hidden}"]
        flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", *sizes]
        subprocess.run([compiler, *flags, str(code), "-o", str(built), "-lm"], check=True)
        found = ctypes.CDLL(str(built))
    found.train.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_int, ctypes.c_int, ctypes.c_float]
    found.train.argtypes += [ctypes.c_void_p] * 3
    found.train.restype = None
    found.peak.argtypes, found.peak.restype = [ctypes.c_long], ctypes.c_float
    found.tangents.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
    found.tangents.restype = None
    return found


def plain_c(task: Task, epochs: int = EPOCHS) -> Callable[[], float] | None:
    """Return what times plain C, in seconds per epoch; None without a compiler.

    It is held against the reference first: its losses agree with those of `reference`.
    """
    found = library(task.n_steps, task.batch_size, task.hidden)
    if found is None:
        return None
    params = data.initial_params(task.model, 0)
    flat = np.concatenate([params[name].ravel() for name in task.model.shapes])
    x, y = data.training_chunk(task, 0, 0, epochs)
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    losses = np.empty(epochs, np.float32)

    def train() -> float:
        arrays = [flat.copy(), np.zeros_like(flat), np.zeros_like(flat)]
        rate = task.learning_rate
        pointers = [array.ctypes.data for array in (*arrays, x, y, losses)]
        start = now()
        found.train(*pointers[:3], 0, epochs, rate, *pointers[3:])
        return (now() - start) / epochs

    train()
    reference = registry.load("reference")(task.model, "cpu")
    _, expected = reference.train(reference.init(params), x[:10], y[:10])
    np.testing.assert_allclose(losses[:10], expected, rtol=1e-4)
    return train


def floor(task: Task, epochs: int = EPOCHS) -> Callable[[], float]:
    """Return what times the backend `floor`, in seconds per epoch."""
    numba.set_num_threads(1)
    backend: Any = registry.load("floor")(task.model, "cpu")
    x, y = data.training_chunk(task, 0, 0, epochs)

    def train() -> float:
        state = backend.init(data.initial_params(task.model, 0))
        start = now()
        backend.train(state, x, y)
        return (now() - start) / epochs

    train()
    return train


def rates(found: ctypes.CDLL) -> tuple[float, float]:
    """Return multiply-adds and hyperbolic tangents in a second, of one core, the best of ten."""
    loops, x = 200_000, np.linspace(-3, 3, 1024, dtype=np.float32)

    def seconds(call: Callable[[], object]) -> float:
        start = now()
        call()
        return now() - start

    peak_s = min(seconds(lambda: found.peak(loops)) for _ in range(10))
    tanh_s = min(seconds(lambda: found.tangents(x.ctypes.data, 300, len(x))) for _ in range(10))
    return loops * 12 * 8 / peak_s, 300 * len(x) / tanh_s


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    os.sched_setaffinity(0, machine.usable_cores()[-1:])
    task = Task()
    sizes = (task.n_steps, task.batch_size, task.hidden)
    timed: dict[str, Callable[[], float]] = {"floor": floor(task)}
    found = library(*sizes)
    if found is None or (c := plain_c(task)) is None:
        sys.exit("there is no C compiler here: neither plain C nor the limit can be measured")
    timed["plain C"] = c
    print(f"{timestamp()}, {machine.describe()['cpu']}, one core, float32")
    print(f"an epoch: {multiply_adds(*sizes):,} multiply-adds, {tangents(*sizes):,} tanh")
    values: dict[str, list[float]] = {"multiply-adds at peak": [], "tanh from the caches": []}
    values |= {name: [] for name in timed}
    for _ in range(options.rounds):
        peak, tanh = rates(found)
        values["multiply-adds at peak"].append(multiply_adds(*sizes) / peak)
        values["tanh from the caches"].append(tangents(*sizes) / tanh)
        for name, train in timed.items():
            values[name].append(train())
    limit = [a + b for a, b in zip(*list(values.values())[:2], strict=True)]
    rows = []
    for name, seconds in (*list(values.items())[:2], ("arithmetic limit", limit)):
        rows.append((name, seconds))
    rows += [(name, values[name]) for name in ("plain C", "floor")]
    table = [
        {
            "": name,
            "ms per epoch": f"{1e3 * median(seconds):.4f}",
            "x limit": f"{median(a / b for a, b in zip(seconds, limit, strict=True)):.2f}",
            "x plain C": f"{median(a / b for a, b in zip(seconds, values['plain C'], strict=True)):.2f}",
        }
        for name, seconds in rows
    ]
    print(render(pd.DataFrame(table), "markdown"))


if __name__ == "__main__":
    main()
