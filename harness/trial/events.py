"""What a dispatcher reports while it runs jobs."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from harness.inputs.bounded_json import Several
from harness.trial.arms import Arm
from harness.trial.jobs import Job, TrialJob
from harness.trial.record import CurvePoint, Name, Record, Shown, Texts


class Check(BaseModel):
    """One quantity compared with the reference, in one precision: its worst element."""

    model_config = ConfigDict(frozen=True)

    quantity: Literal["outputs", "gradient", "losses", "trajectory"]
    dtype: Literal["float32", "float64"]
    network: Shown = ""
    """In a sweep, what sets the network apart: `cell=gru, hidden=64`."""
    at_once: int = 1
    """How many seeds were trained at once."""
    element: Shown
    """Where the error is largest, for example `W_hh[3, 1]`."""
    got: float | None
    want: float
    error: float | None
    """|got - want| / max(|want|, root mean square of its array); None: not finite."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the worst element is within the tolerance."""
        return self.error is not None and self.error <= self.tolerance

    def __str__(self) -> str:
        got = "not finite" if self.got is None else f"{self.got:.10g}"
        how = f" with {self.network}" * bool(self.network)
        how += f" of {self.at_once} seeds at once" * (self.at_once > 1)
        text = (
            f"{self.quantity} in {self.dtype}{how}: worst at {self.element}, got {got}, "
            f"reference {self.want:.10g}"
        )
        if self.error is not None and self.error < float("inf"):
            return f"{text}, relative error {self.error:.1e} (allowed {self.tolerance:.0e})"
        return text if self.got is None or self.want else f"{text}: nothing else is allowed there"


class Certificate(BaseModel):
    """The result of a parity check."""

    model_config = ConfigDict(frozen=True)

    backend: Name
    device: Name
    node: Name
    checks: Several[Check] = ()
    versions: Texts = {}
    """The versions of the packages that were loaded for it."""
    error: Shown | None = None
    """Why the comparison could not be finished; None if it was."""
    peak_rss_mb: float | None = None
    """The memory that the check needed."""
    peak_gpu_mb: float | None = None
    """The memory that its arrays needed on the GPU."""
    fault: Shown = ""
    """What is wrong with it, for example `its gradient is ...`; empty if that is not known."""

    @property
    def arm(self) -> Arm:
        """The backend on the device."""
        return Arm.model_validate({"backend": self.backend, "device": self.device})

    @property
    def many(self) -> bool:
        """Whether it trains many seeds at once."""
        return any(check.at_once > 1 for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether every check ran and passed."""
        return self.error is None and bool(self.checks) and all(c.passed for c in self.checks)

    @property
    def reason(self) -> str:
        """What is wrong and the first check that shows it, as a sentence; empty if nothing is."""
        check = next((f"{c}" for c in self.checks if not c.passed), "")
        if check and self.error and not self.fault:
            return f"{check}; its fault could not be looked for: {self.error}"
        return "; ".join(filter(None, [self.fault, check, self.error]))

    @property
    def differs(self) -> bool:
        """Whether a check failed: it does not compute what the reference computes."""
        return not all(check.passed for check in self.checks)


class Planned(BaseModel):
    """Which trials are about to run, as far as the plan is settled."""

    jobs: tuple[TrialJob, ...]
    """The trials that are about to run."""
    ended: tuple[Record, ...] = ()
    """The trials that have ended and will not run again."""
    pilot: bool = False
    """These trials decide how many more will follow."""
    budget_s: float | None = None
    """What is left of the budget; None: there is none."""


class Started(BaseModel):
    """The process of a job is being started."""

    job: Job


class Progress(BaseModel):
    """A trial reached a point of its convergence curve."""

    job: TrialJob
    point: CurvePoint


class Refused(BaseModel):
    """A job cannot begin: its backend, its device or its node is missing."""

    job: Job
    message: Shown
    node: Shown = ""


class Notice(BaseModel):
    """A message about the nodes for the user."""

    message: Shown


Event: TypeAlias = Planned | Started | Progress | Record | Certificate | Refused | Notice
