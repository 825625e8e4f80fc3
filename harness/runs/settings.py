"""How a task is measured, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.dispatch.dispatcher import NAMES, Dispatcher, dispatcher
from harness.errors import InvalidInput, UnknownName
from harness.inputs.quantities import integer
from harness.inputs.validated import Fraction, Integer, Seconds
from harness.runs import precision
from harness.runs.seeds import LARGEST_SEED, MOST_SEEDS, listed
from harness.task.task import Task
from harness.trial.arms import Selection, distinct
from harness.trial.plan import Plan, seeds_at_once
from harness.trial.sweep import Value, grid

_MOST = 10**9
_SAME_IN_PLAN = {
    *("threads", "rounds", "packed", "profile", "timeout_s", "precision", "budget_s"),
    "max_retries",
}


class Settings(Selection):
    """How a task is measured. Raises `InvalidInput` with a sentence for every bad value."""

    other_names: ClassVar[Mapping[str, str]] = {
        name: f"it belongs to the task: `harness.Task({name}=...)`" for name in Task.model_fields
    }

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """The seeds; a number n stands for 0, 1, ..., n-1, and the text "1,5-7" for 1, 5, 6 and 7."""
    threads: Integer = Field(1, ge=1, le=_MOST)
    """Threads of each trial."""
    rounds: Integer = Field(20, ge=1, le=_MOST)
    """How many turns each trial is timed for; the rest of its training is not timed."""
    packed: bool = False
    """Fill the machine with trials: same accuracy, but times that cannot be compared."""
    profile: bool = False
    """After the timed turns of the first block, see where the time of an epoch goes."""
    timeout_s: Seconds | None = Field(None, gt=0)
    """Kill a trial that takes longer than this many seconds."""
    sweep: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    """Task fields and the values of each; every combination of them is a task."""
    vectorize: Annotated[Integer, Field(ge=2)] | Literal["all"] | None = None
    """How many seeds a backend trains at once, if it can; True or "all": all of them."""
    max_retries: Integer = Field(2, ge=0, le=_MOST)
    """Repeat a block whose node or Ray worker was lost, up to this many times."""
    precision: Fraction | None = Field(None, gt=0, le=0.5)
    """Run until every time ratio is known to within this share: 0.02 is +-2 %. The pilot has the
    given seeds, and at least `harness.runs.precision.PILOT`."""
    budget_s: Seconds | None = Field(None, gt=0)
    """With `precision`: begin no block that would end later than this many seconds after the start.
    """

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_seeds(cls, value: object) -> object:
        if value is None or isinstance(value, float | bool):
            raise ValueError("should be a number of seeds, or a list of them")
        seeds = listed(value) if isinstance(value, str | int) else value
        if isinstance(seeds, Sequence) and len(seeds) > MOST_SEEDS:
            raise ValueError(f"there are at most {MOST_SEEDS} seeds")
        return seeds

    @field_validator("seeds")
    @classmethod
    def _not_negative(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(distinct(value)) < 0 or max(value) > LARGEST_SEED:
            raise ValueError(f"seeds are from 0 to {LARGEST_SEED}")
        return value

    @field_validator("vectorize", mode="before")
    @classmethod
    def _all_or_none(cls, value: object) -> object:
        if isinstance(value, bool):
            return "all" if value else None
        if value is None or value == "all":
            return value
        number: object = value
        if isinstance(value, str):
            with suppress(ValueError):
                number = integer(value)
        if not isinstance(number, int) or not 2 <= number <= MOST_SEEDS:
            raise ValueError("should be a number of seeds, 2 or more, or `all`")
        return number

    @model_validator(mode="after")
    def _precision_is_possible(self) -> Self:
        problems = []
        if self.profile and self.packed:
            problems.append(
                "`profile` and `packed` exclude each other: beside other trials, a profile shows "
                "mostly them."
            )
        if self.budget_s is not None and self.precision is None:
            problems.append("`budget_s` is the budget of `precision`: it needs `precision`.")
        if self.precision is not None:
            problems += self._reasons_against_precision()
        if problems:
            raise InvalidInput(*problems)
        return self

    def _reasons_against_precision(self) -> list[str]:
        problems = []
        if self.packed:
            problems.append(
                "`precision` and `packed` exclude each other: times of trials that ran side by "
                "side are not compared."
            )
        if self.sweep or self.vectorize:
            problems.append(
                "`precision` asks for as many blocks of one seed of one task as it takes: it takes "
                "no `sweep` and no `vectorize`."
            )
        devices = 1 if self.devices == "auto" else len(self.devices)
        if len(self.backends) * devices < 2:
            problems.append(
                "`precision` is that of time ratios, and there is nothing to compare "
                f"`{self.backends[0]}` with: name two backends or two devices."
            )
        return problems

    def plan(self, run: str, task: Task, has_gpu: bool) -> Plan:
        """Return the plan of a run; `has_gpu` decides what "auto" means.

        Raises `InvalidInput` if there are too many trials, or a point of the sweep is no task or
        cannot be cut into chunks.
        """
        pilot = 0 if self.precision is None else max(precision.PILOT, len(self.seeds))
        plan = Plan(
            run=run,
            task=task,
            arms=self.arms(has_gpu),
            seeds=precision.extend(self.seeds, pilot),
            sweep=self.sweep,
            at_once=seeds_at_once(self.vectorize, len(self.seeds)),
            **self.model_dump(include=_SAME_IN_PLAN),
        )
        plan.refuse_unstorable()
        for point in grid(task, plan.sweep):
            point.task.refuse_uncuttable(plan.at_once or 1)
        return plan


@dataclass(frozen=True)
class Site:
    """Where a run takes place and where its results go."""

    dispatch: str = "ray"
    address: str | None = None
    """Address of a Ray cluster to join; None: start a local Ray."""
    results: str | Path = "results"
    """A local path, or a URL."""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    """Runtime environment of the Ray job."""
    wait_s: float = 600.0
    """How long work waits for a node that can take it."""

    def dispatcher(self) -> Dispatcher:
        """Start, or connect to, what runs the jobs."""
        return dispatcher(self.dispatch, self.address, self.runtime_env, self.wait_s)

    def check(self) -> None:
        """Raise `InvalidInput` if no run could take place here."""
        if self.dispatch not in NAMES:
            raise UnknownName("dispatch", self.dispatch, NAMES)
        if self.dispatch == "inline" and (self.address or self.runtime_env):
            raise InvalidInput("`address` and `runtime_env` are for Ray: they take no `inline`.")
