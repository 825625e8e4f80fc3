"""What profilers saw of a training, beside the clock: measurements, per epoch.

`harness.tables.profile` makes of them the parts of an epoch's time. All profilers look at calls of
`Backend.train` that are not timed for anything else.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from harness.inputs.bounded_json import Several
from harness.trial.limits import LONGEST_NAME, LONGEST_TEXT

Stretch: TypeAlias = Literal[
    "python",
    "calls",
    "kernels",
    "copies",
    "optimiser",
    "prediction",
    "compilation",
    "collection",
    "system",
    "waiting",
    "other",
]
"""What a training was doing; at any moment it is doing one of them.

python: code of the interpreter, between the calls that it makes
calls: what a framework does to make a call: dispatch, autograd, launch
kernels: what operators or kernels do themselves
copies: moving or converting whole arrays, also between host and device
optimiser: the optimiser's step, with all that is called in it
prediction: outputs that no gradient needs, with all that is called for them
compilation: compiling, tracing
collection: the garbage collector of Python
system: the operating system at work for the process; mostly memory that it hands out anew
waiting: neither computing nor waiting for a processor: asleep, or until a device or a lock is free
other: code that no profiler looked into
"""

Amount: TypeAlias = Annotated[float, Field(ge=0, le=1e18)]
_Name: TypeAlias = Annotated[str, Field(max_length=LONGEST_NAME)]


class Call(BaseModel):
    """An operator, a kernel or a function, and what became of its calls in an epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Name
    """As the profiler has it: `aten::addmm`, `fusion.3`, `method 'copy' of 'numpy.ndarray'`."""
    count: Amount
    """How often it is called in an epoch."""
    seconds: Amount
    """How long all of these calls take, less those that have an entry of their own."""
    where: _Name = ""
    """Who calls it, if that is known: `train (model.py:41)`."""


class Profile(BaseModel):
    """A profile of a trial's training. Numbers are per epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: _Name
    """The profiler: `torch.profiler`, `XLA`, `cProfile`, `none`."""
    epoch_s: Amount
    """The time of an epoch in calls without a profiler, right beside those with one."""
    profiled_s: Amount
    """The same with the profiler on."""
    seconds: dict[Stretch, Amount]
    """How long each stretch takes, the profiler's own cost taken off."""
    counts: dict[_Name, Amount] = {}
    """How often, or how much; docs/profile.md lists the names."""
    costs: dict[_Name, Amount] = {}
    """What single things cost on this core, in seconds: `multiply_add`, `empty_call`, ..."""
    calls: Several[Call] = ()
    """The most expensive first."""
    problem: Annotated[str, Field(max_length=LONGEST_TEXT)] = ""
    """Why no profiler, or not the right one, could look at it; empty if nothing was wrong."""

    @classmethod
    def failed(cls, problem: str) -> Profile:
        """Return the profile of what could not be looked at."""
        return cls(source="none", epoch_s=0.0, profiled_s=0.0, seconds={}, problem=problem)
