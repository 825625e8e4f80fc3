"""What the process of a worker is started for; sent to it as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from harness.task.task import Task
from harness.trial.arms import Arm, Device
from harness.trial.record import Record


class _Job(BaseModel):
    model_config = ConfigDict(frozen=True)

    task: Task
    backend: str
    device: Device
    threads: int
    exclusive: bool
    """Nothing runs beside it on the node, and it is pinned to `threads` cores."""
    timeout_s: float | None = None

    @property
    def arm(self) -> Arm:
        """The backend on the device."""
        return Arm(backend=self.backend, device=self.device)

    @property
    def label(self) -> str:
        """The name of the job in messages."""
        return str(self.arm)


class ParityJob(_Job):
    """Compare a backend with the reference."""

    kind: Literal["parity"] = "parity"
    others: tuple[Task, ...] = ()
    """In a sweep, one task for each other network."""
    at_once: int = 1
    """How many seeds are to be trained at once, if the backend can."""

    @property
    def networks(self) -> list[tuple[str, Task]]:
        """Each task with what sets its network apart, for example `cell=gru, hidden=64`."""
        tasks = (self.task, *self.others)
        models = [vars(task.model) for task in tasks]
        unlike = [name for name in models[0] if len({model[name] for model in models}) > 1]
        words = [", ".join(f"{name}={model[name]}" for name in unlike) for model in models]
        return list(zip(words, tasks, strict=True))


class TrialJob(_Job):
    """Train once, on the clock."""

    kind: Literal["trial"] = "trial"
    run: str
    trial: str
    block: int
    seed: int
    seeds: tuple[int, ...] = ()
    """Seeds that are trained at once; empty: `seed` alone."""
    point: str = ""
    """The point of the sweep in messages, for example `hidden=64, `."""
    attempt: int = 1
    """Its number among the attempts at this trial."""
    go: int = 1
    """How often its block has been begun, this time included."""
    rounds: int = 20
    """How many turns it is timed for."""
    profiled: bool = False
    """Whether profilers look at it after its turns."""
    memory_mb: float | None = None
    """How much memory it is expected to need; None: unknown."""
    gpu_mb: float | None = None
    """The same on the GPU, for its arrays alone."""

    @property
    def label(self) -> str:
        """The name of the job in messages."""
        seeds = f"seed {self.seed}"
        if self.seeds:
            seeds = f"{len(self.seeds)} seeds at once ({self.seeds[0]} to {self.seeds[-1]})"
        return f"{super().label}, {self.point}{seeds}"

    def expecting(self, memory_mb: float | None, gpu_mb: float | None) -> TrialJob:
        """Return the job with the memory that it is expected to need."""
        return self.model_copy(update={"memory_mb": memory_mb, "gpu_mb": gpu_mb})

    def record(self, **values: Any) -> Record:
        """Return the record of the trial, with what else is known of it."""
        shared = Record.model_fields.keys() & TrialJob.model_fields.keys()
        fields = {name: getattr(self, name) for name in shared}
        return Record(**fields | {"contended": not self.exclusive} | values)


def go_in_rounds(jobs: Sequence[TrialJob]) -> bool:
    """Whether trials are to be measured in rounds, if they fit into memory.

    There are several, they train as many seeds each, and nothing else is to run beside them.
    """
    return len(jobs) > 1 and jobs[0].exclusive and len({len(job.seeds) for job in jobs}) == 1


class TurnsJob(_Job):
    """Train some epochs whenever it is asked, so that several processes can take turns."""

    kind: Literal["turns"] = "turns"
    seed: int
    seeds: tuple[int, ...] = ()
    """Seeds that are trained at once; empty: `seed` alone."""

    @classmethod
    def of(cls, job: TrialJob) -> TurnsJob:
        """Return the job of the process of a trial."""
        shared = cls.model_fields.keys() & TrialJob.model_fields.keys() - {"kind"}
        return cls(**{name: getattr(job, name) for name in shared})


Job: TypeAlias = ParityJob | TrialJob
"""A job that a dispatcher runs."""
