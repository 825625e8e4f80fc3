"""Takes the state of the machine out of the times of a run's blocks.

A busy host slows a core for longer than a block lasts, and unlike backends unlike: one whose data
do not fit into the core's own caches waits for the cache that it shares. Then no quantile of a
block's calls is undisturbed. But the probe, timed around each turn, tells the state of the machine
(`harness.measure.probe`). How a backend's time follows the probe is estimated from all its turns in
a run, and each block is brought to the state of the calmest one: the control variates of simulation
(Lavenberg and Welch, 1981). The correction interpolates between states that were seen, and knows
nothing of any result.

Shape suffixes: C calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from harness.backend.protocol import Array
from harness.trial.epoch_time import QUANTILE, counted, epoch_s, times_s
from harness.trial.record import Record

_Place: TypeAlias = tuple[object, ...]

_WINDOW = 3
"""Rounds over which the probe is averaged: one look at it is noisy, and states last for seconds."""
_FEWEST_CALLS = 20
_STEEPEST = 1.0
"""A backend cannot follow the probe by more: nothing is slower than what only waits for memory."""
_FITS = 20


def epoch_times(records: Sequence[Record]) -> list[float | None]:
    """Return the undisturbed time of an epoch of each record, in the calmest state of its run."""
    times = [epoch_s(record) for record in records]
    by_place: dict[_Place, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        if counted(record) and all(chunk.memory_s for chunk in record.chunks):
            place = (record.run, record.node, record.device, record.task, record.timing)
            by_place[place].append(number)
    for numbers in by_place.values():
        for number, factor in _corrections({n: records[n] for n in numbers}).items():
            if (seconds := times[number]) is not None:
                times[number] = seconds * factor
    return times


class _State(NamedTuple):
    """The logarithm of the probe in the rounds of a block."""

    level: float
    """A low quantile."""
    of_round: Mapping[int | None, float]


def _corrections(records: Mapping[int, Record]) -> dict[int, float]:
    """Return the factor that brings each record to the calmest state among them."""
    arms: dict[_Place, list[int]] = defaultdict(list)
    for number, record in records.items():
        arms[record.backend, record.seeds[1:] != ()].append(number)
    probes_C: dict[int, Array] = {}
    for numbers in arms.values():
        # What a backend itself leaves in the caches is the same after each of its turns.
        own = {
            n: np.log(np.array([c.memory_s for c in counted(records[n])], dtype=float))
            for n in numbers
        }
        usual = np.median(np.concatenate(list(own.values())))
        probes_C |= {n: values_C - usual for n, values_C in own.items()}
    states = _states(records, probes_C)
    calmest = min(state.level for state in states.values())
    factors = {}
    for numbers in arms.values():
        slope = _slope([(records[n], states[_block(records[n])]) for n in numbers])
        for n in numbers:
            factors[n] = float(np.exp(-slope * (states[_block(records[n])].level - calmest)))
    return factors


def _block(record: Record) -> _Place:
    """Return what the trials have in common whose turns alternated."""
    return record.block, record.trial if record.timing == "alone" else ""


def _states(records: Mapping[int, Record], probes_C: Mapping[int, Array]) -> dict[_Place, _State]:
    seen: dict[_Place, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number, record in records.items():
        for chunk, probe in zip(counted(record), probes_C[number], strict=True):
            seen[_block(record)][chunk.round].append(float(probe))
    return {block: _state(rounds) for block, rounds in seen.items()}


def _state(rounds: Mapping[int | None, Sequence[float]]) -> _State:
    numbers = sorted(rounds, key=lambda number: number or 0)
    means = np.array([np.mean(rounds[number]) for number in numbers])
    around = np.lib.stride_tricks.sliding_window_view(np.pad(means, _WINDOW // 2, "edge"), _WINDOW)
    smooth = around.mean(axis=1)
    everything = np.concatenate([np.asarray(values) for values in rounds.values()])
    of_round = dict(zip(numbers, smooth.tolist(), strict=True))
    return _State(float(np.quantile(everything, QUANTILE)), of_round)


def _slope(trials: Iterable[tuple[Record, _State]]) -> float:
    """Return by how much the time of a backend follows the probe: 0 not at all, 1 in proportion.

    A line through the logarithms of all its calls, by least squares in which calls far off it count
    less (Huber).
    """
    pairs = [
        (state.of_round[chunk.round], np.log(seconds))
        for record, state in trials
        for chunk, seconds in zip(counted(record), times_s(record), strict=True)
    ]
    x_C, y_C = np.array(pairs).T
    if len(x_C) < _FEWEST_CALLS or not np.ptp(x_C):
        return 0.0
    weights_C = np.ones(len(x_C))
    slope = 0.0
    for _ in range(_FITS):
        slope, level = np.polyfit(x_C, y_C, 1, w=np.sqrt(weights_C))
        off_C = abs(y_C - slope * x_C - level)
        scale = max(1.5 * 1.4826 * float(np.median(off_C)), 1e-9)
        weights_C = np.minimum(1.0, scale / np.maximum(off_C, scale))
    return float(np.clip(slope, 0.0, _STEEPEST))
