"""What each trick of the tuned variants buys: the time without it, over the time with all.

    python -m benchmarks.tricks [--blocks N] [--seeds-at-once R]

Every row is a copy of the variant's module in which one thing is switched off. In each block every
copy has a fresh process, all on one core, and they train in turn, in random order. Ratios are
formed inside blocks; the interval is Student's t over blocks. The default task, float32. Only what
can be switched off is here: the rest is the design.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
import pandas as pd
import torch

from benchmarks.helpers.blocks import Call, Started, in_blocks, ratio_text
from harness import Task
from harness.backend.protocol import Array
from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.tables.text import render
from harness.task import data

BACKENDS = Path(__file__).parent.parent / "backends"
TASK, EPOCHS = Task(), 20
Change: TypeAlias = Callable[[Any], None]
"""Changes a copy of a module."""


class Trick(NamedTuple):
    """What is switched off in a copy of a variant."""

    without: str
    change: Change
    aligned: bool = True
    """Whether its data are at multiples of 64 bytes."""
    at_once: bool = False
    """Whether it shows only if many seeds are trained at once."""


def _set_to(**values: Any) -> Change:
    def change(module: Any) -> None:
        module.__dict__.update(values)

    return change


def _without(option: str) -> Change:
    def change(module: Any) -> None:
        module.CPU_OPTIONS = {n: v for n, v in module.CPU_OPTIONS.items() if option not in n}

    return change


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


BY_ITSELF = Trick("seed by seed, rather than in groups", _set_to(GROUP=1), at_once=True)
VARIANTS: dict[str, list[Trick]] = {
    "jax_tuned": [
        Trick("all of it", _set_to()),
        Trick("XLA's tanh", _set_to(_tanh=jnp.tanh)),
        Trick("products by `dot`", _set_to(COLUMNS=0)),
        Trick("vectors of 256 bits", _without("vector_width")),
        Trick("what a loop carries copied first", _without("copy_insertion")),
        Trick("data not at multiples of 64 bytes", _set_to(), aligned=False),
        BY_ITSELF,
    ],
    "torch_tuned": [
        Trick("all of it", _set_to()),
        Trick("PyTorch's tanh", _with_tanh),
        BY_ITSELF,
    ],
}


def training(variant: str, number: int, at_once: int) -> Call:
    """Return a call that trains with a trick switched off: seconds per epoch and seed."""
    torch.set_num_threads(1)
    trick, module = VARIANTS[variant][number], _load(variant)
    trick.change(module)
    (kind,) = (v for k, v in vars(module).items() if k.endswith("TunedBackend"))
    backend = kind(TASK.model, "cpu")
    batches = data.training_chunks(TASK, range(at_once), 0, EPOCHS)
    if not trick.aligned:
        batches = _askew(batches[0]), _askew(batches[1])
    each = [data.initial_params(TASK.model, seed) for seed in range(at_once)]
    state = backend.init_many({name: np.stack([one[name] for one in each]) for name in each[0]})

    def call() -> float:
        nonlocal state
        start = now()
        state, _ = backend.train_many(state, *batches)
        return (now() - start) / EPOCHS / at_once

    call()  # Compiles.
    return call


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
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each copy in a block")
    parser.add_argument("--seeds-at-once", type=int, default=1)
    options = parser.parse_args()
    about, at_once = machine.describe(), options.seeds_at_once
    print(
        f"{timestamp()}, {about['cpu']}, one core, {at_once} seeds at once; "
        f"{options.blocks} blocks of fresh processes\n"
    )
    for variant in VARIANTS:
        times = in_blocks(partial(_started, variant, at_once), options.blocks, options.rounds)
        print(render(pd.DataFrame(_rows(variant, times)), "markdown"))


def _started(variant: str, at_once: int, stack: ExitStack) -> Mapping[str, Call]:
    """Start a process for each copy of a variant."""
    return {
        trick.without: stack.enter_context(Started(training, variant, number, at_once))
        for number, trick in enumerate(VARIANTS[variant])
        if at_once > 1 or not trick.at_once
    }


def _rows(variant: str, times: Mapping[str, Sequence[float]]) -> Iterator[dict[str, str]]:
    for without, seconds in times.items():
        yield {
            f"{variant.replace('_', '-')} with": without,
            "ms per epoch and seed": f"{1e3 * median(seconds):.3f}",
            "x": ratio_text(seconds, times["all of it"]),
        }


if __name__ == "__main__":
    main()
