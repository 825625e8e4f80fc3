"""How fast every backend is next to the floor of this machine, and whether the targets are met.

    python -m benchmarks.speed [--blocks N] [--seeds-at-once R] [--jobs] [--memory] [--compile]

In each block every backend has a fresh process, all of them pinned to one and the same core, and
they take turns in random order. A call trains as many epochs as a trial does in one. The time of a
backend in a block is the lowest tenth of its calls; ratios are formed inside blocks, and the
interval is Student's t over blocks. The default task, one thread, float32.

`--jobs` times whole jobs (64 seeds on both frameworks; packed against exclusive), `--memory`
trains for a million epochs, `--compile` includes what takes minutes to compile.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from statistics import median

import pandas as pd

import harness
from benchmarks.helpers.blocks import CORE, Call, in_blocks, ratio, ratio_text
from harness import Task
from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.measure.process import JobFailed
from harness.measure.trainer import Trainer
from harness.tables.text import render
from harness.trial.jobs import TurnsJob

ONE_BY_ONE = ("floor", "jax", "jax-step", "jax-tuned", "torch", "torch-tuned")
MANY = ("floor", "jax", "jax-tuned", "torch-tuned")
LONG_COMPILES = ("torch-compile",)
TARGETS = {
    ("jax-tuned", False): 1.8,
    ("jax-tuned", True): 1.2,
    ("torch-tuned", False): 8.0,
    ("torch-tuned", True): 2.0,
}
"""By name and whether many seeds are trained at once: the largest ratio to the floor."""


class Timed(Trainer):
    """The process of a backend, which trains when it is called: seconds per epoch and seed."""

    def __init__(self, backend: str, at_once: int) -> None:
        self.at_once = at_once
        seeds = tuple(range(at_once)) if at_once > 1 else ()
        job = TurnsJob(
            task=Task(),
            backend=backend,
            device="cpu",
            threads=1,
            exclusive=True,
            seed=0,
            seeds=seeds,
        )
        super().__init__(job, CORE)
        self.ready()
        self._epochs = Task().chunk_epochs(at_once)
        self.first_call_s = self() * self._epochs * at_once

    def __call__(self) -> float:
        return self.train(self._epochs).wall_s / self._epochs / self.at_once


class Backends:
    """Starts the backends of a block, and keeps how long their first calls took."""

    def __init__(self, at_once: int, long_compiles: bool) -> None:
        one = (*ONE_BY_ONE, *(LONG_COMPILES if long_compiles else ()))
        many = MANY if at_once > 1 else ()
        self.arms = {
            **{name: (name, 1) for name in one},
            **{f"{name}, {at_once} at once": (name, at_once) for name in many},
        }
        self.first_calls: dict[str, list[float]] = {}

    def start(self, stack: ExitStack) -> Mapping[str, Call]:
        """Start those that run here."""
        trainers = {}
        for arm, (name, at_once) in list(self.arms.items()):
            try:
                trainers[arm] = stack.enter_context(Timed(name, at_once))
            except JobFailed as error:
                print(f"{arm}: left out: {error}", file=sys.stderr)
                del self.arms[arm]
            else:
                self.first_calls.setdefault(arm, []).append(trainers[arm].first_call_s)
        return trainers


def table(backends: Backends, times: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Return a row per backend: time, ratio to the floor and its target, first call."""
    rows, floor = [], times["floor"]
    for arm, seconds in sorted(times.items(), key=lambda item: median(item[1])):
        name, at_once = backends.arms[arm]
        limit = TARGETS.get((name, at_once > 1))
        met = "yes" if ratio(seconds, floor)[0] <= (limit or 0) else "no"
        rows.append(
            {
                "backend": name,
                "seeds at once": at_once,
                "ms per epoch and seed": f"{1e3 * median(seconds):.3f}",
                "x floor": ratio_text(seconds, floor),
                "target": f"{limit:g}: {met}" if limit else "",
                "first call s": f"{median(backends.first_calls[arm]):.2f}",
            }
        )
    return pd.DataFrame(rows)


def _target(what: str, value: float, limit: float, detail: str = "") -> dict[str, str]:
    return {
        "target": what,
        "at most": f"{limit:g}",
        "measured": f"{value:.2f}{detail}",
        "met": "yes" if value <= limit else "no",
    }


def jobs() -> Iterator[dict[str, str]]:
    """Time whole jobs, from the command to its end."""

    def command(*arguments: str) -> float:
        with tempfile.TemporaryDirectory() as results:
            start = now()
            code = os.spawnl(
                *(os.P_WAIT, sys.executable, sys.executable, "-m", "harness", "run"),
                *("--results", results, *arguments),
            )
            if code:
                raise SystemExit(f"`{' '.join(arguments)}` ended with {code}")
            return now() - start

    both = ("--backends", "jax-tuned,torch-tuned", "--seeds", "64", "--vectorize", "--packed")
    yield _target("64 seeds on both frameworks, s", command(*both), 60)
    exclusive, packed = command("--seeds", "4"), command("--seeds", "4", "--packed")
    yield _target("default job of 4 seeds, packed / exclusive", packed / exclusive, 0.6)


def memory() -> Iterator[dict[str, str]]:
    """Hold the memory of a trial of a million epochs against one of twenty thousand."""
    peaks = []
    for epochs in (20_000, 1_000_000):
        with tempfile.TemporaryDirectory() as results:
            task = Task(epochs=epochs, eval_paths=100)
            run = harness.run(task, backends=["floor"], seeds=1, dispatch="inline", results=results)
            peaks.append(float(run.trials["peak_rss_mb"].iloc[0]))
    detail = f" ({peaks[1]:.0f} / {peaks[0]:.0f} MB)"
    yield _target("memory at 1,000,000 / at 20,000 epochs", peaks[1] / peaks[0], 1.05, detail)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each backend in a block")
    parser.add_argument("--seeds-at-once", type=int, default=64)
    parser.add_argument("--jobs", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    backends = Backends(options.seeds_at_once, options.compile)
    times = in_blocks(backends.start, options.blocks, options.rounds)
    about = machine.describe()
    print(
        f"{timestamp()}, {about['cpu']}, {about['cores']} cores, one of them used; "
        f"{options.blocks} blocks of fresh processes\n"
    )
    print(render(table(backends, times), "markdown"))
    met = [*(jobs() if options.jobs else ()), *(memory() if options.memory else ())]
    if met:
        print(render(pd.DataFrame(met), "markdown"))


if __name__ == "__main__":
    main()
