"""What the profiles of a run show: rules of time for each backend, and why one is slower."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import pandas as pd

from harness.diagnosis.joined import Observation
from harness.diagnosis.rules_of_time import evaluation, observe, time_text
from harness.diagnosis.timed import Timed, profiled
from harness.diagnosis.types import Evidence, Rule
from harness.tables.numbers import large, percent, ratio
from harness.tables.profile import PARTS, Part
from harness.trial.sweep import SweepPoint

_SLOWER = 1.2
"""A profile knows a time to some per cent only."""
_OFF = 0.05
"""If the timed turns have another factor than the profiles, by so much, both are said."""
_NAMED = 0.1
"""Of the difference, a part that is less is not named."""
_WORDS: dict[Part, str] = {
    "arithmetic": "the arithmetic itself",
    "memory": "moving data between memory and core",
    "system": "memory that the system hands out anew",
    "calls": "making calls",
    "python": "Python between calls",
    "copies": "copies",
    "optimiser": "the optimiser",
    "prediction": "predictions inside the training",
    "compilation": "compiling again",
    "collection": "garbage collection",
    "waiting": "waiting",
    "rest": "its operators beyond their limits",
}


def on_time(
    profile: pd.DataFrame, trials: pd.DataFrame, points: Sequence[SweepPoint]
) -> Iterator[Observation]:
    """Yield what the profiles show; nothing of a run without them."""
    by_point: dict[str, list[Timed]] = defaultdict(list)
    for point, timed in profiled(profile, trials, points):
        by_point[str(point)].append(timed)
        for rule, evidence in observe(timed):
            yield Observation(rule, evidence, (timed.arm,), str(point))
        if dear := evaluation.look(timed):
            yield Observation(evaluation.rule, dear, (timed.arm,), str(point))
    for where, backends in by_point.items():
        yield from _slower(backends, where)


def _slower(backends: Sequence[Timed], point: str) -> Iterator[Observation]:
    """Say why each is slower than the fastest on its device that trains as many seeds at once."""
    kinds: dict[tuple[str, int], list[Timed]] = defaultdict(list)
    for one in backends:
        kinds[one.device, one.at_once].append(one)
    for kind in kinds.values():
        alike = sorted(kind, key=lambda one: one.epoch_s)
        for slow in alike[1:]:
            if slow.epoch_s > _SLOWER * alike[0].epoch_s:
                yield _difference(slow, alike[0], point)


def _difference(slow: Timed, fast: Timed, point: str) -> Observation:
    more_s = slow.epoch_s - fast.epoch_s
    factor = f"{ratio(slow.epoch_s / fast.epoch_s)}x"
    differences = {part: slow.parts[part] - fast.parts[part] for part in PARTS}
    largest = sorted(PARTS, key=lambda part: -differences[part])
    named = [part for part in largest if differences[part] > _NAMED * more_s] or largest[:1]
    because = ", ".join(
        f"{_WORDS[part]} ({time_text(differences[part])}, {percent(differences[part] / more_s)})"
        for part in named
    )
    made = [
        f"{b.backend} makes {large(b.operations)} {b.kind} calls"
        for b in (slow, fast)
        if b.operations
    ]
    return Observation(
        Rule("slower-because", "info", f"Why {slow.arm} is slower than {fast.arm}."),
        Evidence(
            f"{factor} as much time: {time_text(slow.epoch_s)} an epoch against "
            f"{time_text(fast.epoch_s)}{_timed(slow, fast)}. Of the {time_text(more_s)} more, the "
            f"largest parts are: {because}."
            + (f" In an epoch, {' and '.join(made)}." if made else ""),
            "",
            factor,
            weight=more_s,
        ),
        (fast.arm, slow.arm),
        point,
    )


def _timed(slow: Timed, fast: Timed) -> str:
    """Return what the timed turns say, if they do not say the same."""
    if not slow.timed_s or not fast.timed_s:
        return ""
    profiled, timed = slow.epoch_s / fast.epoch_s, slow.timed_s / fast.timed_s
    return f" ({ratio(timed)}x in the timed turns)" if abs(timed / profiled - 1) > _OFF else ""
