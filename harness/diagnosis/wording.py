"""How the rules of the diagnosis write seeds, formulas and options."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from harness.backend.protocol import Array
from harness.diagnosis.types import Which
from harness.inputs.commands import command
from harness.tables.numbers import short
from harness.task.task import PRESETS, Task

if TYPE_CHECKING:
    from harness.diagnosis.curve import Curve
    from harness.diagnosis.observed import Observed

RUN = "RUN"
"""The run in a command, until it is known how the command line takes it."""
_NAMED_SEEDS = 5
_FAULTS = ("train_sign", "gradient")


def span(values: Array) -> str:
    """Return the smallest and the largest of some numbers: `0.1 to 0.2`."""
    low, high = short(values.min()), short(values.max())
    return low if low == high else f"{low} to {high}"


def epochs(count: float) -> str:
    """Return a number of epochs that is known roughly: `8,200`."""
    return f"{float(f'{count:.2g}'):,.0f}"


def count(some_S: Which) -> str:
    """Return how many seeds those are: `2 of 3`."""
    return f"{int(some_S.sum())} of {len(some_S)}"


def seeds(all_seeds: tuple[int, ...], some_S: Which) -> str:
    """Name some of the seeds: `seed 3`, `seeds 1, 4, 5, 6, 7 and 9 more`."""
    some = [str(seed) for seed, chosen in zip(all_seeds, some_S, strict=True) if chosen]
    more = f" and {len(some) - _NAMED_SEEDS} more" if len(some) > _NAMED_SEEDS else ""
    return f"seed{'s' * (len(some) > 1)} {', '.join(some[:_NAMED_SEEDS])}{more}"


def target(weight: float, lag: int) -> str:
    """Return the function that is learned: `x_t^2 + 0.1*x_(t-4)^2`."""
    return f"x_t^2 {'+' if weight >= 0 else '-'} {abs(weight):g}*{past(lag)}^2"


def past(lag: int) -> str:
    """Return the value so many steps back: `x_(t-4)`."""
    return f"x_(t-{lag})"


def without_past(steps: int) -> str:
    """Return the first steps, which have no lag term: `t = 1`, `t <= 4`."""
    return f"t {'=' if steps == 1 else '<='} {steps}"


def run_without(task: Task, **mended: object) -> str:
    """Return the command that runs a task with some faults mended, between backticks."""
    default, task = Task(), task.changed(**mended)
    faults = {n: getattr(task, n) for n in _FAULTS if getattr(task, n) != getattr(default, n)}
    preset = next(name for name, fields in PRESETS.items() if fields == faults)
    return f"`{command('run', '--preset', preset, *settings(task, set(faults)))}`"


def settings(task: Task, without: Container[str] = ()) -> list[str]:
    """Return the options that make a task of the default one, but for some fields."""
    default = Task()
    changed = {
        name: value
        for name, value in task.model_dump().items()
        if value != getattr(default, name) and name not in without
    }
    return [word for name, value in changed.items() for word in ("--set", f"{name}={value}")]


def listed(values: Array) -> str:
    """Return numbers in a sentence: `0.4, 1.09 and 0.7`."""
    *some, last = map(short, values)
    return f"{', '.join(some)} and {last}" if some else last


def first_steps(number: int) -> str:
    """Return the first time steps in a sentence: `1, 2 and 3`."""
    *some, last = map(str, range(1, number + 1))
    return f"{', '.join(some)} and {last}" if some else last


def ranges(numbers: Iterable[int]) -> str:
    """Return increasing numbers, neighbours as a range: `1 to 3, 7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]} to {p[-1]}" if p[1:] else str(p[0]) for p in parts)


def most(some_S: Which) -> bool:
    """Return whether those are more than half of the seeds."""
    return bool(some_S.sum() * 2 > len(some_S))


def in_seeds(observed: Observed, some_S: Which) -> str:
    """Return how a sentence on some seeds begins: `In 2 of 3 seeds the`, `The` of predictions."""
    return f"In {count(some_S)} seeds the" if observed.seeds else "The"


def halfway(curve: Curve, some_S: Which) -> str:
    """Return the error of some seeds halfway: `0.2 at epoch 500`."""
    half = len(curve.epochs_K) // 2
    error = curve.mse_SK[some_S, half].mean()
    return f"{short(error)} at epoch {int(curve.epochs_K[half])}"


def end(curve: Curve, some_S: Which) -> str:
    """Return the error of some seeds at the end."""
    return short(curve.mse_SK[some_S, -1].mean())
