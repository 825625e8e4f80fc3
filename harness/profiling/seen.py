"""What an instrument saw of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from harness.trial.profile import Call, Stretch


class Train(Protocol):
    """A training that goes on; nothing of it counts any more."""

    def __call__(self, fewer: int | None = None, /) -> float:
        """Train some more epochs: as many as always, or `fewer`.

        Fewer is for frameworks that compile nothing for a length. Returns the seconds of the
        call, those included in which it waited for the processor.
        """


@dataclass(frozen=True)
class Seen:
    """Numbers are per epoch; the names are those of `harness.trial.profile.Profile`."""

    source: str
    profiled_s: float
    seconds: Mapping[Stretch, float]
    counts: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()
