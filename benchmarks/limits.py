"""How near the backend `floor` is to what one core can do, and to plain C.

    python -m benchmarks.limits [--steps T] [--batch B] [--hidden H] [--blocks N]

The arithmetic limit is the time that an epoch's multiply-adds would take at the highest rate that
the core reaches, plus that of its tanhs at the rate of a loop that does nothing else, on data in
the first-level cache. In each block all four have a fresh process and take turns on one core.
Ratios are formed inside blocks; the interval is Student's t over blocks. float32, one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

import harness
from backends import limits
from benchmarks.helpers.blocks import Call, Started, in_blocks, ratio_text
from harness.backend.protocol import Array
from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.tables.text import render
from harness.task import data
from harness.task.work import work

FLAGS = ("-O3", "-march=native", "-ffast-math")
SOURCE = Path(__file__).with_name("plain_c.c")
EPOCHS = 50


def plain_c(n_steps: int, batch_size: int, hidden: int) -> Call | None:
    """Compile plain C for a network; return a turn: it trains on, and returns seconds per epoch.

    None without a C compiler (`cc`).
    """
    task = harness.Task(n_steps=n_steps, batch_size=batch_size, hidden=hidden)
    library = _build(n_steps, batch_size, hidden)
    if library is None:
        return None
    x_ETB, y_ETB = data.training_chunk(task, 0, 0, EPOCHS)
    params = _in_order_of_c(data.initial_params(task.model, 0))
    mean, square = np.zeros_like(params), np.zeros_like(params)
    losses_E: Array = np.zeros(EPOCHS, np.float32)
    done = 0

    def turn() -> float:
        nonlocal done
        start = now()
        library.train(
            *map(_pointer, (params, mean, square)),
            done,
            EPOCHS,
            ctypes.c_float(task.learning_rate),
            *map(_pointer, (x_ETB, y_ETB, losses_E)),
        )
        seconds = now() - start
        done += EPOCHS
        return seconds / EPOCHS

    turn()
    _check_losses(task, losses_E)
    return turn


def _build(n_steps: int, batch_size: int, hidden: int) -> Any | None:
    sizes = (f"-DSTEPS={n_steps}", f"-DBATCH={batch_size}", f"-DHIDDEN={hidden}")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "plain_c.so"
        command = ["cc", *FLAGS, "-shared", "-fPIC", *sizes, str(SOURCE), "-o", str(target), "-lm"]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            return None
        return ctypes.CDLL(str(target))


def _in_order_of_c(params: Any) -> Array:
    names = ("h0", "W_xh", "W_hh", "b_h", "W_1", "b_1", "W_2", "b_2")
    return np.concatenate([np.ravel(params[name]) for name in names])


def _pointer(array: Array) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)


def _check_losses(task: harness.Task, losses_E: Array) -> None:
    x_ETB, y_ETB = data.training_chunk(task, 0, 0, EPOCHS)
    limits.check_losses(task.model, data.initial_params(task.model, 0), x_ETB, y_ETB, losses_E)


def floor(n_steps: int, batch_size: int, hidden: int) -> Call | None:
    """Return a turn of the backend, like that of `plain_c`."""
    return limits.floor(harness.Model(hidden=hidden), n_steps, batch_size)


def main() -> None:
    """Time the four in blocks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program in a block")
    options = parser.parse_args()
    sizes = (options.steps, options.batch, options.hidden)
    os.environ["NUMBA_NUM_THREADS"] = "1"

    def start(stack: ExitStack) -> Mapping[str, Call]:
        programs = {
            "multiply-add": Started(limits.multiply_add),
            "tanh": Started(limits.activation, "tanh"),
            "floor": Started(floor, *sizes),
            "plain C": Started(plain_c, *sizes),
        }
        started = {name: stack.enter_context(program) for name, program in programs.items()}
        return {name: program for name, program in started.items() if program.works}

    seconds = in_blocks(start, options.blocks, options.rounds)
    if "plain C" not in seconds:
        print("no C compiler (`cc`) here: plain C is left out")
    needed = work(harness.Model(hidden=options.hidden), *sizes[:2])
    products, curves = needed["multiply_add"], needed["tanh"]
    times = {
        f"{products:,} multiply-adds": [products * s for s in seconds["multiply-add"]],
        f"{curves:,} tanhs": [curves * s for s in seconds["tanh"]],
    }
    times["arithmetic limit"] = [sum(both) for both in zip(*times.values(), strict=True)]
    times |= {name: seconds[name] for name in ("floor", "plain C") if name in seconds}
    rows = [
        {
            f"T = {sizes[0]}, B = {sizes[1]}, H = {sizes[2]}": name,
            "us per epoch": f"{1e6 * median(values):.1f}",
            "x limit": ratio_text(values, times["arithmetic limit"]),
            "x floor": ratio_text(values, times["floor"]),
        }
        for name, values in times.items()
    ]
    about, rate = machine.describe(), 1e-9 / median(seconds["multiply-add"])
    print(
        f"{timestamp()}, {about['cpu']}, one core, {rate:.1f} thousand million multiply-adds a "
        f"second; {options.blocks} blocks of fresh processes\n"
    )
    print(render(pd.DataFrame(rows), "markdown"))


if __name__ == "__main__":
    main()
