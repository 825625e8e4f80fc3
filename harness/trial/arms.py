"""An arm is a backend on a device; `Selection` is what a user asks for."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from harness.backend import registry
from harness.errors import InvalidInput, did_you_mean, printable
from harness.inputs.validated import Validated
from harness.trial.limits import LONGEST_NAME

Device: TypeAlias = Literal["cpu", "gpu"]
DEVICES: tuple[Device, ...] = ("cpu", "gpu")


def _of_letters(name: str) -> str:
    """Return the name. Raises `ValueError` if it has what cannot be printed on a line."""
    if not name.isprintable():
        raise ValueError("the name of a backend has only characters that can be printed")
    return name


_Backend: TypeAlias = Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(_of_letters)]


class Arm(BaseModel):
    """A backend on a device: one of the things that a run compares."""

    model_config = ConfigDict(frozen=True)

    backend: _Backend
    device: Device

    def __str__(self) -> str:
        return f"{self.backend} on {self.device}"


def _installed(name: str) -> str:
    """Return the name. Raises `ValueError` if there is no backend of that name."""
    try:
        registry.check(name)
    except InvalidInput as error:
        # A word of the command line need not be Unicode; pydantic's messages are.
        raise ValueError(printable(str(error))) from None
    return name


InstalledBackend: TypeAlias = Annotated[_Backend, AfterValidator(_installed)]
"""The name of a backend that can be found."""


class Selection(Validated):
    """Backends and devices. Raises `InvalidInput` with a sentence for every bad value."""

    backends: tuple[InstalledBackend, ...] = ("torch", "jax")
    """Names (see `harness list`), `module:Class` or `process:COMMAND`."""
    devices: Literal["auto"] | tuple[Device, ...] = "auto"
    """Which devices; "auto" is the CPU, and a GPU where there is one."""

    @field_validator("backends", "devices", mode="before")
    @classmethod
    def _listed(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and value != "auto":
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        if info.field_name == "devices" and value != "auto":
            for name in value if isinstance(value, list | tuple) else [value]:
                if name not in DEVICES:
                    near = did_you_mean(str(name), DEVICES)
                    raise ValueError(f"should be `auto`, or some of `cpu` and `gpu`{near}")
        return value

    @field_validator("backends", "devices")
    @classmethod
    def _distinct(cls, value: tuple[Any, ...] | str) -> tuple[Any, ...] | str:
        return value if isinstance(value, str) else distinct(value)

    def arms(self, has_gpu: bool) -> tuple[Arm, ...]:
        """Return every backend on every device; `has_gpu` decides what "auto" means."""
        auto = DEVICES if has_gpu else DEVICES[:1]
        devices = auto if self.devices == "auto" else self.devices
        return tuple(Arm(backend=b, device=d) for d in devices for b in self.backends)


def distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the value. Raises `ValueError` if it is empty or has a duplicate."""
    if not value or len(set(value)) < len(value):
        raise ValueError("name at least one, and none of them twice")
    return value
