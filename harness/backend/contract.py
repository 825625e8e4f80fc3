"""Checks what a backend returns: a wrong type or shape raises an error that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.backend.model import Model
from harness.backend.protocol import Array, Params
from harness.errors import ContractViolation


def train_result(result: Any, shape: tuple[int, ...]) -> tuple[Any, Array]:
    """Return the state and the losses that `train` gave: one loss per epoch and seed."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise ContractViolation(f"`train` returned {_describe(result)}; expected (state, losses).")
    return result[0], _array("`train` losses", result[1], shape)


def outputs(result: Any, shape: tuple[int, ...]) -> Array:
    """Return the outputs that `predict` gave: one per step fed and path."""
    return _array("`predict` outputs", result, shape)


def params(result: Any, model: Model, seeds: int) -> Params:
    """Return the parameters that `params_many` gave, each of shape [seeds, *shape in the model]."""
    if not isinstance(result, dict) or set(result) != set(model.shapes):
        got = ", ".join(sorted(map(str, result))) if isinstance(result, dict) else _describe(result)
        raise ContractViolation(f"`params` returned {got}; expected {', '.join(model.shapes)}.")
    return {
        name: _array(f"`params` {name}", result[name], (seeds, *shape))
        for name, shape in model.shapes.items()
    }


def explanation(result: Any) -> dict[str, float]:
    """Return what `explain_training` gave: a number of seconds, or a count, by name."""
    if not isinstance(result, Mapping):
        raise ContractViolation(
            f"`explain_training` returned {_describe(result)}; expected a mapping of numbers."
        )
    for name, value in result.items():
        number = isinstance(value, int | float | np.number) and math.isfinite(value) and value >= 0
        if not (number and isinstance(name, str)):
            raise ContractViolation(
                f"`explain_training` {name}: got {value!r:.80}; expected a number from 0 on."
            )
    return {name: float(value) for name, value in result.items()}


def _array(what: str, value: Any, shape: tuple[int, ...]) -> Array:
    is_float = isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
    if not is_float or value.shape != shape:
        raise ContractViolation(
            f"{what}: got {_describe(value)}; expected a NumPy array of floats of shape {shape}."
        )
    return np.asarray(value)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"
