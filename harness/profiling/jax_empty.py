"""What a kernel costs that computes next to nothing: in a compiled program, and in a trace."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from harness.profiling import hlo
from harness.profiling.jax_trace import Run, gaps_s

_NUMBERS, _INNER, _TURNS, _TRIES = 4, 250, 40, 15
_TRIES_ON_DEVICE = 3  # Each takes half a second there.
_WIDTH = 8  # Products of smaller matrices are written out, and not a library's.


class Empty:
    """Kernels that XLA compiles itself, and those in which it calls a library for a product."""

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        self._plain = _Loop(_count, [jnp.int32(n) for n in range(_NUMBERS)])
        self._loops = {self._plain.module: self._plain}
        if jax.default_backend() == "cpu":  # Elsewhere all calls are launches.
            products = _Loop(_multiply, [jnp.eye(_WIDTH, dtype=jnp.float32)] * 3)
            self._loops[products.module] = products
        self.seconds = self._plain.seconds()
        """Of a kernel, without a trace."""
        self.traced_s = self.gap_s = self.profiler_s = 0.0
        """How long a trace says that it takes, and until the next one; what the trace adds."""
        self.library_s: dict[str, float] = {}
        """How much longer an empty product takes than another kernel, by the library."""

    def run(self) -> None:
        """Execute all of them."""
        for loop in self._loops.values():
            loop.run(1)

    def compare(self, runs: Iterable[Run]) -> list[Run]:
        """Take from a trace how it sees them, and return the other runs.

        Of a device, a trace tells the truth.
        """
        others, gaps, took = [], list[float](), defaultdict[str, list[float]](list)
        for run in runs:
            loop = self._loops.get(run.program[0])
            if loop is None:
                others.append(run)
            elif not run.on_device:
                inner = [one for one in run.executed if one.name in loop.libraries]
                gaps += gaps_s(inner)
                for one in inner:
                    took[loop.libraries[one.name]].append(one.end_s - one.start_s)
        self.traced_s, self.gap_s = low(took.pop("", [])), low(gaps)
        self.profiler_s = max(0.0, self.traced_s + self.gap_s - self.seconds)
        self.library_s = {name: max(0.0, low(s) - self.traced_s) for name, s in took.items()}
        return others


class _Loop:
    """A compiled loop of `_INNER` turns, as often as it is told."""

    def __init__(self, turn: Any, start: list[Any]) -> None:
        import jax
        import jax.numpy as jnp

        def turns(count: Any, carried: Any) -> Any:
            def inner(_: object, carried: Any) -> Any:
                return jax.lax.fori_loop(0, _INNER, turn, carried)

            return jax.lax.fori_loop(0, count, inner, carried)

        turns.__name__ = turn.__name__
        # A loop that carries less than a kilobyte would be compiled into a single kernel.
        self._start = jax.device_put((jnp.zeros(256, jnp.float32), start))
        self._program = jax.jit(turns).lower(1, self._start).compile()
        text = hlo.program(self._program.as_text() or "")
        self.module = text.name
        self.libraries = {k.name: k.library for k in text.kernels if k.count == _INNER}
        self._kernels = sum(kernel.count for kernel in text.kernels)

    def run(self, turns: int) -> float:
        import jax

        start_s = time.perf_counter()
        jax.block_until_ready(self._program(turns, self._start))
        return time.perf_counter() - start_s

    def seconds(self) -> float:
        """Return the time of a kernel."""
        import jax

        tries = _TRIES if jax.default_backend() == "cpu" else _TRIES_ON_DEVICE
        many, one = (min(self.run(n) for _ in range(tries)) for n in (_TURNS + 1, 1))
        return max(1e-9, (many - one) / _TURNS / self._kernels)


def _count(_: object, carried: Any) -> Any:
    array, numbers = carried
    return array * 0.5, [3 * n + place for place, n in enumerate(numbers)]


def _multiply(_: object, carried: Any) -> Any:
    array, (fixed, one, other) = carried
    return array * 0.5, [fixed, one @ fixed, other.T @ fixed]


def low(seconds: list[float]) -> float:
    """Return the lower quartile: above it are disturbances."""
    return sorted(seconds)[len(seconds) // 4] if seconds else 0.0
