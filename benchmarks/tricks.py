"""What each trick of the tuned variants buys: the time without it, over the time with all.

    python -m benchmarks.tricks [--rounds N] [--seeds-at-once R]

Every row is a copy of the variant's module in which one thing is switched off; all copies train in
turn, in random order, in one process on one core. A ratio is formed inside each round, and the
table shows the median over the rounds with a 95 % interval. The default task, float32. Only what
can be switched off is here: the rest is the design.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import torch

from benchmarks.speed import CORE, TURN_S, ratio
from harness import Task
from harness.backend.protocol import Array
from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.tables.text import render
from harness.task import data

BACKENDS = Path(__file__).parent.parent / "backends"
TASK, EPOCHS = Task(), 20


@dataclass
class Copy:
    """A backend with something switched off, and the seconds of its epochs."""

    what: str
    backend: Any
    state: Any
    batches: tuple[Array, Array]
    seconds: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Train for a while."""
        start, epochs = now(), 0
        while now() - start < TURN_S:
            self.state, _ = self.backend.train_many(self.state, *self.batches)
            epochs += len(self.batches[0])
        self.seconds.append((now() - start) / epochs)


def copies(at_once: int) -> Iterator[list[Copy]]:
    """Yield for each variant: all of it, and then without this and that."""
    batches = data.training_chunks(TASK, range(at_once), 0, EPOCHS)
    each = [data.initial_params(TASK.model, seed) for seed in range(at_once)]
    params = {name: np.stack([one[name] for one in each]) for name in each[0]}

    def copy(what: str, name: str, change: Callable[[Any], None], aligned: bool = True) -> Copy:
        module = _load(name)
        change(module)
        (kind,) = (v for k, v in vars(module).items() if k.endswith("TunedBackend"))
        backend = kind(TASK.model, "cpu")
        given = batches if aligned else (_askew(batches[0]), _askew(batches[1]))
        return Copy(what, backend, backend.init_many(params), given)

    def without(option: str) -> Callable[[Any], None]:
        def change(module: Any) -> None:
            module.OPTIONS = {name: v for name, v in module.OPTIONS.items() if option not in name}

        return change

    def set_to(**values: Any) -> Callable[[Any], None]:
        return lambda module: vars(module).update(values)

    by_itself = "seed by seed, rather than in groups"
    yield [
        copy("jax-tuned, all of it", "jax_tuned", set_to()),
        copy("XLA's tanh", "jax_tuned", set_to(_tanh=jnp.tanh)),
        copy("products by `dot`", "jax_tuned", set_to(COLUMNS=0)),
        copy("vectors of 256 bits", "jax_tuned", without("vector_width")),
        copy("what a loop carries copied first", "jax_tuned", without("copy_insertion")),
        copy("data not at multiples of 64 bytes", "jax_tuned", set_to(), aligned=False),
        *([copy(by_itself, "jax_tuned", set_to(GROUP=1))] if at_once > 1 else []),
    ]
    yield [
        copy("torch-tuned, all of it", "torch_tuned", set_to()),
        copy("PyTorch's tanh", "torch_tuned", _with_tanh),
        *([copy(by_itself, "torch_tuned", set_to(GROUP=1))] if at_once > 1 else []),
    ]


def _with_tanh(module: Any) -> None:
    """Let the loop forwards of `torch_tuned` keep h, by tanh."""

    def call(self: Any, weights: dict[str, torch.Tensor], x_TRB: torch.Tensor) -> None:
        torch.mul(weights["W_xh"], x_TRB.unsqueeze(2), out=self.h_TRHB[1:])
        self.h_TRHB[1:] += weights["b_h"].unsqueeze(2)
        self.h_TRHB[0] = weights["h0"].unsqueeze(2)
        W = weights["W_hh"][0] if self.alone else weights["W_hh"]
        for before, after in pairwise(self.views):
            self.product(after, W, before)
            after.tanh_()

    module.Forward.__call__ = call


def _askew(array: Array) -> Array:
    """Return a copy 16 bytes off a multiple of 64, where large arrays of NumPy usually are."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    first = -memory.ctypes.data % 64 + 16
    askew: Array = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    askew[:] = array
    return askew


def _load(name: str) -> Any:
    """Return a new copy of a module of the backends."""
    number = len(sys.modules)
    spec = importlib.util.spec_from_file_location(f"{name}_{number}", BACKENDS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds-at-once", type=int, default=1)
    options = parser.parse_args()
    os.sched_setaffinity(0, CORE)
    torch.set_num_threads(1)
    about, rng = machine.describe(), random.Random(0)
    print(f"{timestamp()}, {about['cpu']}, one core, {options.seeds_at_once} seeds at once\n")
    for variant in copies(options.seeds_at_once):
        for one in variant:
            one.turn()  # Compiles.
            one.seconds.clear()
        for _ in range(options.rounds):
            for one in rng.sample(variant, len(variant)):
                one.turn()
        print(render(pd.DataFrame(_rows(variant, options.seeds_at_once)), "markdown"))


def _rows(variant: list[Copy], at_once: int) -> Iterator[dict[str, str]]:
    for one in variant:
        value, low, high = ratio(one.seconds, variant[0].seconds)
        yield {
            "with": one.what,
            "ms per epoch and seed": f"{1e3 * median(one.seconds) / at_once:.3f}",
            "x": "1" if one is variant[0] else f"{value:.2f} [{low:.2f}, {high:.2f}]",
        }


if __name__ == "__main__":
    main()
