"""The base of what a user fills in: every bad field is refused, all at once, in sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from harness.errors import InvalidInput, did_you_mean, nearest, plain
from harness.inputs.quantities import fraction, integer, number, seconds


def _text(parse: Callable[[str], float]) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


_LONGEST = 1000
_MOST_NAMES = 200
_MOST_PROBLEMS = 100
Number: TypeAlias = Annotated[float, _text(number)]
"""A number, or a text that is one to `harness.inputs.quantities.number`."""
Integer: TypeAlias = Annotated[int, _text(integer)]
"""The same without a fraction."""
Fraction: TypeAlias = Annotated[float, BeforeValidator(lambda value: fraction(str(value)))]
"""A share: `2%` and 0.02 are the same."""
Seconds: TypeAlias = Annotated[float, BeforeValidator(lambda value: seconds(str(value)))]
"""A duration: 90, `90s` and `1m30s` are the same."""


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
        words = meant.get(plain(name))
        if words in cls.model_fields:
            return f"unknown name `{name}`: it is called `{words}`"
        near = nearest(name, known)
        if not (words or near):
            near = words = cls.other_names.get(nearest(name, cls.other_names) or "")
        if words and words not in cls.model_fields:
            return f"unknown name `{name}`: {words}"
        guess = f" (did you mean `{near}`?)" if near else ""
        return f"unknown name `{name}`{guess}; known: {', '.join(known)}"

    @classmethod
    def values_of(cls, name: str, values: Sequence[object]) -> tuple[Any, ...]:
        """Return values of one field as the model has them, each checked by itself.

        Raises `InvalidInput` with a sentence for the first bad one.
        """
        try:
            return _checker(cls, name).validate_python(values)
        except ValidationError as error:
            problem = error.errors()[0]
            value = {name: problem["input"]}
            raise InvalidInput(_sentence(cls, value, problem | {"loc": (name,)})) from None

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
        if isinstance(data, Mapping) and len(data) > _MOST_NAMES:
            raise InvalidInput(f"it has {len(data):,} names, of which most are unknown.")
        try:
            return handler(data)
        except ValidationError as error:
            # A file from elsewhere may hold millions.
            problems = error.errors(include_url=False)[:_MOST_PROBLEMS]
            raise InvalidInput(*(_sentence(cls, data, problem) for problem in problems)) from None


@cache
def _checker(model: type[Validated], name: str) -> TypeAdapter[tuple[Any, ...]]:
    field = model.model_fields[name]
    one: Any = Annotated[(field.annotation, field)]
    several: Any = Annotated[tuple[one, ...], FailFast()]
    config = ConfigDict(allow_inf_nan=model.model_config["allow_inf_nan"])
    return TypeAdapter(several, config=config)


def _sentence(model: type[Validated], data: Any, problem: Any) -> str:
    """Turn one of pydantic's error details into a sentence: name, value got, what is allowed."""
    if not problem["loc"]:
        return f"expected a mapping of names to values, got {problem['input']!r}."
    (name, *inside), value = map(str, problem["loc"]), problem["input"]
    if not inside and isinstance(data, Mapping):
        value = data.get(name, value)  # As it was given, not as a validator left it.
    if problem["type"] == "extra_forbidden":
        return f"{model.unknown_name(name)}."
    allowed = "Input is too large" if problem["type"] == "int_parsing_size" else problem["msg"]
    allowed = allowed.removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    allowed = allowed.partition(", unable to parse")[0].replace("a valid tuple", "a list")
    names = re.findall(r"'(.+?)'", problem.get("ctx", {}).get("expected", ""))
    near = did_you_mean(value, names) if isinstance(value, str) else ""
    return f"`{name}` = {_shown(value)}: {allowed}{near}."


def _shown(value: object) -> str:
    if isinstance(value, tuple) and value and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    try:
        shown = repr(value)
    except ValueError:  # Python writes no integer of thousands of digits.
        shown = type(value).__name__
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
