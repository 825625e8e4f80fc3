"""What a run tells those who watch it."""

from __future__ import annotations

from typing import Protocol

from harness.trial.events import Event


class Reporter(Protocol):
    """Shows how a run is going."""

    def begin(self, trials: int, total: int) -> None:
        """`trials` of the `total` are about to run; the others have ended already."""

    def grow(self, total: int) -> None:
        """There will be `total` trials: the pilot decided how many it takes."""

    def event(self, event: Event) -> None:
        """Something happened to a job."""

    def note(self, message: str) -> None:
        """Tell the user something."""


class Silent:
    """The reporter that says nothing."""

    def begin(self, trials: int, total: int) -> None:
        """Say nothing."""

    def grow(self, total: int) -> None:
        """Say nothing."""

    def event(self, event: Event) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""
