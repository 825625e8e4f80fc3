"""A sweep: a grid over fields of the task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import NamedTuple, TypeAlias

from harness.errors import InvalidInput, build_all
from harness.task.task import Task

Value: TypeAlias = int | float | str
"""The value of a task field."""
_MOST_POINTS = 100_000
_MOST_PROBLEMS = 20
"""Of more bad points of a sweep, the first are named."""


class SweepPoint(NamedTuple):
    """A point of a sweep; a run without a sweep has one point without values."""

    values: Mapping[str, Value]
    task: Task

    def __str__(self) -> str:
        return text_of(self.values)


def text_of(values: Mapping[str, Value]) -> str:
    """Return the values of a point as text: `hidden=64, cell=gru`."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def grid(task: Task, sweep: Mapping[str, Sequence[object]]) -> tuple[SweepPoint, ...]:
    """Return the points of a sweep over fields of a task; the last field changes fastest.

    Raises `InvalidInput` as `swept_values` does, and if a combination of values is no task.
    """
    problems: dict[str, None] = {}
    points, base = [], task.model_dump(exclude_unset=True)
    for values in every_point(swept_values(sweep)):
        try:
            points.append(SweepPoint(values, Task(**base | values)))
        except InvalidInput as error:
            problems |= dict.fromkeys(error.problems)
            if len(problems) >= _MOST_PROBLEMS:
                break
    if problems:
        raise InvalidInput(*problems)
    return tuple(points)


def every_point(sweep: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
    """Yield the values at each point of a sweep, in order."""
    for values in product(*sweep.values()):
        yield dict(zip(sweep, values, strict=True))


def count_points(sweep: Mapping[str, Sequence[object]]) -> int:
    """Return how many points there are, without making them."""
    return prod(map(len, sweep.values()))


def swept_values(sweep: Mapping[str, Sequence[object]]) -> dict[str, tuple[Value, ...]]:
    """Return the values of each swept field as a task has them: the command line sends text.

    Raises `InvalidInput` with a sentence for each unknown field and each that has a bad value, and
    if there are too many points. Whether the values go together is seen by `grid`.
    """
    if (count := count_points(sweep)) > _MOST_POINTS:
        few = f"at most {_MOST_POINTS:,} are possible"
        raise InvalidInput(f"`sweep` has {shown_count(count)} points; {few}.")
    unknown = [name for name in sweep if name not in Task.model_fields][:_MOST_PROBLEMS]
    if unknown:
        raise InvalidInput(*(f"`sweep`: {Task.unknown_name(name)}." for name in unknown))
    checked = [partial(_checked, name, values) for name, values in sweep.items()]
    return dict(zip(sweep, build_all(*checked), strict=True))


def shown_count(count: int) -> str:
    """Return a count to show: up to a billion exactly."""
    return f"{count:,}" if count < 10**9 else "a billion or more"


def _checked(name: str, values: Sequence[object]) -> tuple[Value, ...]:
    if not values:
        raise InvalidInput(f"`sweep` {name}: name at least one value.")
    found = Task.values_of(name, values)
    text, often = Counter(map(str, values)).most_common(1)[0]
    if often > 1:
        raise InvalidInput(f"`sweep` {name}: `{text}` is there twice; name each value once.")
    if len(set(found)) < len(found):
        raise InvalidInput(
            f"`sweep` {name}: two of the values are the same number; name each once."
        )
    return found
