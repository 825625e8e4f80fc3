"""How fast every backend is next to the floor of this machine, and whether the targets are met.

    python -m benchmarks.speed [--blocks N] [--devices cpu,gpu] [--seeds-at-once R,S] [--hidden H]
                               [--backends A,B] [--epochs N] [--jobs] [--memory] [--compile]

In each block every backend has a fresh process, all of them pinned to one and the same core, and
they take turns in random order; they start as many at once as there are cores. A call trains as
many epochs as a trial does in one, or `--epochs`. The time of a backend in a block is the lowest
tenth of its calls; ratios are formed inside blocks, and the interval is Student's t over blocks.
The default task, one thread, float32. The floor is always that of one core and one seed.

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
from functools import partial
from queue import SimpleQueue
from statistics import median
from typing import NamedTuple

import pandas as pd

import harness
from benchmarks.helpers.blocks import CORE, Call, in_blocks, ratio, ratio_text
from harness import Task
from harness.measure import machine
from harness.measure.clock import now, timestamp
from harness.measure.process import JobFailed
from harness.measure.trainer import Trainer, at_once
from harness.tables.text import render
from harness.trial.arms import Device
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


class Arm(NamedTuple):
    """A backend on a device, and how many seeds it trains at once."""

    backend: str
    device: Device
    seeds: int


FLOOR = Arm("floor", "cpu", 1)


class Timed(Trainer):
    """The process of a backend, which trains when it is called: seconds per epoch and seed."""

    def __init__(self, arm: Arm, task: Task, epochs: int | None, cores: tuple[int, ...]) -> None:
        job = TurnsJob(
            task=task,
            backend=arm.backend,
            device=arm.device,
            threads=1,
            exclusive=True,
            seed=0,
            seeds=tuple(range(arm.seeds)) if arm.seeds > 1 else (),
        )
        super().__init__(job, cores)
        self.ready()
        self._seeds, self._epochs = arm.seeds, epochs or task.chunk_epochs(arm.seeds)
        self.first_call_s = self() * self._epochs * arm.seeds
        self.pin(CORE)

    def __call__(self) -> float:
        return self.train(self._epochs).wall_s / self._epochs / self._seeds


class Backends:
    """Starts the backends of a block, and keeps how long their first calls took."""

    def __init__(self, arms: Sequence[Arm], task: Task, epochs: int | None) -> None:
        self.arms = list(dict.fromkeys([FLOOR, *arms]))
        self.first_calls: dict[Arm, list[float]] = {}
        self._task, self._epochs = task, epochs

    def start(self, stack: ExitStack) -> Mapping[Arm, Call]:
        """Start those that run here, as many at once as there are cores."""
        cores: SimpleQueue[int] = SimpleQueue()
        for core in machine.usable_cores():
            cores.put(core)

        def start(arm: Arm) -> Timed | None:
            core = cores.get()
            try:
                return stack.enter_context(Timed(arm, self._task, self._epochs, (core,)))
            except JobFailed as error:
                print(f"{arm}: left out: {error}", file=sys.stderr)
                self.arms.remove(arm)
                return None
            finally:
                cores.put(core)

        arms = list(self.arms)
        started = at_once([partial(start, arm) for arm in arms], cores.qsize())
        trainers = {arm: one for arm, one in zip(arms, started, strict=True) if one}
        for arm, trainer in trainers.items():
            self.first_calls.setdefault(arm, []).append(trainer.first_call_s)
        return trainers


def arms(options: argparse.Namespace) -> list[Arm]:
    """Return what is to be timed: one seed, then many, on each device."""
    one = (*ONE_BY_ONE, *(LONG_COMPILES if options.compile else ()))
    given = options.backends or (*one, *MANY)
    found = [
        Arm(name, device, seeds)
        for seeds in (1, *options.seeds_at_once)
        for device in options.devices
        for name in (MANY if seeds > 1 else one)
        if name in given and (device, name) != ("gpu", "floor")
    ]
    return list(dict.fromkeys(found))


def table(
    first_calls: Mapping[Arm, Sequence[float]], times: Mapping[Arm, Sequence[float]], targets: bool
) -> pd.DataFrame:
    """Return a row per backend: time, ratio to the floor and its target, first call."""
    rows, floor = [], times[FLOOR]
    for arm, seconds in sorted(times.items(), key=lambda item: median(item[1])):
        limit = TARGETS.get((arm.backend, arm.seeds > 1)) if arm.device == "cpu" else None
        met = "yes" if ratio(seconds, floor)[0] <= (limit or 0) else "no"
        rows.append(
            {
                "backend": arm.backend,
                "device": arm.device,
                "seeds at once": arm.seeds,
                "ms per epoch and seed": f"{1e3 * median(seconds):.4g}",
                "x floor": ratio_text(seconds, floor),
                **({"target": f"{limit:g}: {met}" if limit else ""} if targets else {}),
                "first call s": f"{median(first_calls[arm]):.2f}",
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


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return list(map(int, _names(text)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each backend in a block")
    parser.add_argument("--devices", type=_names, default=["cpu"])
    parser.add_argument("--seeds-at-once", type=_numbers, default=[64])
    parser.add_argument("--hidden", type=int, default=Task().hidden)
    parser.add_argument("--backends", type=_names)
    parser.add_argument("--epochs", type=int, help="epochs of a call")
    parser.add_argument("--jobs", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    task = Task(hidden=options.hidden)
    backends = Backends(arms(options), task, options.epochs)
    times = in_blocks(backends.start, options.blocks, options.rounds)
    about = machine.describe() | (machine.describe_gpu() if "gpu" in options.devices else {})
    print(
        f"{timestamp()}, {about['cpu']}, {about['cores']} cores, one of them used; "
        f"{about.get('gpu', 'no GPU')}; {task.hidden} hidden units; "
        f"{options.blocks} blocks of fresh processes\n"
    )
    print(render(table(backends.first_calls, times, targets=task == Task()), "markdown"))
    met = [*(jobs() if options.jobs else ()), *(memory() if options.memory else ())]
    if met:
        print(render(pd.DataFrame(met), "markdown"))


if __name__ == "__main__":
    main()
