"""The base of what a user fills in: every bad field is refused, all at once, in sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from harness.errors import InvalidInput, did_you_mean, nearest, plain


class Validated(BaseModel):
    """A frozen model that raises `InvalidInput` with a sentence for every bad or unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    other_names: ClassVar[Mapping[str, str]] = {}
    """What people call a field, and its name here, or words on what they look for."""

    @classmethod
    def unknown_name(cls, name: str) -> str:
        """Say that there is no field of this name, and which one is meant or nearest."""
        known = list(cls.model_fields)
        meant = {plain(other): words for other, words in cls.other_names.items()}
        near = nearest(name, [*known, *cls.other_names])
        words = meant.get(plain(name)) or cls.other_names.get(near or "")
        if words in cls.model_fields:
            words = f"it is called `{words}`"
        if words:
            return f"unknown name `{name}`: {words}"
        return f"unknown name `{name}`{did_you_mean(name, known)}; known: {', '.join(known)}"

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans_for_numbers(cls, value: object, info: Any) -> object:
        # True is an int to Python: `epochs: yes` in a YAML file would train for one epoch.
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("should be a number or a name, not a boolean")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise InvalidInput(*(_sentence(cls, e) for e in error.errors())) from None


def _sentence(model: type[Validated], problem: Any) -> str:
    """Turn one of pydantic's error details into a sentence: name, value got, what is allowed."""
    if not problem["loc"]:
        return f"expected a mapping of names to values, got {problem['input']!r}."
    name, value = str(problem["loc"][0]), problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"{model.unknown_name(name)}."
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    allowed = allowed.partition(", unable to parse")[0]
    names = re.findall(r"'(.+?)'", problem.get("ctx", {}).get("expected", ""))
    names_given = isinstance(value, tuple) and value and all(isinstance(v, str) for v in value)
    shown = ", ".join(value) if names_given else repr(value)
    return f"`{name}` = {shown}: {allowed}{did_you_mean(str(value), names)}."
