"""The settings of the gate: `[tool.harness.gate]` in `pyproject.toml`, and options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

from pydantic import Field, field_validator

from harness.backend import registry
from harness.backend.command import PREFIX
from harness.backend.command import TABLE as BACKENDS
from harness.errors import InvalidInput, build_all
from harness.inputs.pyproject import problems, read_table
from harness.inputs.validated import Fraction, Seconds, Validated
from harness.trial.arms import InstalledBackend, Selection

Tolerance: TypeAlias = Annotated[Fraction, Field(gt=0)]
ErrorRate: TypeAlias = Annotated[Fraction, Field(gt=0, lt=0.5)]


class Override(Validated):
    """The limits of one backend; None means the limit of all backends."""

    max_slowdown: Tolerance | None = None
    max_accuracy_loss: Tolerance | None = None


class GateSettings(Selection):
    """What the gate allows and how it measures; 0.02 and `2%` are the same.

    Raises `InvalidInput` with a sentence for every bad or unknown field.
    """

    max_slowdown: Tolerance = 0.02
    """How much longer training may take."""
    max_concentrated_slowdown: Tolerance = 0.10
    """How much longer training may take by calls that are rare and long."""
    max_accuracy_loss: Tolerance = 0.10
    """How much larger the MSE may be."""
    max_step_accuracy_loss: Tolerance = 0.25
    """How much larger the MSE of a single time step may be."""
    max_lag_skill_loss: Tolerance = 0.05
    """How much `lag_skill` may fall, where it was above 0; a difference."""
    false_alarms: ErrorRate = 0.01
    """How often a gate on identical code may fail, all its comparisons together."""
    misses: ErrorRate = 0.05
    """How often a change exactly as large as is allowed may pass."""
    budget_s: Annotated[Seconds, Field(gt=0)] = 180.0
    """How long to measure at most, such as `90s` or `3m`."""
    yardstick: InstalledBackend = "reference"
    """The backend whose time stands for the speed of a machine."""
    max_slowdown_across: Tolerance = 0.10
    """How much longer training may take than in a baseline from another machine."""
    process_noise: Fraction = 0.01
    """The relative standard deviation of a time between fresh processes."""
    backend: Mapping[str, Override] = Field(default_factory=dict)
    """The limits of single backends, by name."""

    @field_validator("yardstick")
    @classmethod
    def _has_a_name(cls, value: str) -> str:
        # A baseline holds it, and no file from elsewhere may run a command.
        if value.startswith(PREFIX):
            raise ValueError(f"give the command a name in [{BACKENDS}] of `pyproject.toml`")
        return value

    @field_validator("backend", mode="before")
    @classmethod
    def _overrides(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {name: _override(name, fields) for name, fields in value.items()}

    @classmethod
    def read(cls, folder: Path, **options: Any) -> Self:
        """Read the nearest `pyproject.toml` in `folder` or above it.

        `options` that are not None replace what is in the file, for single backends, too. Raises
        `InvalidInput` with all problems of both.
        """
        given = {name: value for name, value in options.items() if value is not None}
        table, _ = build_all(lambda: cls._checked_table(folder), lambda: cls(**given))
        overrides = {
            name: {key: value for key, value in fields.items() if key not in given}
            for name, fields in table.get("backend", {}).items()
        }
        return cls(**table | {"backend": overrides} | given)

    @classmethod
    def _checked_table(cls, folder: Path) -> dict[str, Any]:
        """Return the gate's table of the nearest file; raise `InvalidInput` if it is bad."""
        path, table = read_table(folder, _TABLE)
        try:
            cls(**table)
        except InvalidInput as error:
            raise problems(path, _TABLE, *error.problems) from None
        return table

    def for_backend(self, name: str) -> Self:
        """Return the settings with the limits of one backend."""
        override = self.backend.get(name, Override())
        return self.model_copy(update=override.model_dump(exclude_none=True))


_TABLE = "tool.harness.gate"


def _override(name: str, fields: object) -> Override:
    registry.check(name)
    try:
        return fields if isinstance(fields, Override) else Override.model_validate(fields)
    except InvalidInput as error:
        raise InvalidInput(
            *(f"backend `{name}`: {problem}" for problem in error.problems)
        ) from None
