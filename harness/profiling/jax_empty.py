"""What a kernel costs that computes next to nothing: in a compiled program, and in a trace."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from harness.profiling import hlo
from harness.profiling.jax_trace import Run, gaps_s

_NUMBERS, _INNER, _TURNS, _TRIES = 4, 250, 40, 15


class Empty:
    """A program whose kernels cannot become one: a loop of `_INNER` turns, as often as asked."""

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        def turn(_: object, carried: Any) -> Any:
            numbers, array = carried
            return [3 * n + place for place, n in enumerate(numbers)], array * 0.5

        def turns(count: Any, carried: Any) -> Any:
            def inner(_: object, carried: Any) -> Any:
                return jax.lax.fori_loop(0, _INNER, turn, carried)

            return jax.lax.fori_loop(0, count, inner, carried)

        # A loop that carries less than a kilobyte would be compiled into a single kernel.
        start = [jnp.int32(n) for n in range(_NUMBERS)], jnp.zeros(256, jnp.float32)
        self._start = jax.device_put(start)
        self._program = jax.jit(turns).lower(1, self._start).compile()
        text = hlo.program(self._program.as_text() or "")
        self._kernels = sum(kernel.count for kernel in text.kernels)
        self._inner = {kernel.name for kernel in text.kernels if kernel.count == _INNER}
        self.module = text.name
        self.seconds = self._seconds()
        """Of a kernel, without a trace."""
        self.traced_s = self.gap_s = self.profiler_s = 0.0
        """How long a trace says that it takes, and until the next one; what the trace adds."""

    def run(self, turns: int = 1) -> float:
        """Return how long so many turns take."""
        import jax

        start_s = time.perf_counter()
        jax.block_until_ready(self._program(turns, self._start))
        return time.perf_counter() - start_s

    def compare(self, runs: Iterable[Run]) -> None:
        """Take from a trace how it sees a kernel. On a device, it sees the truth."""
        for run in runs:
            if run.program[0] == self.module and not run.on_device:
                inner = [e for e in run.executed if e.name in self._inner]
                self.traced_s = low([e.end_s - e.start_s for e in inner])
                self.gap_s = low(list(gaps_s(inner)))
                self.profiler_s = max(0.0, self.traced_s + self.gap_s - self.seconds)

    def _seconds(self) -> float:
        many, one = (min(self.run(n) for _ in range(_TRIES)) for n in (_TURNS + 1, 1))
        return max(1e-9, (many - one) / _TURNS / self._kernels)


def low(seconds: list[float]) -> float:
    """Return the lower quartile: above it are disturbances."""
    return sorted(seconds)[len(seconds) // 4] if seconds else 0.0
