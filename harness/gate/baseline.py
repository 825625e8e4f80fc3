"""A baseline: how fast and how good each backend was, in a file that other machines can use.

Times are ratios to a yardstick backend that was measured in the same duels, so they say something
on another machine, too; the times themselves hold on the same machine only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from harness.errors import InvalidInput, brief
from harness.store.files import write_whole
from harness.store.manifest import refuse_newer
from harness.task.task import Task
from harness.trial.arms import Device

SchemaVersion: TypeAlias = Literal[1]
SCHEMA_VERSION: SchemaVersion = 1


class BaselineArm(BaseModel):
    """One backend on one device; a value per duel, whose number is its seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backend: str
    device: Device
    log_ratios: tuple[float, ...] = Field(min_length=2)
    """Of its time per epoch over the yardstick's."""
    epoch_s: tuple[float, ...]
    """Median seconds per epoch."""
    step_mse: tuple[tuple[float, ...], ...]
    """The error on the held-out paths at t = 1..T, at the end of the task."""
    epochs_per_turn: tuple[PositiveInt, PositiveInt]
    """Of the yardstick and of the backend: what a call costs is spread over so many epochs."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        sizes = {len(self.log_ratios), len(self.epoch_s), len(self.step_mse)}
        if len(sizes) > 1 or len({len(row) for row in self.step_mse}) > 1:
            raise ValueError("its lists differ in length")
        return self


class Baseline(BaseModel):
    """What `gate --write-baseline` writes and `gate --baseline` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: SchemaVersion = SCHEMA_VERSION
    created_utc: str
    version: str
    """The code that was measured, as in a sentence."""
    task: Task
    yardstick: str
    yardstick_version: dict[str, str]
    """What its times depend on beside the machine: its code and the packages it uses."""
    fingerprint: dict[str, str]
    """The machine; see `harness.measure.fingerprint`."""
    arms: tuple[BaselineArm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_the_task(self) -> Self:
        if any(len(row) != self.task.n_steps for arm in self.arms for row in arm.step_mse):
            raise ValueError("its errors are not those of its task's time steps")
        return self

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """Read a baseline. Raises `InvalidInput` if it is none, or one of a newer version."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"the baseline `{path}` cannot be read: {error.strerror}.") from None
        try:
            return cls.model_validate_json(content)
        except (ValidationError, InvalidInput) as error:
            refuse_newer(str(path), content, SCHEMA_VERSION)
            raise InvalidInput(
                f"`{path}` cannot be read as a baseline: {brief(error)}; write a new one with "
                f"`gate --write-baseline`."
            ) from None

    def write(self, path: Path) -> None:
        """Write it whole or not at all. Raises `StoreError`."""
        write_whole(path, (self.model_dump_json(indent=1) + "\n").encode())
