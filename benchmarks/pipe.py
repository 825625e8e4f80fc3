"""What the pipe to a backend's process costs: a backend through it against itself without.

    python -m benchmarks.pipe [BLOCKS]

A block is a fresh process of each. Its ratio is that of the fastest chunks, because other work on
the machine only ever adds time. First comes the time of an exchange of arrays with a process that
does nothing, by their size: the fastest of many, on one core as in a trial.
"""

from __future__ import annotations

import os
import sys
import tempfile

import numpy as np

import harness
from benchmarks.helpers.commands import ROOT
from harness.backend.command import Command
from harness.backend.process import ProcessWorker
from harness.measure import machine
from harness.measure.clock import now

SERVE = (sys.executable, "-m", "benchmarks.helpers.serve")
PATHS = (1, 100, 1_000, 10_000, 100_000, 1_000_000)


def compare(backend: str, blocks: int) -> None:
    """Print the time of an epoch without and with the pipe, and their ratio."""
    piped = f"process:{' '.join(SERVE)} {backend}"
    with tempfile.TemporaryDirectory() as results:
        run = harness.run(
            backends=(backend, piped), seeds=blocks, dispatch="inline", results=results
        )
    epochs = harness.Task().chunk_epochs()
    fastest = {
        (r.backend, r.block): min(chunk.wall_s for chunk in r.chunks) / epochs for r in run.records
    }
    times = np.array([[fastest[name, b] for name in (backend, piped)] for b in range(blocks)])
    ratios = times[:, 1] / times[:, 0]
    alone, through = 1e3 * times.min(0)
    print(
        f"{backend:<10} {alone:.4f} ms an epoch alone, {through:.4f} through the pipe "
        f"({epochs} epochs a call); ratio {np.exp(np.log(ratios).mean()):.3f} "
        f"[{ratios.min():.3f}, {ratios.max():.3f}] in {blocks} blocks"
    )


def exchange() -> None:
    """Print the time of a request and its answer, by size."""
    os.sched_setaffinity(0, machine.usable_cores()[-1:])
    worker = ProcessWorker(Command("echo", (*SERVE, "echo"), ROOT))
    backend = worker(harness.Model(), "cpu")
    state = backend.init({})
    for paths in PATHS:
        x_TN = np.ones((10, paths), np.float32)
        times = []
        for _ in range(min(2_000, max(10, 1_000_000 // paths))):
            start = now()
            backend.predict(state, x_TN)
            times.append(now() - start)
        mb = 2 * x_TN.nbytes / 1e6
        best_us = 1e6 * min(times)
        print(f"{mb:10.5f} MB there and back {best_us:9.1f} us, {best_us / mb:9.1f} us/MB")
    worker.close()


def main() -> None:
    """Print all of it."""
    compared = machine.usable_cores()
    exchange()
    os.sched_setaffinity(0, compared)
    blocks = int(sys.argv[1]) if sys.argv[1:] else 5
    for backend in ("reference", "floor"):
        compare(backend, blocks)


if __name__ == "__main__":
    main()
