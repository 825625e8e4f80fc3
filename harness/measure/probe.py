"""A fixed piece of work, timed beside the turns: it tells the state of the machine.

Neighbours on the same host slow a core in ways that no counter shows, for seconds or minutes, and
slow one backend more than another. The probe is a process of its own on the cores of the turns. It
times a loop of the interpreter, which lives in the core's own caches, and the sum of 8 MB, in order
and in part at random, which live in the cache that cores, and virtual machines, share.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple, Self

from harness.measure.clock import cpu_time
from harness.measure.process import Tree
from harness.measure.settings import THREAD_VARIABLES

_NUMBERS, _WALKED = 1_000_000, 200_000
_STEPS = 30_000


class State(NamedTuple):
    """How long the two pieces of work took: processor time in seconds."""

    interpreter_s: float
    memory_s: float

    def mean(self, other: State) -> State:
        """Return the mean of two."""
        return State(*((a + b) / 2 for a, b in zip(self, other, strict=True)))


class Probe:
    """The process; leaving the context ends it."""

    def __init__(self, cores: tuple[int, ...]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness.measure.probe", *map(str, cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ
            | dict.fromkeys(THREAD_VARIABLES, "1")
            | {"PYTHONPATH": os.pathsep.join(Tree.here().paths)},
            start_new_session=True,  # Ctrl-C is not for it.
        )

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def __call__(self) -> State | None:
        """Return the state of the machine now; None if the process has ended."""
        try:
            self._to.write(b"\n")
            self._to.flush()
            return State(*map(float, self._from.readline().split()))
        except (OSError, TypeError):
            return None


def _serve() -> None:
    """Answer each line of standard input with the two times."""
    import numpy as np

    numbers = np.random.default_rng(0).random(_NUMBERS)
    places = np.random.default_rng(1).permutation(_WALKED)
    table = {n: n for n in range(10_000)}
    for _ in sys.stdin.buffer:
        total, start = 0, cpu_time()
        for n in range(_STEPS):
            total += table[n % 10_000] & 3
        middle = cpu_time()
        numbers.sum()
        numbers[places].sum()
        sys.stdout.buffer.write(f"{middle - start} {cpu_time() - middle}\n".encode())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    os.sched_setaffinity(0, set(map(int, sys.argv[1:])))
    _serve()
