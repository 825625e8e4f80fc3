"""How the rules of the diagnosis write seeds, formulas and options."""

from __future__ import annotations

from harness.backend.protocol import Array
from harness.diagnosis.trainings import Which
from harness.tables.numbers import short
from harness.task.task import Task

_NAMED_SEEDS = 5


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


def lag_term(weight: float) -> str:
    """Return the lag term as it follows another: `+ 0.1*x_(t-1)^2`."""
    return f"{'+' if weight >= 0 else '-'} {abs(weight):g}*x_(t-1)^2"


def target(weight: float) -> str:
    """Return the function that is learned: `x_t^2 + 0.1*x_(t-1)^2`."""
    return f"x_t^2 {lag_term(weight)}"


def settings(task: Task) -> str:
    """Return the options that make this task from the default one, except for the sign."""
    default = Task().model_dump() | {"train_sign": task.train_sign}
    changed = {name: v for name, v in task.model_dump().items() if v != default[name]}
    return "".join(f" --set {name}={value}" for name, value in changed.items())
