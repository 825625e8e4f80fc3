"""The plan of a run: which trials there are, in which blocks, in which order.

A block is one seed: every backend on every device, with the same data and initial parameters, on
the same node, one after the other in random order. Ratios are formed inside blocks only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from harness.jobs import ParityJob, TrialJob
from harness.record import Isolation
from harness.task import Task

Device: TypeAlias = Literal["cpu", "gpu"]


class Arm(BaseModel):
    """A backend on a device: one of the things compared."""

    model_config = ConfigDict(frozen=True)

    backend: str
    device: Device

    def __str__(self) -> str:
        return f"{self.backend} on {self.device}"


class Plan(BaseModel):
    """What a run consists of; everything else about its trials follows."""

    model_config = ConfigDict(frozen=True)

    run: str
    task: Task
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    threads: int = 1
    packed: bool = False
    timeout_s: float | None = None
    retry_noisy: int = 0
    isolation: Isolation = "process"
    max_retries: int = 2
    """How often a block is repeated whose node, or Ray worker, went away."""
    precision: float | None = None
    """To within which share every time ratio is to be known; None: the seeds are as given."""
    budget_s: float | None = None
    """No block begins that would end later than this after the start, as far as is known."""
    pilot: int | None = None
    """How many of the first blocks decided how many there are; None as long as they have not."""
    budget_spent: bool = False
    """The budget ended the run before the precision was reached for."""

    @property
    def settled(self) -> bool:
        """Whether the seeds are all there will be."""
        return self.precision is None or self.pilot is not None

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends, each once."""
        return tuple(dict.fromkeys(arm.backend for arm in self.arms))

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, each once."""
        return tuple(dict.fromkeys(arm.device for arm in self.arms))

    def trial_name(self, arm: Arm, seed: int) -> str:
        """Return the name of a trial, fit to be a file name."""
        return f"seed{seed}-{arm.backend.replace(':', '.')}-{arm.device}"

    def parity_job(self, arm: Arm) -> ParityJob:
        """Return the job that holds an arm against the reference."""
        return ParityJob(
            task=self.task,
            backend=arm.backend,
            device=arm.device,
            threads=self.threads,
            exclusive=False,
            timeout_s=self.timeout_s,
        )

    def blocks(self) -> Iterator[list[TrialJob]]:
        """Yield the trials of each block in the order in which they run."""
        for block, seed in enumerate(self.seeds):
            yield [self._job(block, seed, arm) for arm in self._order(seed)]

    def trials(self) -> Iterator[str]:
        """Yield the names of all trials in the order in which they run."""
        for seed in self.seeds:
            yield from (self.trial_name(arm, seed) for arm in self._order(seed))

    def without(self, arm: Arm) -> Plan:
        """Return the plan less an arm."""
        return self.model_copy(update={"arms": tuple(a for a in self.arms if a != arm)})

    def _order(self, seed: int) -> list[Arm]:
        # Random, so that no backend is always the one that warms or heats the machine, and the
        # same again when the run is resumed.
        return random.Random(f"{self.run} {seed}").sample(self.arms, len(self.arms))

    def _job(self, block: int, seed: int, arm: Arm) -> TrialJob:
        return TrialJob(
            run=self.run,
            trial=self.trial_name(arm, seed),
            block=block,
            seed=seed,
            task=self.task,
            backend=arm.backend,
            device=arm.device,
            threads=self.threads,
            exclusive=not self.packed,
            timeout_s=self.timeout_s,
            retry_noisy=self.retry_noisy,
            isolation=self.isolation,
        )
