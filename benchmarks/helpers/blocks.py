"""Programs timed in blocks: in each block all of them anew, each in a fresh process, in turns.

Rounds of one process are alike: memory is laid out once, code is compiled once. So a block has one
time of each program, and intervals are over blocks.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np

from harness.measure import machine
from harness.measure.clock import now
from harness.stats import estimates
from harness.tables import numbers
from harness.trial.epoch_time import undisturbed

Call: TypeAlias = Callable[[], float]
"""Does some work; returns how many seconds a unit of it took."""

Program = TypeVar("Program", bound=Hashable)
"""What a program is told by."""

CORE = machine.usable_cores()[-1:]
TURN_S = 0.3


def in_blocks(
    start: Callable[[ExitStack], Mapping[Program, Call]], blocks: int, rounds: int
) -> dict[Program, list[float]]:
    """Return the undisturbed seconds of each program in each block.

    `start` starts all programs, to be ended by the stack. In each of the rounds every one has a
    turn, in random order; a first call in it is not counted. What a block measured is printed when
    it ends, so that an interrupted program does not lose it.
    """
    rng, times = random.Random(0), dict[Program, list[float]]()
    for block in range(blocks):
        with ExitStack() as stack:
            print(f"block {block + 1} of {blocks}: starting processes", file=sys.stderr)
            calls = start(stack)
            seconds: dict[Program, list[float]] = {name: [] for name in calls}
            for _ in range(rounds):
                for name in rng.sample(list(calls), len(calls)):
                    seconds[name] += turn(calls[name])
        for name, values in seconds.items():
            times.setdefault(name, []).append(undisturbed(values))
            print(f"{name}: {times[name][-1]:.4g} s", file=sys.stderr)
    return times


def turn(call: Call) -> list[float]:
    """Return what calls return for `TURN_S`; the first warms up."""
    call()
    start, seconds = now(), list[float]()
    while now() - start < TURN_S:
        seconds.append(call())
    return seconds


class Started:
    """A process on `CORE` in which a function, made there, is called when it is asked to be.

    `make` must be importable in another process. It returns None if it cannot be called here; then
    `works` is False.
    """

    def __init__(self, make: Callable[..., Call | None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        with pinned():
            self._process.start()
        theirs.close()
        self.works = bool(self._pipe.recv())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def __call__(self) -> float:
        """Call the function."""
        self._pipe.send(None)
        return float(self._pipe.recv())


def _serve(pipe: Any, make: Callable[..., Call | None], arguments: Sequence[Any]) -> None:
    call = make(*arguments)
    pipe.send(call is not None)
    while call is not None:
        pipe.recv()
        pipe.send(call())


@contextmanager
def pinned() -> Iterator[None]:
    """Let processes that are started here have `CORE` only, before they import anything."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORE)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def ratio(times: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of two programs over the blocks, and its 95 % interval (NaN for one)."""
    estimate = estimates.mean(np.log(times) - np.log(base))
    value, low, high = np.exp([estimate.value, *estimate.interval()]).tolist()
    return value, low, high


def ratio_text(times: Sequence[float], base: Sequence[float]) -> str:
    """Return the ratio as text: `1.22 [1.20, 1.24]`; 1 for the base itself."""
    if times is base:
        return "1"
    value, low, high = ratio(times, base)
    return f"{value:.2f}{numbers.interval(low, high, '{:.2f}'.format)}"
