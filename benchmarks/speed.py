"""How fast every backend is next to the floor of this machine, and whether the targets are met.

    python -m benchmarks.speed [--rounds N] [--seeds-at-once R] [--jobs] [--memory] [--compile]

Every backend waits in a process of its own, all of them pinned to one and the same core, and is
given turns of about `TURN_S` in random order; plain C is timed in between. A turn is calls of as
many epochs as a trial has in one, and a first one of them that does not count. A ratio is formed
inside each round and the table shows the median over the rounds with a 95 % interval (signs of the
median), so what disturbs the machine for longer than a round does not disturb the ratios. Times
are the medians of the rounds. The default task, one thread, float32.

`--jobs` times whole jobs (64 seeds on both frameworks; packed against exclusive), `--memory`
trains for a million epochs, `--compile` includes what takes minutes to compile.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import mean, median
from typing import Any

import pandas as pd
from scipy.stats import binom

import harness
from benchmarks.limits import plain_c
from harness import Task
from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.measure.process import Worker
from harness.tables.text import render
from harness.trial.jobs import TurnsJob

TURN_S = 0.3
CORE = machine.usable_cores()[-1:]
ONE_BY_ONE = ("floor", "jax", "jax-step", "jax-tuned", "torch", "torch-tuned")
MANY = ("floor", "jax", "jax-tuned", "torch-tuned")
LONG_COMPILES = ("torch-compile",)


@dataclass
class Entry:
    """One of the things timed: seconds per epoch and seed, one value a round."""

    name: str
    at_once: int
    turn: Callable[[], float]
    first_call_s: float | None = None
    seconds: list[float] = field(default_factory=list)


def repeated(call: Callable[[], float]) -> float:
    """Return the mean of what calls say that they took, for `TURN_S`; the first warms up."""
    call()
    seconds: list[float] = []
    start = now()
    while now() - start < TURN_S:
        seconds.append(call())
    return mean(seconds)


class Trainer(Worker):
    """The process of a backend, which trains when it is told to."""

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
        super().__init__(job, cores=CORE)
        self._messages = self.messages()
        self._wait_for("ready")
        self.epochs = Task().chunk_epochs(at_once)
        self.first_call_s = self.train(self.epochs)

    def train(self, epochs: int) -> float:
        """Return how many seconds it took to train so many epochs."""
        self.say(f"{epochs}")
        return float(self._wait_for("turn")["wall_s"])

    def turn(self) -> float:
        """Return the seconds per epoch and seed of a turn."""
        return repeated(lambda: self.train(self.epochs)) / self.epochs / self.at_once

    def _wait_for(self, wanted: str) -> Any:
        for kind, value in self._messages:
            if kind == wanted:
                return value
            if kind in {"refused", "failed", "exit"}:
                raise RuntimeError(str(value))
        raise AssertionError("the messages end with one of the above")


def timed(rounds: int, at_once: int, long_compiles: bool) -> list[Entry]:
    """Time everything in turn; return the entries with their times."""
    with ExitStack() as stack:
        entries = list(_entries(stack, at_once, long_compiles))
        rng = random.Random(0)
        for number in range(rounds):
            for entry in rng.sample(entries, len(entries)):
                entry.seconds.append(entry.turn())
            print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr)
    return entries


def _entries(stack: ExitStack, at_once: int, long_compiles: bool) -> Iterator[Entry]:
    task = Task()
    if (c := plain_c(task.n_steps, task.batch_size, task.hidden)) is not None:
        yield Entry("plain C", 1, partial(repeated, c))
    else:
        print("plain C: there is no C compiler; left out", file=sys.stderr)
    names = [(name, 1) for name in (*ONE_BY_ONE, *(LONG_COMPILES if long_compiles else ()))]
    for name, seeds in [*names, *((name, at_once) for name in MANY)]:
        print(f"starting {name} ({seeds})", file=sys.stderr)
        try:
            trainer = Trainer(name, seeds)
        except RuntimeError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        stack.push(trainer)
        yield Entry(name, seeds, trainer.turn, trainer.first_call_s)


def ratio(times: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Return the median over the rounds of the ratio, and its 95 % interval from the signs."""
    ratios = sorted(a / b for a, b in zip(times, base, strict=True))
    k = int(binom.ppf(0.025, len(ratios), 0.5))
    return median(ratios), ratios[max(k - 1, 0)], ratios[min(len(ratios) - k, len(ratios) - 1)]


def table(entries: Sequence[Entry], floor: Entry) -> pd.DataFrame:
    """Return a row per entry: time, ratio to the floor, first call."""
    rows = []
    for entry in sorted(entries, key=lambda entry: median(entry.seconds)):
        value, low, high = ratio(entry.seconds, floor.seconds)
        rows.append(
            {
                "backend": entry.name,
                "seeds at once": entry.at_once,
                "ms per epoch and seed": f"{1e3 * median(entry.seconds):.3f}",
                "x floor": f"{value:.2f} [{low:.2f}, {high:.2f}]",
                "first call s": "-" if entry.first_call_s is None else f"{entry.first_call_s:.2f}",
            }
        )
    return pd.DataFrame(rows)


def targets(entries: Sequence[Entry]) -> Iterator[dict[str, str]]:
    """Yield a row for each target: what was measured, and whether it is met."""
    found = {(entry.name, entry.at_once > 1): entry for entry in entries}
    floor = found["floor", False]
    for name, many, limit in (
        ("jax-tuned", False, 1.8),
        ("jax-tuned", True, 1.2),
        ("torch-tuned", False, 8.0),
        ("torch-tuned", True, 2.0),
    ):
        if (entry := found.get((name, many))) is not None:
            at_once = f", {entry.at_once} seeds at once" if many else ""
            value, low, high = ratio(entry.seconds, floor.seconds)
            yield _target(f"{name} / floor{at_once}", value, limit, f" [{low:.2f}, {high:.2f}]")
    if (c := found.get(("plain C", False))) is not None:
        value, low, high = ratio(floor.seconds, c.seconds)
        yield _target("floor / plain C", value, 1.7, f" [{low:.2f}, {high:.2f}]")
    yield _target("jax, ms per epoch", 1e3 * median(found["jax", False].seconds), 1.0)


def _target(what: str, value: float, limit: float, interval: str = "") -> dict[str, str]:
    return {
        "target": what,
        "at most": f"{limit:g}",
        "measured": f"{value:.2f}{interval}",
        "met": "yes" if value <= limit else "NO",
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
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds-at-once", type=int, default=64)
    parser.add_argument("--jobs", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, CORE)  # For the C, which is called from here.
    entries = timed(options.rounds, options.seeds_at_once, options.compile)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    floor = next(entry for entry in entries if entry.name == "floor" and entry.at_once == 1)
    met = list(targets(entries))
    if options.jobs:
        met += jobs()
    if options.memory:
        met += memory()
    about = machine.describe()
    print(f"{timestamp()}, {about['cpu']}, {about['cores']} cores, one of them used\n")
    print(render(table(entries, floor), "markdown"))
    print(render(pd.DataFrame(met), "markdown"))


if __name__ == "__main__":
    main()
