"""Takes the state of the machine out of the times of a run's blocks.

A busy host slows a core for longer than a block lasts, and unlike backends unlike: one whose data
do not fit into the core's own caches waits for the cache that it shares. Then no quantile of a
block's calls is undisturbed. But the probe, timed around each turn, tells the state of the machine
(`harness.measure.probe`). How a backend's time follows the probe is estimated from all its turns in
a run, and each block is brought to the state of the calmest one: the control variates of simulation
(Lavenberg and Welch, 1981). The correction interpolates between states that were seen, and knows
nothing of any result.

All blocks share the estimated slope, so its error does not show in how much they differ. The
jackknife makes it show (Tukey, 1958): what a block stands for in a mean is how far it moves the
mean of all, the slope included. What that adds to its own time is its `correction_error`.

Shape suffixes: M turns, N trials of an arm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from harness.backend.protocol import Array
from harness.trial.epoch_time import QUANTILE, TimedTurn, epoch_s, of_whole_blocks, turns
from harness.trial.record import Record

_Place: TypeAlias = tuple[object, ...]

_WINDOW = 3
"""Rounds over which the probe is averaged: one look at it is noisy, and states last for seconds."""
_FEWEST_TURNS = 20
_STEEPEST = 1.0
"""A backend cannot follow the probe by more: nothing is slower than what only waits for memory."""
_FITS = 20


class InCalm(NamedTuple):
    """A trial as it would be in the calmest state of its run."""

    epoch_s: float | None
    """The undisturbed time of an epoch; None if nothing was timed."""
    error: float = 0.0
    """What to add to the logarithm of the time before a mean over blocks is formed. Over all trials
    of an arm it adds up to 0, so only the interval changes: it then holds the error of the
    correction, too."""
    slower_memory: float = 0.0
    """How much slower memory was around it than in the calmest block: 0.1 is 10 %; 0 if nothing
    is known."""


def in_calm(records: Sequence[Record]) -> list[InCalm]:
    """Return each record as it would be in the calmest state of its run."""
    whole = of_whole_blocks(records)
    found = []
    for number, record in enumerate(records):
        seconds = epoch_s(record)
        found.append(InCalm(seconds and seconds * whole.get(number, 1.0)))
    for trials in _places(records):
        states, (factors, errors) = _states(trials), _corrections(trials)
        for number, timed in trials.items():
            seconds = found[number].epoch_s
            found[number] = InCalm(
                seconds and seconds * factors.get(number, 1.0),
                errors.get(number, 0.0),
                float(np.expm1(states[timed.block].level)),
            )
    return found


def _places(records: Sequence[Record]) -> Iterable[dict[int, _Timed]]:
    """Return the trials that were probed, by their number, for each task and node of a run."""
    by_place: dict[_Place, dict[int, _Timed]] = defaultdict(dict)
    for number, record in enumerate(records):
        done = turns(record)
        # What a GPU does takes no core, and a trial that failed is compared with nothing.
        compared = record.device == "cpu" and record.status not in {"failed", "lost"}
        if compared and done and all(turn.memory_s and turn.epoch_s > 0 for turn in done):
            place = (record.run, record.node, record.task, record.timing)
            by_place[place][number] = _Timed(record, done)
    return by_place.values()


class _Timed(NamedTuple):
    """A record and its turns."""

    record: Record
    turns: list[TimedTurn]

    @property
    def block(self) -> _Place:
        """What the trials have in common whose turns alternated."""
        return self.record.block, self.record.trial if self.record.timing == "alone" else ""

    @property
    def arm(self) -> _Place:
        """What the trials have in common that are compared with each other."""
        return self.record.backend, self.record.at_once


class _State(NamedTuple):
    """The logarithm of the probe in the rounds of a block; 0 is the level of the calmest block."""

    level: float
    """A low quantile."""
    of_round: Mapping[int, float]


def _corrections(trials: Mapping[int, _Timed]) -> tuple[dict[int, float], dict[int, float]]:
    """Return the factor that brings each trial to the calmest state among them, and its error."""
    states = _states(trials)
    factors: dict[int, float] = {}
    errors: dict[int, float] = {}
    for numbers in _arms(trials):
        if len(numbers) == 1:  # Its levels say nothing of how it follows the probe.
            continue
        level_N = np.array([states[trials[n].block].level for n in numbers])
        slope, without_N = _slopes([(trials[n].turns, states[trials[n].block]) for n in numbers])
        moves_N = (without_N - slope) * (level_N.sum() - level_N)
        factors |= dict(zip(numbers, np.exp(-slope * level_N).tolist(), strict=True))
        errors |= dict(zip(numbers, (moves_N - moves_N.mean()).tolist(), strict=True))
    return factors, errors


def _arms(trials: Mapping[int, _Timed]) -> Iterable[list[int]]:
    arms: dict[_Place, list[int]] = defaultdict(list)
    for number, timed in trials.items():
        arms[timed.arm].append(number)
    return arms.values()


def _states(trials: Mapping[int, _Timed]) -> dict[_Place, _State]:
    """Return the state of the machine in each block."""
    seen: dict[_Place, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for numbers in _arms(trials):
        # What a backend itself leaves in the caches is the same after each of its turns.
        logs = {n: np.log([turn.memory_s or np.nan for turn in trials[n].turns]) for n in numbers}
        usual = np.median(np.concatenate(list(logs.values())))
        for n in numbers:
            for turn, value in zip(trials[n].turns, logs[n] - usual, strict=True):
                seen[trials[n].block][turn.round].append(float(value))
    low = {
        block: np.quantile([v for values in rounds.values() for v in values], QUANTILE)
        for block, rounds in seen.items()
    }
    calmest = min(low.values())
    return {
        block: _State(float(low[block] - calmest), _smooth(rounds))
        for block, rounds in seen.items()
    }


def _smooth(rounds: Mapping[int, Sequence[float]]) -> Mapping[int, float]:
    """Return the mean of each round and its neighbours."""
    numbers = sorted(rounds)
    means = np.array([np.mean(rounds[number]) for number in numbers])
    around = np.lib.stride_tricks.sliding_window_view(np.pad(means, _WINDOW // 2, "edge"), _WINDOW)
    return dict(zip(numbers, around.mean(axis=1).tolist(), strict=True))


def _slopes(trials: Sequence[tuple[Sequence[TimedTurn], _State]]) -> tuple[float, Array]:
    """Return by how much the time of a backend follows the probe: 0 not at all, 1 in proportion.

    A line through the logarithms of all its turns, by least squares in which turns far off it count
    less (Huber). The second result is the slope without each trial in turn [N].
    """
    trial_M = np.repeat(np.arange(len(trials)), [len(done) for done, _ in trials])
    x_M = np.array([state.of_round[turn.round] for done, state in trials for turn in done])
    y_M = np.log([turn.epoch_s for done, _ in trials for turn in done])
    if len(x_M) < _FEWEST_TURNS or not np.ptp(x_M):
        return 0.0, np.zeros(len(trials))
    weights_M = np.ones(len(x_M))
    for _ in range(_FITS):
        off_M = abs(y_M - np.polyval(np.polyfit(x_M, y_M, 1, w=np.sqrt(weights_M)), x_M))
        scale = max(1.5 * 1.4826 * float(np.median(off_M)), 1e-9)
        weights_M = np.minimum(1.0, scale / np.maximum(off_M, scale))
    moments_M = weights_M * np.array([np.ones_like(x_M), x_M, y_M, x_M * x_M, x_M * y_M])
    moments_N = np.array([np.bincount(trial_M, row, len(trials)) for row in moments_M])
    total = moments_N.sum(axis=1, keepdims=True)
    return float(_line(total)[0]), _line(total - moments_N)


def _line(moments: Array) -> Array:
    """Return slopes within their bounds, given weighted sums of 1, x, y, x * x and x * y."""
    one, x, y, xx, xy = moments
    spread = one * xx - x * x
    flat = spread <= 1e-9 * one * xx
    slopes: Array = np.clip((one * xy - x * y) / np.where(flat, np.inf, spread), 0.0, _STEEPEST)
    return slopes
