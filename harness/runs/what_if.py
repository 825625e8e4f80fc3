"""What would help: one thing is changed at a time, and the factor that it brings is measured.

In a block, the backend as it is and each change of it are alive together, in fresh processes, and
train in turns on the same cores: whatever disturbs one disturbs all. A ratio is formed inside its
block, and the blocks are the sample: the interval is Student's t over them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import ceil, nan
from tempfile import TemporaryDirectory
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import pandas as pd

from harness.backend import registry
from harness.backend.protocol import Array
from harness.errors import InvalidInput, Unavailable, UnknownName
from harness.measure import machine
from harness.measure.process import JobFailed
from harness.measure.trainer import Trainer, at_once
from harness.measure.trial import GPU_TURN_S, TURN_S
from harness.stats import estimates
from harness.tables.numbers import interval, ratio
from harness.task.task import Task
from harness.trial.arms import Arm
from harness.trial.epoch_time import undisturbed
from harness.trial.jobs import TurnsJob

T = TypeVar("T")
What: TypeAlias = Literal["batch", "seeds", "variant", "threads"]
CHANGES: tuple[What, ...] = ("batch", "seeds", "variant", "threads")
BLOCKS = 3
COLUMNS = ("backend", "device", "change", "what", "factor", "low", "high", "n", "words")

_ALL = "all"
_PATHS, _SEEDS = 8, 16
_VARIANTS = ("compile", "tuned")
"""What follows the name of a backend in that of a variant: `torch-compile`."""
_ROUNDS = 10
_LONGEST_S = 0.2
"""A call that takes longer is cut to half of it."""
_MOST_CALLS = 50
_TIMEOUT_S = 600.0
_ALIKE = 1e-4
"""How far the losses of a variant may be off in a call, relative: rounding stays far below."""


@dataclass
class _Change:
    """One thing that is changed, or nothing (`base`); and what was measured of it."""

    change: What | Literal["base"]
    what: str
    job: TurnsJob
    unit: str = "an epoch"
    units: int = 1
    """How many of these an epoch of the base has one of."""
    same_losses: bool = False
    """Whether it trains what the base trains."""
    epochs: int = 0
    """How many a call trains; 0: as many as in a run of the task."""
    problem: str = ""
    epoch_s: list[float] = field(default_factory=list)
    """The time of an epoch in each block."""


def chosen(text: str) -> tuple[What, ...]:
    """Return the changes that a text such as `batch,seeds` names; none for `all`.

    Raises `UnknownName`.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*CHANGES, _ALL):
            raise UnknownName("change", name, (*CHANGES, _ALL))
    return () if _ALL in names else tuple(change for change in CHANGES if change in names)


def of_arms(
    task: Task,
    arms: Sequence[Arm],
    note: Callable[[str], None],
    *,
    threads: int = 1,
    changes: Sequence[What] = (),
) -> pd.DataFrame:
    """Return the rows of `what_if` for each arm; one that fails has a row that says so."""
    tables = []
    for arm in arms:
        try:
            tables.append(what_if(task, arm, threads, changes, note=note))
        except Unavailable as error:
            problem = {"backend": arm.backend, "device": arm.device, "n": 0, "words": str(error)}
            tables.append(pd.DataFrame([problem]).reindex(columns=list(COLUMNS)))
    return pd.concat(tables, ignore_index=True)


def what_if(
    task: Task,
    arm: Arm,
    threads: int = 1,
    changes: Sequence[What] = (),
    blocks: int = BLOCKS,
    note: Callable[[str], None] = lambda _: None,
) -> pd.DataFrame:
    """Try changes to a backend; return a row for each, with the columns `COLUMNS`.

    `factor` says how many times as fast it is, per path, seed or epoch, with its 95 % interval
    `low` to `high` from `n` blocks; `words` is the same as a sentence, or why it could not be
    tried. Without `changes`, all that apply are tried. `note` is told what goes on. Raises
    `InvalidInput` if there are not so many cores, and `Unavailable` if the backend itself fails.
    """
    if threads > (cores := len(machine.usable_cores())):
        raise InvalidInput(f"`threads` = {threads}: there are {cores} cores to run on.")
    job = TurnsJob(
        task=task,
        backend=arm.backend,
        device=arm.device,
        threads=threads,
        exclusive=True,
        timeout_s=_TIMEOUT_S,
        seed=0,
    )
    base = _Change("base", "as it is", job)
    tried = [change for name in changes or CHANGES for change in _changes(job, name)]
    if not changes:
        tried = [change for change in tried if not change.problem]
    with TemporaryDirectory(ignore_cleanup_errors=True) as caches:
        for number in range(blocks):
            running = [change for change in tried if not change.problem]
            if running:
                note(f"{arm}, what if: block {number + 1} of {blocks}")
                _measure([base, *running], caches)
            if base.problem:
                raise Unavailable(f"{arm}: {base.problem.rstrip('.')}.")
    return pd.DataFrame([_row(arm, base, change) for change in tried], columns=list(COLUMNS))


