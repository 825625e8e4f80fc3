"""The record of a finished trial: what was measured, and under what circumstances.

Nothing in it is derived; `harness.tables.from_records` does that, so a better formula needs no new
run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

from harness.task.task import Task

# 2 added `chunks` and `attempt`, 3 the status `lost` and `isolation`, 4 seeds that are trained at
# once and sweeps; what they hold can be read.
SchemaVersion: TypeAlias = Literal[1, 2, 3, 4]
SCHEMA_VERSION: SchemaVersion = 4

Status: TypeAlias = Literal["ok", "diverged", "failed", "timeout", "lost"]
"""`lost`: the node or the Ray worker went away, which says nothing about the trial."""
Isolation: TypeAlias = Literal["process", "backend"]
"""A trial has a process of its own, or shares one with others of its backend, one by one."""


class _NullIsNan:
    """JSON has no NaN: a value that is not finite is stored as null and read back as NaN."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Not a validator around every number: thousands of records have millions of them.
        null = core_schema.no_info_after_validator_function(
            lambda _: float("nan"), core_schema.none_schema()
        )
        return core_schema.union_schema([handler(source), null], mode="left_to_right")


Real: TypeAlias = Annotated[float, _NullIsNan]

_tasks: dict[str, Task] = {}


def _shared(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate a task once for all the records that have it."""
    if not isinstance(value, dict):
        return validate(value)
    text = repr(value)
    if text not in _tasks:
        if len(_tasks) >= 100:
            _tasks.clear()
        _tasks[text] = validate(value)
    return _tasks[text]


# Chunks and points have slots, for there are many: as models they would take several times the
# memory.
@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A timed call of `Backend.train`, and what else went on meanwhile."""

    wall_s: float
    cpu_s: float
    """Processor time of the process, all its threads added up."""
    involuntary_switches: int
    """How often the system took a core away from the process."""
    steal_s: float | None = None
    """Time that the hypervisor kept the process's cores to itself, where it says so."""
    load: float | None = None
    """The system's load average over a minute, at the end of the call."""
    mhz: float | None = None
    """Frequency of the process's cores at the end of the call, where the system gives it."""
    energy_j: float | None = None
    """Energy of the processor packages or of the GPU, if counted: see `harness.measure.energy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of the convergence curve."""

    epoch: int
    """Optimiser steps taken so far."""
    train_s: float
    """Steady training time so far."""
    train_loss: Real
    """Mean training loss since the point before."""
    eval_mse: Real
    """Mean squared error on the held-out paths, over t = 1..T."""


class Share(BaseModel):
    """What became of one of the seeds that a trial trained at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    status: Literal["ok", "diverged"]
    points: tuple[Point, ...]
    """`train_s` is the time of the whole trial so far, all its seeds together."""
    step_mse: tuple[Real, ...] = ()


class Record(BaseModel):
    """A finished trial, whatever its status. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: SchemaVersion = SCHEMA_VERSION
    run: str
    trial: str
    block: int
    backend: str
    device: str
    seed: int
    """The first one, if it trained several at once."""
    seeds: tuple[int, ...] = ()
    """Those trained at once; empty if it trained `seed` alone."""
    task: Annotated[Task, WrapValidator(_shared)]

    node: str
    started_utc: str
    wall_s: float
    """From the start of the process to its end."""
    threads: int
    cores: tuple[int, ...] | None = None
    """The cores that the process was pinned to; None if it was not."""
    contended: bool
    """Other trials may have run beside it."""
    attempt: int = 1
    """Counts the measurements of the same trial, which is repeated if it was noisy or lost."""
    go: int = 1
    """Counts how often its block was begun (packed: the trial by itself). What is of one go was
    measured on one node, one after the other; only the last go counts."""
    isolation: Isolation = "process"
    trials_before: int = 0
    """How many trials the same process had run before; see `isolation`."""

    status: Status
    error: str | None = None
    details: str | None = None
    """A traceback, or the last lines that the process printed."""

    import_s: float | None = None
    setup_s: float | None = None
    first_call_s: float | None = None
    """The throw-away first chunk and the first prediction: compilation and one chunk of work."""
    eval_s: float | None = None
    chunks: tuple[Chunk, ...] = ()
    """The timed calls of steady training, in order; `points` add up their `wall_s`."""
    points: tuple[Point, ...] = ()
    """Of several seeds at once, their mean."""
    step_mse: tuple[Real, ...] = ()
    """Mean squared error of the final evaluation at t = 1..T; empty unless the status is ok."""
    shares: tuple[Share, ...] = ()
    """Of several seeds at once, what became of each; empty unless the trial ran to its end."""
    peak_rss_mb: float | None = None
    peak_gpu_mb: float | None = None
    environment: dict[str, str] = {}
    """Versions of the packages loaded, and settings that change speed or precision."""

    @property
    def at_once(self) -> int:
        """How many seeds it trained at once."""
        return len(self.seeds) or 1

    def by_seed(self) -> list[Record]:
        """Return a record for each of the seeds, as if it were one of that seed alone.

        What belongs to the trial as a whole, such as its times, is the same in each.
        """
        if not self.seeds:
            return [self]
        shares = {share.seed: share for share in self.shares}
        return [
            self.model_copy(
                update={"seed": seed, "points": (), "step_mse": ()}
                | ({} if seed not in shares else dict(shares[seed]))
            )
            for seed in self.seeds
        ]
