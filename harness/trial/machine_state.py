"""Takes the state of the machine out of the times of a run's blocks.

A busy host slows a core for longer than a block lasts, and unlike backends unlike: one whose data
do not fit into the core's own caches waits for the cache that it shares. Then no quantile of a
block's calls is undisturbed. But the probe, timed around each turn, tells the state of the machine
(`harness.measure.probe`). How a backend's time follows the probe is estimated from all its turns in
a run, and each block is brought to the state of the calmest one: the control variates of simulation
(Lavenberg and Welch, 1981). The correction interpolates between states that were seen, and knows
nothing of any result.

Shape suffixes: M turns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from harness.backend.protocol import Array
from harness.trial.epoch_time import QUANTILE, TimedTurn, epoch_s, turns
from harness.trial.record import Record

_Place: TypeAlias = tuple[object, ...]

_WINDOW = 3
"""Rounds over which the probe is averaged: one look at it is noisy, and states last for seconds."""
_FEWEST_TURNS = 20
_STEEPEST = 1.0
"""A backend cannot follow the probe by more: nothing is slower than what only waits for memory."""
_FITS = 20


def epoch_times(records: Sequence[Record]) -> list[float | None]:
    """Return the undisturbed time of an epoch of each record, in the calmest state of its run."""
    times = [epoch_s(record) for record in records]
    by_place: dict[_Place, list[int]] = defaultdict(list)
    timed: dict[int, _Timed] = {}
    for number, record in enumerate(records):
        done = turns(record)
        # What a GPU does takes no core.
        if record.device == "cpu" and done and all(turn.memory_s for turn in done):
            timed[number] = _Timed(record, done)
            place = (record.run, record.node, record.task, record.timing)
            by_place[place].append(number)
    for numbers in by_place.values():
        for number, factor in _corrections({n: timed[n] for n in numbers}).items():
            if (seconds := times[number]) is not None:
                times[number] = seconds * factor
    return times


class _Timed(NamedTuple):
    """A record and its turns."""

    record: Record
    turns: list[TimedTurn]

    @property
    def block(self) -> _Place:
        """What the trials have in common whose turns alternated."""
        return self.record.block, self.record.trial if self.record.timing == "alone" else ""


class _State(NamedTuple):
    """The logarithm of the probe in the rounds of a block."""

    level: float
    """A low quantile."""
    of_round: Mapping[int, float]


def _corrections(trials: Mapping[int, _Timed]) -> dict[int, float]:
    """Return the factor that brings each trial to the calmest state among them."""
    arms: dict[_Place, list[int]] = defaultdict(list)
    for number, timed in trials.items():
        arms[timed.record.backend, timed.record.at_once > 1].append(number)
    probes_M: dict[int, Array] = {}
    for numbers in arms.values():
        # What a backend itself leaves in the caches is the same after each of its turns.
        own = {n: np.log([turn.memory_s or np.nan for turn in trials[n].turns]) for n in numbers}
        usual = np.median(np.concatenate(list(own.values())))
        probes_M |= {n: values_M - usual for n, values_M in own.items()}
    states = _states(trials, probes_M)
    calmest = min(state.level for state in states.values())
    factors = {}
    for numbers in arms.values():
        slope = _slope([(trials[n].turns, states[trials[n].block]) for n in numbers])
        for n in numbers:
            factors[n] = float(np.exp(-slope * (states[trials[n].block].level - calmest)))
    return factors


def _states(trials: Mapping[int, _Timed], probes_M: Mapping[int, Array]) -> dict[_Place, _State]:
    seen: dict[_Place, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number, timed in trials.items():
        for turn, probe in zip(timed.turns, probes_M[number], strict=True):
            seen[timed.block][turn.round].append(float(probe))
    return {block: _state(rounds) for block, rounds in seen.items()}


def _state(rounds: Mapping[int, Sequence[float]]) -> _State:
    numbers = sorted(rounds)
    means = np.array([np.mean(rounds[number]) for number in numbers])
    around = np.lib.stride_tricks.sliding_window_view(np.pad(means, _WINDOW // 2, "edge"), _WINDOW)
    everything = np.concatenate([np.asarray(values) for values in rounds.values()])
    of_round = dict(zip(numbers, around.mean(axis=1).tolist(), strict=True))
    return _State(float(np.quantile(everything, QUANTILE)), of_round)


def _slope(trials: Iterable[tuple[Sequence[TimedTurn], _State]]) -> float:
    """Return by how much the time of a backend follows the probe: 0 not at all, 1 in proportion.

    A line through the logarithms of all its turns, by least squares in which turns far off it count
    less (Huber).
    """
    pairs = [
        (state.of_round[turn.round], np.log(turn.epoch_s))
        for done, state in trials
        for turn in done
    ]
    x_M, y_M = np.array(pairs).T
    if len(x_M) < _FEWEST_TURNS or not np.ptp(x_M):
        return 0.0
    weights_M = np.ones(len(x_M))
    slope = 0.0
    for _ in range(_FITS):
        slope, level = np.polyfit(x_M, y_M, 1, w=np.sqrt(weights_M))
        off_M = abs(y_M - slope * x_M - level)
        scale = max(1.5 * 1.4826 * float(np.median(off_M)), 1e-9)
        weights_M = np.minimum(1.0, scale / np.maximum(off_M, scale))
    return float(np.clip(slope, 0.0, _STEEPEST))
