"""What holds each backend back on a GPU: the latency of its kernels, and what the GPU can do.

    python -m benchmarks.gpu_limits [--hidden H] [--seeds-at-once R,S]

A kernel on one element does nothing, so what it takes is what a kernel costs that waits for the one
before it: called by PyTorch, as a node of a CUDA graph, and as the body of a compiled loop of JAX.
Beside what a backend takes for an epoch, in time and in energy, stand the number of kernels that it
executes, what as many nodes of a graph would take, and what the data from the host and the
arithmetic take at the highest rates. float32 without TF32, all of it from one core, each time the
lowest tenth of many calls.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.helpers.blocks import CORE, Call, pinned, turn
from harness import Task
from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.measure.trainer import Trainer, at_once
from harness.tables.text import render
from harness.task.work import work
from harness.trial.epoch_time import undisturbed
from harness.trial.jobs import TurnsJob

KERNELS, TIMES = 1000, 20
SIDE = 8192
BYTES = 2**30
ONE_BY_ONE = ("torch", "torch-tuned", "jax", "jax-step", "jax-tuned")
MANY = ("torch-tuned", "jax", "jax-tuned")


def operator() -> Call:
    """Return a call: seconds of a kernel on one element that PyTorch is asked for, and of it."""
    x = _on_gpu(1)

    def some() -> None:
        for _ in range(KERNELS):
            x.neg_()

    return _timed(some, KERNELS)


def graph_node() -> Call:
    """Return the same for a node of a CUDA graph."""
    import torch

    x = _on_gpu(1)
    x.neg_()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(KERNELS):
            x.neg_()
    return _timed(graph.replay, KERNELS)


def loop_of_xla() -> Call:
    """Return the same for a turn of a compiled loop of JAX with one kernel in it."""
    import jax
    import jax.numpy as jnp

    def body(x: Any, _: None) -> tuple[Any, None]:
        return jnp.sin(x), None

    run = jax.jit(lambda x: jax.lax.scan(body, x, length=KERNELS)[0])
    x = jnp.ones(1)

    def call() -> float:
        start = now()
        run(x).block_until_ready()
        return (now() - start) / KERNELS

    return call


def multiply_add() -> Call:
    """Return a call: seconds of a multiply-add in a large product of matrices."""
    import torch

    a, b = _on_gpu(SIDE, SIDE), _on_gpu(SIDE, SIDE)
    out = torch.empty_like(a)
    return _timed(lambda: torch.mm(a, b, out=out), SIDE**3)


def byte() -> Call:
    """Return a call: seconds of a byte that is read or written in a copy on the GPU."""
    source = _on_gpu(BYTES // 4)
    target = source.clone()
    return _timed(lambda: target.copy_(source), 2 * BYTES)


def byte_from_host() -> Call:
    """Return a call: seconds of a byte of an array of NumPy that is copied to the GPU."""
    import torch

    array = np.ones(2**22, np.float32)  # As large as the inputs of a call at most.
    return _timed(lambda: torch.from_numpy(array).to("cuda"), array.nbytes)


COSTS: Mapping[str, tuple[Callable[[], Call], str]] = {
    "operator of PyTorch": (operator, "us"),
    "node of a CUDA graph": (graph_node, "us"),
    "turn of a loop of XLA": (loop_of_xla, "us"),
    "multiply-add": (multiply_add, "thousand million a second"),
    "byte on the GPU": (byte, "GB a second"),
    "byte from the host": (byte_from_host, "GB a second"),
}


def _on_gpu(*shape: int) -> Any:
    import torch

    torch.backends.cuda.matmul.fp32_precision = "ieee"
    return torch.randn(shape, device="cuda")


def _timed(work: Callable[[], object], units: int) -> Call:
    import torch

    def call() -> float:
        torch.cuda.synchronize()
        start = now()
        work()
        torch.cuda.synchronize()
        return (now() - start) / units

    return call


class Looked(Trainer):
    """The process of a backend on the GPU, and what is seen of it."""

    def __init__(self, task: Task, backend: str, seeds: int, cores: tuple[int, ...]) -> None:
        self.epochs = task.chunk_epochs(seeds)
        job = TurnsJob(
            task=task,
            backend=backend,
            device="gpu",
            threads=1,
            exclusive=True,
            seed=0,
            seeds=tuple(range(seeds)) if seeds > 1 else (),
        )
        super().__init__(job, cores)
        self.ready()
        self.train(self.epochs)  # Compiles.
        self.pin(CORE)

    def row(self, costs: Mapping[str, float]) -> dict[str, str]:
        """Return what an epoch takes, and the least that its kernels, data and arithmetic do."""
        task, seeds = self.job.task, len(self.job.seeds) or 1
        epoch_s = undisturbed([self.train(self.epochs).wall_s for _ in range(TIMES)]) / self.epochs
        joules = self.epoch_j(self.epochs)
        number = self.profile(self.epochs).counts.get("kernels", 0.0)
        products = seeds * work(task.model, task.n_steps, task.batch_size)["multiply_add"]
        numbers = seeds * task.batch_size * (2 * task.n_steps + 1)
        return {
            "backend": self.job.backend,
            "seeds at once": f"{seeds}",
            "us per epoch": f"{1e6 * epoch_s:.0f}",
            "mJ": "" if joules is None else f"{1e3 * joules:.0f}",
            "kernels": f"{number:.0f}",
            "us per kernel": f"{1e6 * epoch_s / number:.2f}" if number else "",
            "as nodes us": f"{1e6 * number * costs['node of a CUDA graph']:.0f}",
            "data us": f"{1e6 * 4 * numbers * costs['byte from the host']:.3g}",
            "multiply-adds us": f"{1e6 * products * costs['multiply-add']:.3g}",
        }


def rows(task: Task, seeds: Sequence[int], costs: Mapping[str, float]) -> Iterator[dict[str, str]]:
    """Yield a row for each backend. They start together, and are looked at one after the other."""
    arms = [(name, n) for n in seeds for name in (MANY if n > 1 else ONE_BY_ONE)]
    cores: SimpleQueue[int] = SimpleQueue()
    for core in machine.usable_cores():
        cores.put(core)

    def start(backend: str, number: int) -> Looked:
        core = cores.get()
        try:
            return Looked(task, backend, number, (core,))
        finally:
            cores.put(core)

    for trainer in at_once([partial(start, *arm) for arm in arms], cores.qsize()):
        with trainer:
            yield trainer.row(costs)


def main() -> None:
    """Print the costs, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hidden", type=int, default=Task().hidden)
    parser.add_argument("--seeds-at-once", default="1,64,4096")
    options = parser.parse_args()
    gpu = machine.describe_gpu()
    if not gpu:
        print("`nvidia-smi` names no GPU here")
        return
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    print(f"{timestamp()}, {gpu['gpu']}, driver {gpu['gpu_driver']}\n")
    with pinned():
        costs = {name: undisturbed(turn(make())) for name, (make, _) in COSTS.items()}
    for name, (_, unit) in COSTS.items():
        print(f"{name}: {1e6 * costs[name] if unit == 'us' else 1e-9 / costs[name]:.4g} {unit}")
    seeds = list(map(int, options.seeds_at_once.split(",")))
    print(f"\n{render(pd.DataFrame(rows(Task(hidden=options.hidden), seeds, costs)), 'markdown')}")


if __name__ == "__main__":
    main()
