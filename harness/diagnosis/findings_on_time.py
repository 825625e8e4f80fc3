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
    """Say of each backend why it is slower than the fastest on its device."""
    for device in dict.fromkeys(one.device for one in backends):
        alike = sorted((b for b in backends if b.device == device), key=lambda b: b.epoch_s)
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
        Rule("slower-because", "info", f"{fast.arm} is {factor} as fast as {slow.arm}, and why."),
        Evidence(
            f"Of the {time_text(more_s)} that an epoch of {slow.backend} takes longer "
            f"({time_text(slow.epoch_s)} against {time_text(fast.epoch_s)}), most are: {because}."
            + (f" In an epoch, {' and '.join(made)}." if made else ""),
            "",
            factor,
            weight=more_s,
        ),
        (fast.arm, slow.arm),
        point,
    )
