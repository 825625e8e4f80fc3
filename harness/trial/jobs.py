"""What a process of its own is started for, and what comes back from it.

Both travel: as JSON to and from the process, and through whatever dispatches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from harness.task.task import Task
from harness.trial.record import Isolation, Point, Record


class _Job(BaseModel):
    model_config = ConfigDict(frozen=True)

    task: Task
    backend: str
    device: Literal["cpu", "gpu"]
    threads: int
    exclusive: bool
    """Nothing runs beside it on the node: it is pinned to `threads` cores of its own."""
    timeout_s: float | None = None

    @property
    def label(self) -> str:
        """Say what it is, for a person."""
        return f"{self.backend} on {self.device}"


class ParityJob(_Job):
    """Hold a backend against the reference."""

    kind: Literal["parity"] = "parity"
    others: tuple[Task, ...] = ()
    """Of a sweep, one task for each other network that is trained."""
    at_once: int = 1
    """How many seeds are to be trained at once, if the backend can."""

    @property
    def networks(self) -> list[tuple[str, Task]]:
        """The tasks, and in what their networks differ: `cell=gru, hidden=64`."""
        tasks = (self.task, *self.others)
        models = [vars(task.model) for task in tasks]
        unlike = [name for name in models[0] if len({model[name] for model in models}) > 1]
        told = [", ".join(f"{name}={model[name]}" for name in unlike) for model in models]
        return list(zip(told, tasks, strict=True))


class TrialJob(_Job):
    """Train once, on the clock."""

    kind: Literal["trial"] = "trial"
    run: str
    trial: str
    block: int
    seed: int
    seeds: tuple[int, ...] = ()
    """To be trained at once, in one go; empty: `seed` alone."""
    point: str = ""
    """Of a sweep, for a person: `hidden=64, `."""
    attempt: int = 1
    """The number of its next attempt: those before were lost with their node, or the driver."""
    go: int = 1
    """How often its block has been begun, this time included."""
    retry_noisy: int = 0
    """How often it is measured again, at most, if it was disturbed."""
    isolation: Isolation = "process"

    @property
    def label(self) -> str:
        """Say what it is, for a person."""
        return f"{super().label}, {self.point}{seed_words(self.seed, self.seeds)}"


class TurnsJob(_Job):
    """Train whenever it is told to, chunk by chunk, so that two of them can take turns."""

    kind: Literal["turns"] = "turns"
    seed: int
    seeds: tuple[int, ...] = ()
    """To be trained at once; empty: `seed` alone."""


Job: TypeAlias = ParityJob | TrialJob
"""What a dispatcher runs."""


class Check(BaseModel):
    """One quantity held against the reference, in one precision: its worst element."""

    model_config = ConfigDict(frozen=True)

    quantity: Literal["outputs", "gradient", "losses", "trajectory"]
    dtype: Literal["float32", "float64"]
    network: str = ""
    """Of a sweep, in what it differs from the others: `cell=gru, hidden=64`."""
    at_once: int = 1
    """How many seeds were trained at once."""
    element: str
    """Where the error is largest, for example `W_hh[3, 1]`."""
    got: float | None
    want: float
    error: float | None
    """Relative: |got - want| over the larger of |want| and its array's root mean square."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the worst element is within the tolerance; an error of None is not finite."""
        return self.error is not None and self.error <= self.tolerance

    def __str__(self) -> str:
        got = "not finite" if self.got is None else f"{self.got:.10g}"
        error = "not finite" if self.error is None else f"{self.error:.1e}"
        how = f" with {self.network}" * bool(self.network)
        how += f" of {self.at_once} seeds at once" * (self.at_once > 1)
        return (
            f"{self.quantity} in {self.dtype}{how}: worst at {self.element}, got {got}, "
            f"reference {self.want:.10g}, relative error {error} (allowed {self.tolerance:.0e})"
        )


class Certificate(BaseModel):
    """The outcome of a parity job."""

    model_config = ConfigDict(frozen=True)

    backend: str
    device: str
    node: str
    checks: tuple[Check, ...] = ()
    versions: dict[str, str] = {}
    """Of the packages that were loaded for it, the harness included."""
    error: str | None = None
    """Why the comparison could not be finished, if it could not."""

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
        """The first thing that is wrong, as a sentence; empty if nothing is."""
        return self.error or next((f"{c}" for c in self.checks if not c.passed), "")


class Planned(BaseModel):
    """What a run consists of, as far as it is settled."""

    jobs: tuple[TrialJob, ...]
    """The trials that are about to run."""
    ended: tuple[Record, ...] = ()
    """Those that have ended and will not run again."""
    pilot: bool = False
    """More trials will follow: these tell how many."""
    budget_s: float | None = None
    """What is left of the budget, if there is one."""


class Started(BaseModel):
    """The process of a job is being started."""

    job: Job
    attempt: int = 1


class Progress(BaseModel):
    """A trial reached a point of its convergence curve."""

    job: TrialJob
    point: Point


class Refused(BaseModel):
    """The backend or the device is not there, so the job cannot even begin."""

    job: Job
    message: str
    node: str = ""


class Notice(BaseModel):
    """Something about the nodes that a person should know."""

    message: str


def seed_words(seed: int, seeds: Sequence[int]) -> str:
    """Return `seed 3`, or `64 seeds at once (0 to 63)`."""
    return f"{len(seeds)} seeds at once ({seeds[0]} to {seeds[-1]})" if seeds else f"seed {seed}"


Event: TypeAlias = Planned | Started | Progress | Record | Certificate | Refused | Notice
