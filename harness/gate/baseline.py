"""A baseline: a stored measurement of how fast each backend trained, and how well.

Times are ratios to a yardstick backend that was measured in the same pairs, so they mean something
on another machine, too. The times themselves hold only on the same machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    model_validator,
)

from harness.errors import InvalidInput, brief
from harness.inputs.bounded_json import Several, from_json
from harness.inputs.commands import command
from harness.inputs.text import read_text
from harness.store.files import write_whole
from harness.store.manifest import refuse_newer
from harness.task.task import Task
from harness.trial.arms import Device

SchemaVersion: TypeAlias = Literal[1]
SCHEMA_VERSION: SchemaVersion = 1


class BaselineArm(BaseModel):
    """One backend on one device: a value per pair, in the order of their seeds 0, 1, ..."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backend: str
    device: Device
    log_ratios: Several[float] = Field(min_length=2)
    """Logarithms of its time per epoch over the yardstick's."""
    epoch_s: Several[float]
    """Median seconds per epoch."""
    step_mse: Several[Several[float]]
    """The error on the held-out paths at t = 1..T, after the training."""
    epochs_per_turn: tuple[PositiveInt, PositiveInt]
    """Epochs per call of the yardstick and of the backend; they share the fixed cost of a call."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        sizes = {len(self.log_ratios), len(self.epoch_s), len(self.step_mse)}
        if len(sizes) > 1 or len({len(row) for row in self.step_mse}) > 1:
            raise ValueError("its lists differ in length")
        return self


class Baseline(BaseModel):
    """The file that `gate --write-baseline` writes and `gate --baseline` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: SchemaVersion = SCHEMA_VERSION
    created_utc: str
    version: str
    """The code that was measured, for a sentence."""
    task: Task
    yardstick: str
    yardstick_version: dict[str, str]
    """What its times depend on, other than the machine: its code and its packages."""
    fingerprint: dict[str, str]
    """The machine (`harness.measure.fingerprint`)."""
    arms: Several[BaselineArm] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_the_task(self) -> Self:
        if any(len(row) != self.task.n_steps for arm in self.arms for row in arm.step_mse):
            raise ValueError("its errors are not those of its task's time steps")
        return self

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """Read a baseline. Raises `InvalidInput` if it is broken or of a newer version."""
        try:
            content = read_text(path)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"the baseline `{path}` cannot be read: {brief(error)}.") from None
        try:
            return from_json(cls, content)
        except (ValueError, InvalidInput) as error:
            refuse_newer(str(path), content.encode(), SCHEMA_VERSION)
            write = command("gate", "--write-baseline", path)
            raise InvalidInput(
                f"`{path}` cannot be read as a baseline: {brief(error)}; a new one: `{write}`."
            ) from None

    def write(self, path: Path) -> None:
        """Write it whole or not at all. Raises `StoreError`."""
        write_whole(path, (self.model_dump_json(indent=1) + "\n").encode())
