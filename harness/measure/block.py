"""Measures a block: its arms are alive together on one node and train in turns, in rounds.

In every round each arm trains for one turn on the same cores while the others stand still, in
random order, which the next round reverses. So a disturbance hits all arms alike, and what is left
of it shows in single turns. A turn is a chunk of the training. A chunk shorter than `TURN_S` is
trained several times in a turn, and the first of them does not count: it finds the caches full of
another arm's data. A chunk longer than `LONGEST_S` is cut, for all arms alike.

After the last round, what is left of each training runs without a clock, on all cores at once. If
the arms did not train alike, they train once more, nudged, to see how far rounding alone leads
(`harness.trial.trajectory`).
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from queue import SimpleQueue
from typing import Self, TypeVar

from harness.measure import machine
from harness.measure.limits import Limits
from harness.measure.probe import Probe
from harness.measure.process import JobFailed
from harness.measure.trainer import Stopped, Trainer, at_once
from harness.measure.trial import Emit, Host, Seeds, Trial
from harness.task.task import largest_divisor
from harness.trial.events import Refused
from harness.trial.jobs import TrialJob, TurnsJob, go_in_rounds
from harness.trial.trajectory import NUDGES, Training, unexplained

T = TypeVar("T")

LONGEST_S = 1.0
"""A call that takes longer is cut."""
CONTEXT_MB = 500.0
"""What a process on a GPU needs there beside its arrays: CUDA's context and libraries."""


def measure(jobs: Sequence[TrialJob], host: Host, emit: Emit) -> None:
    """Measure the trials of a block; emit `Started`, any `Progress` and a record of each.

    They go in rounds if they can, else one after the other. Once `host.stop` is set, it ends.
    """
    usable = machine.usable_cores()
    if jobs[0].threads > len(usable):
        for job in jobs:
            emit(_refusal(job, len(usable), host.node))
        return
    before: defaultdict[Seeds, list[Training]] = defaultdict(list)
    for together in [jobs] if can_take_turns(jobs) else [[job] for job in jobs]:
        with suppress(Stopped), _Block(together, host, emit, before) as block:
            block.run()
        if host.stop.is_set():
            return


def can_take_turns(jobs: Sequence[TrialJob]) -> bool:
    """Whether trials can be measured in rounds: then all of them are in memory at once."""
    if not go_in_rounds(jobs) or not fits([job.memory_mb for job in jobs], machine.available_mb()):
        return False
    on_gpu = [CONTEXT_MB + (job.gpu_mb or 0.0) for job in jobs if job.device == "gpu"]
    return not on_gpu or fits(on_gpu, machine.available_gpu_mb())


def fits(needed_mb: Iterable[float | None], free_mb: float | None) -> bool:
    """Whether so much memory is free; what is unknown does not count."""
    return free_mb is None or sum(filter(None, needed_mb)) <= free_mb


def _refusal(job: TrialJob, cores: int, node: str) -> Refused:
    message = f"`threads` = {job.threads}: node {node} has {cores} cores to run on."
    return Refused(job=job, node=node, message=message)


def _of_a_core(job: TrialJob) -> bool:
    """Whether what one core can do belongs to the profile of a trial."""
    return job.profiled and job.device == "cpu"


