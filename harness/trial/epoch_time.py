"""How long an epoch takes: the one place where the time of a training is computed.

Disturbances only make a call longer, and they hit unlike backends unlike. So the time of a trial is
what it takes undisturbed: a low quantile of its turns, less the time that it waited for the
processor. `mean_epoch_s` is their mean, disturbances included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.trial.record import Chunk, Record

QUANTILE = 0.1
"""The share of the turns that may be faster than the time of a trial."""
FEWEST_ROUNDS = 10
"""A trial that left its block before it has no time that is compared."""


class TimedTurn(NamedTuple):
    """What a trial did in a round."""

    round: int
    epoch_s: float
    """The time of an epoch, less what its calls waited for the processor."""
    memory_s: float | None
    """The probe of the machine around it (`harness.measure.probe`)."""


def epoch_s(record: Record) -> float | None:
    """Return the undisturbed time of an epoch in seconds; None if nothing was timed."""
    if record.timing == "trials":
        last = record.points[-1] if record.points else None
        return last.train_s / last.epoch if last else None
    times_s = [turn.epoch_s for turn in turns(record)]
    return undisturbed(times_s) if times_s else None


def mean_epoch_s(record: Record) -> float | None:
    """Return the mean time of an epoch in seconds, disturbances included."""
    if record.timing == "trials":
        return epoch_s(record)
    times_s = [turn.epoch_s for turn in turns(record)]
    return float(np.mean(times_s)) if times_s else None


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


def turns(record: Record) -> list[TimedTurn]:
    """Return the turns of a record, in order.

    The calls of a turn count as one: a low quantile of short calls would lie further below their
    mean than one of long calls, and fast backends would look faster.
    """
    chunk_epochs = record.task.chunk_epochs(record.at_once)
    calls: dict[int, list[Chunk]] = defaultdict(list)
    for number, chunk in enumerate(record.chunks):
        if chunk.counted:
            # Before schema 6, each call stands for itself.
            calls[-number if chunk.round is None else chunk.round].append(chunk)
    return [
        TimedTurn(
            number,
            sum(max(0.0, chunk.wall_s - (chunk.waited_s or 0.0)) for chunk in chunks)
            / sum(chunk.epochs or chunk_epochs for chunk in chunks),
            chunks[0].memory_s,
        )
        for number, chunks in calls.items()
    ]


def cut_to(record: Record) -> int | None:
    """Return how many epochs a call trained, if the chunks of the curve were cut; else None."""
    epochs = min((chunk.epochs for chunk in record.chunks if chunk.epochs), default=0)
    return epochs if 0 < epochs < record.task.chunk_epochs(record.at_once) else None


def undisturbed(times: Sequence[float]) -> float:
    """Return what most of these times [n] would be if nothing had disturbed them."""
    return float(np.quantile(times, QUANTILE))


def of_whole_blocks(records: Sequence[Record]) -> dict[int, float]:
    """Return the factor, by number, that brings the time of a trial that left to its whole block.

    A trial that diverged or ran out of time knows nothing of the rounds that followed. How the
    others' times of all rounds relate to those of the rounds that it took does (the geometric mean
    over the others): with the factor, its ratio to the only other trial is that of their common
    rounds.
    """
    blocks: dict[tuple[object, ...], dict[int, dict[int, float]]] = defaultdict(dict)
    for number, record in enumerate(records):
        times = {turn.round: turn.epoch_s for turn in turns(record)}
        in_rounds = record.timing == "rounds" and len(times) >= FEWEST_ROUNDS
        if in_rounds and min(times.values()) > 0:
            blocks[record.run, record.block, record.node, record.device][number] = times
    factors = {}
    for block in blocks.values():
        longest = max(map(len, block.values()))
        stayed = [times for times in block.values() if len(times) == longest]
        for number, times in block.items():
            if len(times) < longest:
                changes = [
                    undisturbed(list(other.values())) / undisturbed([other[n] for n in times])
                    for other in stayed
                    if times.keys() <= other.keys()
                ]
                if changes:
                    factors[number] = float(np.exp(np.mean(np.log(changes))))
    return factors
