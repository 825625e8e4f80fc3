"""How long an epoch takes: the one place where the time of a training is computed.

Disturbances only make a call longer, and they hit unlike backends unlike. So the time of a trial is
what it takes undisturbed: a low quantile of its calls, less the time that it waited for the
processor. `mean_epoch_s` is the mean of all the calls, disturbances included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.trial.record import Chunk, Record

QUANTILE = 0.1
"""The share of the calls that may be faster than the time of a trial."""


def epoch_s(record: Record) -> float | None:
    """Return the undisturbed time of an epoch in seconds; None if nothing was timed."""
    if record.timing == "trials":
        last = record.points[-1] if record.points else None
        return last.train_s / last.epoch if last else None
    calls_s = times_s(record)
    return undisturbed(calls_s) if calls_s else None


def mean_epoch_s(record: Record) -> float | None:
    """Return the mean time of an epoch in seconds, disturbances included."""
    if record.timing == "trials":
        return epoch_s(record)
    calls_s = times_s(record)
    return float(np.mean(calls_s)) if calls_s else None


def train_s(record: Record) -> float | None:
    """Return the undisturbed time of the training in seconds, all its seeds together."""
    usual_s = epoch_s(record)
    return record.points[-1].epoch * usual_s if record.points and usual_s else None


def of_training(record: Record, name: str) -> float | None:
    """Return a counter of the calls for the whole training; None if a call lacks it.

    If only some calls were timed, the others are taken to be like them.
    """
    values = [getattr(chunk, name) for chunk in record.chunks]
    if not values or None in values:
        return None
    timed = sum(chunk.epochs or 0 for chunk in record.chunks)
    trained = record.points[-1].epoch if record.points else 0
    return float(sum(values)) * (trained / timed if timed else 1)


def counted(record: Record) -> list[Chunk]:
    """Return the calls that count for the time of an epoch."""
    return [chunk for chunk in record.chunks if chunk.counted]


def times_s(record: Record) -> list[float]:
    """Return the time of an epoch in each call that counts, less what it waited."""
    chunk_epochs = record.task.chunk_epochs(record.at_once)
    return [
        (chunk.wall_s - (chunk.waited_s or 0.0)) / (chunk.epochs or chunk_epochs)
        for chunk in counted(record)
    ]


def undisturbed(times: Sequence[float]) -> float:
    """Return what most of the calls [n] would take if nothing disturbed them."""
    return float(np.quantile(times, QUANTILE))
