"""What an instrument saw of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from harness.trial.profile import Call, Stretch

Train: TypeAlias = Callable[[], float]
"""Trains some more epochs, always as many; returns the seconds of the call, less what it waited
for the processor."""


@dataclass(frozen=True)
class Seen:
    """Numbers are per epoch; the names are those of `harness.trial.profile.Profile`."""

    source: str
    profiled_s: float
    seconds: Mapping[Stretch, float]
    counts: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()
