"""What a user asks of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.errors import InvalidInput
from harness.measure.clock import timestamp
from harness.runs.settings import Settings, Site
from harness.task.task import PRESETS, Task
from harness.trial.plan import Plan, seeds_at_once
from harness.trial.sweep import grid, swept_values

# The names that users know some fields of the plan by.
_OPTION = {"at_once": "vectorize"}


@dataclass(frozen=True)
class RunRequest:
    """A new run, or a run to resume."""

    task: Task | None = None
    """None: the preset `corrected`, or the task of the resumed run."""
    settings: Settings = field(default_factory=Settings)
    """To resume a run, only those are checked that were passed to `Settings`."""
    site: Site = field(default_factory=Site)
    run_id: str = ""
    """Name of the new run; without one it gets a readable name."""
    resume: str | None = None
    """Name of the run to resume."""

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.resume or self.run_id or readable_id(self.task or Task())

    def check_plan(self, plan: Plan) -> None:
        """Raise `InvalidInput` if the plan of the resumed run differs from what was stated.

        One run never mixes two tasks or two ways of measuring. A plan from elsewhere may also have
        points that are no tasks.
        """
        grid(plan.task, plan.sweep)
        problems = [
            f"`{_OPTION.get(name, name)}` differs: run `{plan.run}` has "
            f"{_describe(getattr(plan, name), value)}, not {_describe(value, getattr(plan, name))}"
            "; start a new run for that."
            for name, value in self._stated(plan)
            if getattr(plan, name) != value
        ]
        if problems:
            raise InvalidInput(*problems)

    def _stated(self, plan: Plan) -> Iterator[tuple[str, Any]]:
        """Yield the fields of the plan that the user stated, and their values."""
        if self.task is not None:
            yield "task", self.task
        for name in sorted(self.settings.model_fields_set - {"timeout_s"}):
            value = getattr(self.settings, name)
            if name == "sweep":
                yield name, swept_values(value)
            elif name == "vectorize":
                yield "at_once", seeds_at_once(value, len(plan.seeds))
            elif name == "seeds" and self.settings.precision is not None:
                pass  # The pilot decides how many there are in the end.
            elif value != "auto":
                yield name, value


def readable_id(task: Task) -> str:
    """Return a name for a run: the preset nearest to its task, and the time."""

    def kind(task: Task) -> tuple[object, ...]:
        return task.lag_weight, task.lag > 1, task.train_sign, task.gradient

    preset = next((n for n in PRESETS if kind(Task.preset(n)) == kind(task)), "custom")
    date, _, time = timestamp().removesuffix("+00:00").partition("T")
    return f"{preset}-{date.replace('-', '')}-{time.replace(':', '')}"


def _describe(value: Any, other: Any) -> str:
    """Describe a value; of two tasks, only the fields in which they differ."""
    if not isinstance(value, Task):
        return f"{value}"
    pairs = value.model_dump().items() ^ other.model_dump().items()
    names = sorted({name for name, _ in pairs})
    return ", ".join(f"{name}={getattr(value, name)}" for name in names)
