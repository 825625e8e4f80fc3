"""Trainings whose epochs do one thing."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from harness.profiling.seen import Train

EPOCHS = 10


def timed(epoch: Callable[[], object], call: Callable[[], object] = lambda: None) -> Train:
    """A training that does `call` once and `epoch` once for each epoch."""

    def train(fewer: int | None = None, /) -> float:
        start = perf_counter()
        call()
        for _ in range(fewer or EPOCHS):
            epoch()
        return perf_counter() - start

    return train
