"""A sweep: a grid over fields of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import NamedTuple, TypeAlias

from harness.errors import InvalidInput
from harness.task.task import Task

Value: TypeAlias = int | float | str
"""The value of a task field."""
_MOST_POINTS = 100_000


class SweepPoint(NamedTuple):
    """A point of a sweep; a run without a sweep has one point without values."""

    values: Mapping[str, Value]
    task: Task

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.values.items())


def grid(task: Task, sweep: Mapping[str, Sequence[object]]) -> tuple[SweepPoint, ...]:
    """Return the points of a sweep over fields of a task; the last field changes fastest.

    Raises `InvalidInput` with a sentence for each unknown field and each value not allowed.
    """
    problems: dict[str, None] = {}
    for name, values in sweep.items():
        if name not in Task.model_fields:
            problems[f"`sweep`: {Task.unknown_name(name)}."] = None
        texts = [str(value) for value in values]
        twice = [text for text in texts if texts.count(text) > 1]
        if not values:
            problems[f"`sweep` {name}: name at least one value."] = None
        elif twice:
            problems[f"`sweep` {name}: `{twice[0]}` is there twice; name each value once."] = None
    if (count := prod(map(len, sweep.values()))) > _MOST_POINTS:
        problems[f"`sweep` has {count:,} points; at most {_MOST_POINTS:,} are possible."] = None
    points = []
    for values in [] if problems else product(*sweep.values()):
        changes = dict(zip(sweep, values, strict=True))
        try:
            changed = task.changed(**changes)
        except InvalidInput as error:
            problems |= dict.fromkeys(error.problems)
        else:
            # The command line sends text; the task has turned it into numbers.
            points.append(SweepPoint({name: getattr(changed, name) for name in sweep}, changed))
    if not problems and len({point.task for point in points}) < len(points):
        problems["`sweep`: two of the values are the same number; name each once."] = None
    if problems:
        raise InvalidInput(*problems)
    return tuple(points)


def swept_values(task: Task, sweep: Mapping[str, Sequence[object]]) -> dict[str, tuple[Value, ...]]:
    """Return the validated values of each swept field. Raises the same errors as `grid`."""
    points = grid(task, sweep)
    return {name: tuple(dict.fromkeys(point.values[name] for point in points)) for name in sweep}
