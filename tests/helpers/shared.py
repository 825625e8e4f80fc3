"""Backends that several tests of a file use, because JAX compiles for seconds."""

from __future__ import annotations

from typing import Any

from harness.backend import registry
from harness.backend.model import Model
from harness.backend.protocol import Backend

_KEPT: dict[tuple[str, Model], Backend[Any]] = {}


def shared(name: str, model: Model) -> Backend[Any]:
    """Return the same backend every time, with what it has compiled."""
    # Another one is made even so: it tells JAX anew which precision this process uses.
    return _KEPT.setdefault((name, model), registry.load(name)(model, "cpu"))
