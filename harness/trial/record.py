"""The record of a finished trial: what was measured, where and how.

It holds measurements only. `harness.tables.from_records` computes everything else, so a better
formula needs no new run.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

from harness.errors import middle_cut, one_line, printable
from harness.inputs.bounded_json import Several
from harness.task.task import Task
from harness.trial.learned import Learned
from harness.trial.limits import LONGEST_NAME, LONGEST_TEXT, MOST_AT_ONCE
from harness.trial.profile import Profile

# Version 2 added `chunks` and `attempt`; 3 the status `lost` and `isolation`; 4 seeds that are
# trained at once and sweeps; 5 the task's `gradient`, which was exact before; 6 `timing` and the
# turns of chunks; 7 `profile`; 8 `learned`, and the task's `lag`, which was 1 before. All can be
# read.
SchemaVersion: TypeAlias = Literal[1, 2, 3, 4, 5, 6, 7, 8]
SCHEMA_VERSION: SchemaVersion = 8

Status: TypeAlias = Literal["ok", "diverged", "failed", "timeout", "lost"]
"""`lost`: the node or the Ray worker went away."""
Shown: TypeAlias = Annotated[
    str, AfterValidator(lambda text: printable(middle_cut(text, LONGEST_TEXT)))
]
"""A text from a worker or a file, which must neither control a terminal nor fill it."""
Name: TypeAlias = Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(one_line)]
"""A text that stands for something. It is never cut: two names might become one."""
_Line: TypeAlias = Annotated[
    str, AfterValidator(lambda text: one_line(middle_cut(text, LONGEST_TEXT)))
]
Texts: TypeAlias = Annotated[dict[Name, _Line], Field(max_length=10_000)]
"""Texts by name, each on a line."""
Isolation: TypeAlias = Literal["process", "backend"]
"""Whether a trial had a process of its own. In runs of older versions, `backend` means that it may
have used that of the trial before it."""


Timing: TypeAlias = Literal["trials", "alone", "rounds"]
"""How a trial was timed: as a whole, all calls counted (before schema 6); in turns, alone; in turns
with the other trials of its block."""


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
Finite: TypeAlias = Annotated[float, Field(ge=-1e18, le=1e18)]
"""A measurement. Nothing larger was ever measured, and sums of it stay finite."""
Amount: TypeAlias = Annotated[float, Field(ge=0, le=1e18)]
"""A measurement of what cannot be less than nothing."""
Integer: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What fits into a column of a table."""
Natural: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Count: TypeAlias = Annotated[int, Field(ge=1, lt=2**63)]

_tasks: dict[str, Task] = {}
_LONGEST_TASK = 10_000
"""Characters of a task that is kept."""