def _changes(job: TurnsJob, name: What) -> Iterator[_Change]:
    """Yield the changes of a kind; one that does not apply says why."""
    match name:
        case "batch":
            paths = _PATHS * job.task.batch_size
            change = _Change(name, f"{paths} paths in a batch", job, "a path", _PATHS)
            try:
                larger = job.task.changed(batch_size=paths)
                change.job = job.model_copy(update={"task": larger})
            except InvalidInput as error:
                change.problem = str(error)
            yield change
        case "seeds":
            many = job.model_copy(update={"seeds": tuple(range(_SEEDS))})
            yield _Change(name, f"{_SEEDS} seeds at once", many, "a seed", _SEEDS)
        case "variant":
            names = [f"{job.backend}-{suffix}" for suffix in _VARIANTS]
            found = [variant for variant in names if variant in registry.installed()]
            for variant in found:
                other = job.model_copy(update={"backend": variant})
                yield _Change(name, variant, other, same_losses=True)
            if not found:
                none = f"there is no variant of {job.backend}: no backend {' or '.join(names)}"
                yield _Change(name, "a variant", job, problem=none)
        case "threads":
            one = job.model_copy(update={"threads": 1})
            already = "it has one thread already" if job.threads == 1 else ""
            yield _Change(name, "one thread", one, same_losses=True, problem=already)


class _Process(Trainer):
    """The process of a change. A method that fails leaves the sentence in the change."""

    def __init__(self, change: _Change, stop: threading.Event, caches: str) -> None:
        # Start-up is not measured here, and Inductor compiles for a minute.
        super().__init__(
            change.job,
            stop=stop,
            TORCHINDUCTOR_CACHE_DIR=f"{caches}/inductor",
            TRITON_CACHE_DIR=f"{caches}/triton",
        )
        change.epochs = change.epochs or change.job.task.chunk_epochs(len(change.job.seeds) or 1)
        self.change = change
        self.calls = 1
        """How many there are in a turn; the first of several does not count."""
        self.turns_s: list[float] = []
        """The time of an epoch in each turn."""

    def attempt(self, step: Callable[[], T]) -> T | None:
        """Do a step; None if it fails, or one before it has failed."""
        if not self.change.problem:
            try:
                return step()
            except JobFailed as error:
                self.change.problem = error.during(self.phase)
        return None

    def start(self) -> None:
        """Wait for the process, and for its first call: it may compile."""
        self.ready()
        self.phase = "training"
        self.train(self.change.epochs)

    def settle(self) -> Array:
        """Find how long a turn is; return the losses of the first call of a training."""
        call_s = self.train(self.change.epochs).seconds
        if call_s > _LONGEST_S:
            self.change.epochs = max(1, int(self.change.epochs * _LONGEST_S / 2 / call_s))
            self.train(self.change.epochs)  # It may compile anew.
        self.restart()
        losses_ER = self.train(self.change.epochs).losses_ER
        call_s = self.train(self.change.epochs).seconds
        turn_s = GPU_TURN_S if self.job.device == "gpu" else TURN_S
        if call_s < turn_s:
            self.calls = min(_MOST_CALLS, 1 + ceil(turn_s / max(call_s, 1e-6)))
        return losses_ER

    def take_turn(self) -> None:
        """Train for a turn, on the clock."""
        calls_s = [self.train(self.change.epochs).seconds for _ in range(self.calls)]
        counted = calls_s[1:] or calls_s
        self.turns_s.append(sum(counted) / len(counted) / self.change.epochs)


def _measure(changes: Sequence[_Change], caches: str) -> None:
    """Measure a block: add the time of an epoch to the base, the first, and to each change.

    `caches` is a folder for compiled code that the next block can use.
    """
    stop, rng = threading.Event(), random.Random()
    cores = machine.usable_cores()[-changes[0].job.threads :]
    with ExitStack() as stack:
        processes = [stack.enter_context(_Process(change, stop, caches)) for change in changes]
        starts = [partial(process.attempt, process.start) for process in processes]
        at_once(starts, len(processes), stop)
        for process in processes:
            process.pin(cores[-process.job.threads :])
        stack.enter_context(machine.off_cores(cores))
        losses = [process.attempt(process.settle) for process in processes]
        for change, found in zip(changes, losses, strict=True):
            if change.same_losses and not _alike(found, losses[0]):
                other = f"its losses are others than those of {changes[0].job.backend}"
                change.problem = change.problem or other
        for _ in range(_ROUNDS):
            for process in rng.sample(processes, len(processes)):
                process.attempt(process.take_turn)
    for process in processes:
        if not process.change.problem:
            process.change.epoch_s.append(undisturbed(process.turns_s))


def _alike(losses: Array | None, wanted: Array | None) -> bool:
    """Whether the losses of the epochs that both have are the same but for rounding."""
    if losses is None or wanted is None:
        return False
    both = min(len(losses), len(wanted))
    return np.allclose(losses[:both], wanted[:both], rtol=_ALIKE, atol=0, equal_nan=True)


def _row(arm: Arm, base: _Change, change: _Change) -> dict[str, object]:
    row: dict[str, object] = {"backend": arm.backend, "device": arm.device}
    row |= {"change": change.change, "what": change.what}
    if change.problem:
        words = f"{arm}: {change.what} could not be tried: {change.problem.rstrip('.')}"
        return row | {"factor": nan, "low": nan, "high": nan, "n": 0, "words": words}
    logs = np.log(np.array(base.epoch_s) * change.units / np.array(change.epoch_s))
    estimate = estimates.mean(logs)
    factor, low, high = np.exp([estimate.value, *estimate.interval()]).tolist()
    words = f"{arm}: with {change.what}, {change.unit} is {ratio(factor)}x as fast"
    words += interval(low, high, ratio)
    if low <= 1 <= high:
        words += ": no difference is shown"
    return row | {"factor": factor, "low": low, "high": high, "n": estimate.n, "words": words}