class _Block:
    """Trials that are measured together. Leaving the context kills what still runs."""

    def __init__(
        self,
        jobs: Sequence[TrialJob],
        host: Host,
        emit: Emit,
        before: Mapping[Seeds, list[Training]],
    ) -> None:
        self._jobs, self._host, self._emit = jobs, host, emit
        self._before = before
        """What the trials of the block that were measured before these computed, by their seeds."""
        self._rng = random.Random()
        self._usable = machine.usable_cores()
        pinned = jobs[0].exclusive and hasattr(os, "sched_setaffinity")
        self._cores = self._usable[-jobs[0].threads :] if pinned else None
        self._limits: Limits | None = None
        """What a core can do, if that is wanted."""
        self._trials: list[Trial] = []
        """Those that have not failed or diverged."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for trial in self._trials:
            trial.trainer.close()
        if self._limits:
            self._limits.close()

    def run(self) -> None:
        """Measure all, and emit their records."""
        with ExitStack() as stack:
            paces_s = self._start()
            self._settle(max(paces_s, default=0.0))
            probe = None
            if self._cores:
                stack.enter_context(machine.off_cores(self._cores))
                probe = stack.enter_context(Probe(self._cores))
            self._take_turns(probe)
        self._complete()

    def _start(self) -> list[float]:
        """Start all arms, as many at once as the node has cores for; return their paces."""
        threads = self._jobs[0].threads
        lanes: SimpleQueue[tuple[int, ...]] = SimpleQueue()
        for first in range(0, len(self._usable) - threads + 1, threads):
            lanes.put(self._usable[first : first + threads])

        def start(job: TrialJob) -> float:
            lane, host = lanes.get(), self._host
            try:
                trainer = Trainer(TurnsJob.of(job), lane if self._cores else None, stop=host.stop)
                trial = Trial(job, trainer, host.node, self._emit)
                self._trials.append(trial)
                return self._try(trial, trial.start) or 0.0
            finally:
                lanes.put(lane)

        def compile_limits() -> float:
            lane = lanes.get()
            self._limits = Limits(self._jobs[0].task, self._cores, lane if self._cores else None)
            self._limits.wait_until_compiled()
            lanes.put(lane)
            return 0.0

        order = self._rng.sample(self._jobs, len(self._jobs))
        # It takes longest, so it comes first.
        starts: list[Callable[[], float]] = [compile_limits] if _of_a_core(self._jobs[0]) else []
        starts += [partial(start, job) for job in order]
        return at_once(starts, lanes.qsize())

    def _settle(self, pace_s: float) -> None:
        """Choose how many epochs a call trains, for all arms alike, given the slowest pace."""
        epochs = min((trial.epochs for trial in self._trials), default=1)
        if pace_s > LONGEST_S:
            epochs = largest_divisor(epochs, max(1, int(epochs * LONGEST_S / pace_s)))
        steps = [partial(self._try, t, partial(t.settle, epochs)) for t in self._trials]
        at_once(steps, len(self._usable) // self._jobs[0].threads)

    def _take_turns(self, probe: Probe | None) -> None:
        if self._cores:
            for trial in self._trials:
                trial.trainer.pin(self._cores)
        order: list[Trial] = []
        # Times beside other work are not compared, so one turn has to do.
        rounds = self._jobs[0].rounds if self._jobs[0].exclusive else 1
        for number in range(1, rounds + 1):
            # Random, and balanced: every second round reverses the one before.
            order = order[::-1]
            if number % 2:
                order = self._rng.sample(self._trials, len(self._trials))
            for trial in order:
                if trial in self._trials:
                    self._try(trial, partial(trial.take_turn, number, probe))

    def _complete(self) -> None:
        """Let what is left of each training run on all cores at once."""

        def complete(trial: Trial) -> None:
            if self._cores:
                trial.trainer.pin(self._usable)
            self._try(trial, trial.complete)

        def nudge(trial: Trial) -> None:
            try:
                trial.train_nudged()
            except JobFailed:  # Its own training has ended well.
                self._leave(trial)

        def end(trial: Trial) -> None:
            self._try(trial, trial.finish)
            self._leave(trial)

        most = len(self._usable) // self._jobs[0].threads
        at_once([partial(complete, trial) for trial in self._trials], most)
        ended = list(self._trials)
        for _ in range(NUDGES):
            unclear = [t for t in self._trials if unexplained(self._like(t, ended))]
            at_once([partial(nudge, trial) for trial in unclear], most)
        self._count_energy()
        self._profile()
        for trial in ended:
            self._before[trial.seeds].append(trial.training)
        at_once([partial(end, trial) for trial in self._trials], most)

    def _count_energy(self) -> None:
        """Let trials on a GPU, which has nothing else to do, count it, on the cores of the turns.

        Elsewhere it is counted in the turns.
        """
        counted = [t for t in self._trials if t.job.device == "gpu" and t.job.exclusive]
        for trial in counted:
            if self._cores:
                trial.trainer.pin(self._cores)
            try:
                trial.count_energy()
            except JobFailed:  # What was measured before counts.
                self._leave(trial)

    def _profile(self) -> None:
        """Let profilers look at one after the other, on the cores of the turns."""
        profiled = [trial for trial in self._trials if trial.job.profiled]
        costs = self._limits() if self._limits and profiled else {}
        for trial in profiled:
            if self._cores:
                trial.trainer.pin(self._cores)
            try:
                trial.profile(costs)
            except JobFailed:
                self._leave(trial)

    def _like(self, trial: Trial, ended: Sequence[Trial]) -> list[Training]:
        """Return what the trials with the seeds of this one have computed, itself included."""
        alike = [one.training for one in ended if one.seeds == trial.seeds]
        return [*self._before[trial.seeds], *alike]

    def _try(self, trial: Trial, step: Callable[[], T]) -> T | None:
        """Let a trial do a step; it leaves the block if it fails or diverges."""
        try:
            result = step()
        except JobFailed as error:
            trial.fail(error)
            self._leave(trial)
            return None
        if trial.status == "diverged":
            self._leave(trial)
        return result

    def _leave(self, trial: Trial) -> None:
        """End a trial and emit its record, once."""
        if trial in self._trials:
            self._trials.remove(trial)
            trial.trainer.close()
            self._emit(trial.record("rounds" if len(self._jobs) > 1 else "alone", self._cores))