def _shared(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate a task once for all the records that have it."""
    if not isinstance(value, dict):
        return validate(value)
    text = repr(value)
    if len(text) > _LONGEST_TASK:
        return validate(value)
    if text not in _tasks:
        if len(_tasks) >= 100:
            _tasks.clear()
        _tasks[text] = validate(value)
    return _tasks[text]


# Slots, because a run has very many chunks and points: models would take several times the memory.
@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A timed call of `Backend.train`, and what the system counted during it."""

    wall_s: Amount
    epochs: Count | None = None
    """How many epochs it trained; None, before schema 6: `Task.chunk_epochs`."""
    epoch: Count | None = None
    """How many epochs the training had taken at its end; None in older records."""
    loss: float | None = None
    """Mean loss of its epochs, of all seeds; None in older records, or if it is not finite."""
    round: Natural | None = None
    """The round of its turn, from 1 on; None before schema 6."""
    counted: bool = True
    """Whether it counts for the time of an epoch: not if it is the first of several in a turn."""
    waited_s: Finite | None = None
    """How long it waited for the processor while others had it; None: unknown."""
    interpreter_s: Finite | None = None
    memory_s: Amount | None = None
    """The state of the machine before and after the turn: see `harness.measure.probe`."""
    cpu_s: Finite
    """Processor time of the process and of its descendants, summed over their threads."""
    involuntary_switches: Natural
    """How often the system took a core away from one of them."""
    steal_s: Finite | None = None
    """Time that the hypervisor took from the process's cores; None: unknown."""
    load: Amount | None = None
    """The system's load average over the last minute, at the end of the call."""
    mhz: Amount | None = None
    """Mean frequency of the process's cores at the end of the call; None: unknown."""
    energy_j: Finite | None = None
    """Energy of the processor packages or of the GPU: see `harness.measure.energy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A point of the convergence curve."""

    epoch: Count
    """Optimiser steps taken so far."""
    train_s: Amount
    """Steady training time so far."""
    train_loss: Real
    """Mean training loss since the previous point."""
    eval_mse: Real
    """Mean squared error on the held-out paths, over t = 1..T."""


class Share(BaseModel):
    """The results of one of the seeds that a trial trained at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Integer
    status: Literal["ok", "diverged"]
    points: Several[CurvePoint]
    """`train_s` is the time of all seeds together."""
    step_mse: Several[Real] = ()
    initial_state_moved: float | None = None
    learned: Learned | None = None


class Record(BaseModel):
    """A finished trial, whatever its status. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: SchemaVersion = SCHEMA_VERSION
    run: Name
    trial: Name
    block: Natural
    backend: Name
    device: Name
    seed: Integer
    """The first of `seeds`, if there are several."""
    seeds: Several[Integer] = Field((), max_length=MOST_AT_ONCE)
    """The seeds trained at once; empty if it trained `seed` alone."""
    task: Annotated[Task, WrapValidator(_shared)]

    node: Name
    started_utc: Name
    wall_s: Amount
    """How long the process worked; before schema 6, from its start to its end."""
    threads: Count
    timing: Timing = "trials"
    cores: Several[Integer] | None = None
    """The cores that the process was pinned to; None if it was not."""
    contended: bool
    """Other trials may have run beside it."""
    attempt: Count = 1
    """Counts the measurements of the same trial: a lost one is repeated."""
    go: Count = 1
    """Counts how often its block was begun (packed: the trial by itself). The trials of one go were
    measured on one node at one time; only the last go counts."""
    isolation: Isolation = "process"
    trials_before: Natural = 0
    """How many trials the same process had run before: none, unless an older version shared it."""

    status: Status
    error: Shown | None = None
    details: Shown | None = None
    """A traceback, or the last lines that the process printed."""

    import_s: Finite | None = None
    setup_s: Finite | None = None
    first_call_s: Finite | None = None
    """The throw-away first chunk and the first prediction, with all that is compiled for them."""
    eval_s: Finite | None = None
    chunks: Several[Chunk] = ()
    """The timed calls of steady training, in order."""
    points: Several[CurvePoint] = ()
    """The convergence curve; the mean curve of several seeds at once."""
    step_mse: Several[Real] = ()
    """Mean squared error of the last evaluation at t = 1..T; empty unless the status is ok."""
    nudged: Annotated[Several[Several[Real]], Field(max_length=100)] = ()
    """The train losses at the points of each nudged training (`harness.trial.trajectory`), which
    is not on the clock; empty if none was needed."""
    initial_state_moved: float | None = None
    """How far the training has moved the initial state, RMS over its units; None: unknown."""
    learned: Learned | None = None
    """What the last evaluation's predictions are made of; None in older records, or as above."""
    shares: Several[Share] = Field((), max_length=MOST_AT_ONCE)
    """The results of each of several seeds; empty unless the trial ran to its end."""
    peak_rss_mb: Amount | None = None
    peak_gpu_mb: Amount | None = None
    epoch_j: Finite | None = None
    """Energy of an epoch of all its seeds on a GPU, in joules (`harness.measure.energy`)."""
    profile: Profile | None = None
    """What profilers saw after the timed turns; None: they were not asked."""
    environment: Texts = {}
    """Versions of the packages loaded, and settings that change speed or precision."""

    @model_validator(mode="after")
    def _of_the_task(self) -> Self:
        for errors in (self.step_mse, *(share.step_mse for share in self.shares)):
            if len(errors) not in {0, self.task.n_steps}:
                raise ValueError("its errors are not those of its task's time steps")
        for points in (self.points, *(share.points for share in self.shares)):
            epochs = [0, *(point.epoch for point in points)]
            if any(later <= epoch for epoch, later in pairwise(epochs)):
                raise ValueError("the points of its curve are not in order")
        return self

    @property
    def timed(self) -> str:
        """How it was timed: its `timing`, or `shared` in a process that other trials had used."""
        return "shared" if self.isolation == "backend" else self.timing

    @property
    def at_once(self) -> int:
        """How many seeds it trained at once."""
        return len(self.seeds) or 1

    def by_seed(self) -> list[Record]:
        """Return a record for each seed.

        They share what belongs to the trial as a whole, such as its times.
        """
        if not self.seeds:
            return [self]
        shares = {share.seed: share for share in self.shares}
        return [
            self.model_copy(
                update={"seed": seed, "points": (), "step_mse": ()}
                | dict.fromkeys(("initial_state_moved", "learned"))
                | ({} if seed not in shares else dict(shares[seed]))
            )
            for seed in self.seeds
        ]
