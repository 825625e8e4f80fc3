"""What the gate allows and how it measures: `[tool.harness.gate]` in `pyproject.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BeforeValidator, Field, field_validator

from harness.backend import registry
from harness.errors import InvalidInput
from harness.inputs.quantities import fraction, seconds
from harness.inputs.validated import Validated
from harness.trial.arms import Selection, installed

Fraction: TypeAlias = Annotated[float, BeforeValidator(lambda value: fraction(str(value)))]
Seconds: TypeAlias = Annotated[float, BeforeValidator(lambda value: seconds(str(value)))]
Tolerance: TypeAlias = Annotated[Fraction, Field(gt=0)]
ErrorRate: TypeAlias = Annotated[Fraction, Field(gt=0, lt=0.5)]


class Override(Validated):
    """What one backend is allowed; None is what all are."""

    max_slowdown: Tolerance | None = None
    max_accuracy_loss: Tolerance | None = None


class GateSettings(Selection):
    """What a gate allows and how it measures. All changes are relative: 0.02 and `2%` are the same.

    Raises `InvalidInput` with a sentence for every bad or unknown field.
    """

    max_slowdown: Tolerance = 0.02
    """How much longer training may take."""
    max_accuracy_loss: Tolerance = 0.10
    """How much larger the MSE may be."""
    max_step_accuracy_loss: Tolerance = 0.25
    """How much larger the MSE of a single time step may be."""
    max_lag_skill_loss: Tolerance = 0.05
    """How much `lag_skill` may fall, where it was above 0; a difference."""
    false_alarms: ErrorRate = 0.01
    """How often a gate on identical code may fail at most, all its comparisons together."""
    misses: ErrorRate = 0.05
    """How often a change as large as is allowed may pass at most."""
    budget_s: Annotated[Seconds, Field(gt=0)] = 180.0
    """How long to measure at most; `3m` and `90s` are accepted."""
    yardstick: str = "reference"
    """The backend whose time stands for the speed of a machine."""
    max_slowdown_across: Tolerance = 0.10
    """How much longer training may take than in a baseline from another machine."""
    process_noise: Fraction = 0.01
    """The standard deviation of a time from one fresh process to the next, as a share of it."""
    backend: Mapping[str, Override] = Field(default_factory=dict)
    """What single backends are allowed, by name."""

    @field_validator("yardstick")
    @classmethod
    def _installed(cls, value: str) -> str:
        return installed(value)

    @field_validator("backend", mode="before")
    @classmethod
    def _overrides(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {name: _override(name, fields) for name, fields in value.items()}

    @classmethod
    def read(cls, folder: Path, **options: Any) -> Self:
        """Read the table of the nearest `pyproject.toml` in `folder` or above it.

        `options` that are not None come before what is written there, for single backends, too.
        Raises `InvalidInput` with every problem of both.
        """
        given = {name: value for name, value in options.items() if value is not None}
        path = next((p for d in (folder, *folder.parents) if (p := d / _FILE).is_file()), None)
        problems: list[str] = []
        table: dict[str, Any] = {}
        if path is not None:
            try:
                table = _table(path)
                cls(**table)
            except InvalidInput as error:
                problems += [f"`{path}`: [{_TABLE}]: {problem}" for problem in error.problems]
        try:
            cls(**given)
        except InvalidInput as error:
            problems += error.problems
        if problems:
            raise InvalidInput(*problems)
        overrides = {
            name: {key: value for key, value in fields.items() if key not in given}
            for name, fields in table.get("backend", {}).items()
        }
        return cls(**table | {"backend": overrides} | given)

    def for_backend(self, name: str) -> Self:
        """Return the settings as they hold for one backend."""
        override = self.backend.get(name, Override())
        return self.model_copy(update=override.model_dump(exclude_none=True))


_FILE, _TABLE = "pyproject.toml", "tool.harness.gate"


def _override(name: str, fields: object) -> Override:
    registry.check(name)
    try:
        return fields if isinstance(fields, Override) else Override.model_validate(fields)
    except InvalidInput as error:
        raise InvalidInput(
            *(f"backend `{name}`: {problem}" for problem in error.problems)
        ) from None


def _table(path: Path) -> dict[str, Any]:
    """Read the gate's table of a file; empty if it has none."""
    try:
        content: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"the file cannot be read: {' '.join(str(error).split())}.") from error
    for name in _TABLE.split("."):
        content = content.get(name, {})
        if not isinstance(content, dict):
            raise InvalidInput(f"expected a table, got {content!r}.")
    return dict(content)
