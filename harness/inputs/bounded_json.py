"""JSON that somebody else wrote, read without filling the memory.

A few bytes can stand for a value, and a value takes hundreds of bytes: most where it is wrong, for
pydantic then keeps an error for it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeAlias, TypeVar

import pydantic_core
from pydantic import BaseModel, Field

from harness.inputs.bounded import MOST_BYTES

MOST_NAMES, MOST_VALUES = 1_000_000, 4_000_000
"""Names (each has a colon) and values (each but the last has a comma) in a file."""
_SMALL = 2**18
"""What is not larger costs little, whatever it holds."""
_MOST_IN_ONE = 10_000

T = TypeVar("T")
Several: TypeAlias = Annotated[tuple[T, ...], Field(fail_fast=True)]
"""A tuple in such a file: the first bad value is reported, the others are not looked at."""
Model = TypeVar("Model", bound=BaseModel)


def from_json(model: type[Model], content: str | bytes) -> Model:
    """Return the model that the JSON describes.

    Raises `ValueError` (of pydantic, too), or what the model raises.
    """
    refuse_many(content)
    if len(content) <= _SMALL:
        return model.model_validate_json(content)
    # Of Python's own objects, a thousand wrong ones take less memory than one of pydantic's.
    found = pydantic_core.from_json(content)
    _refuse_many_in_one(found)
    return model.model_validate(found)


def _refuse_many_in_one(value: object) -> None:
    """Raise `ValueError` if an object has too many names: each of them may become an error."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += one
        elif isinstance(one, dict):
            if len(one) > _MOST_IN_ONE:
                raise ValueError(f"an object in it has {len(one):,} names")
            left += one.values()


def loads(content: str | bytes) -> Any:
    """Return what `json.loads` does. Raises `ValueError`."""
    refuse_many(content)
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("its values are too deep inside each other") from None


def refuse_many(content: str | bytes) -> None:
    """Raise `ValueError` if there are too many values; signs in texts are counted as well."""
    colon, comma = (":", ",") if isinstance(content, str) else (b":", b",")
    if len(content) > MOST_BYTES:
        raise ValueError(f"it holds more than {MOST_BYTES:,} bytes")
    if content.count(colon) > MOST_NAMES or content.count(comma) > MOST_VALUES:  # type: ignore[arg-type]
        raise ValueError(f"it holds more than {MOST_NAMES:,} names or {MOST_VALUES:,} values")
