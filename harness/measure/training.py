"""The training of a backend, inside its own process: only calls into the backend are on the clock.

Shape suffixes as in `harness.backend.model`; R is the number of seeds that are trained at once,
mostly 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property
from math import ceil
from typing import Any, Self, TypeAlias

import numpy as np

from harness.backend import contract, registry
from harness.backend.model import Model
from harness.backend.process import greeting
from harness.backend.protocol import (
    Array,
    BackendFactory,
    ExplainsItself,
    Params,
    ReportsGpuMemory,
)
from harness.backend.single_seed import Alone, many_seeds
from harness.measure import energy, machine
from harness.measure.clock import Clock, now
from harness.measure.learned import Looker
from harness.measure.machine import Counters
from harness.measure.run_queue import Reading, RunQueue, waited_s
from harness.task import data
from harness.trial.jobs import TurnsJob
from harness.trial.learned import Learned
from harness.trial.profile import Profile
from harness.trial.record import Chunk
from harness.trial.trajectory import NUDGE

Emit: TypeAlias = Callable[[str, Any], None]
"""Takes a kind of message and its value."""
Find: TypeAlias = Callable[[str], Callable[[], BackendFactory]]
"""Finds a backend by name, and returns a function that imports it: `registry.importer`."""

# The most input values (16 MiB of float32) of one call of `predict`, so that the memory needed does
# not grow with the number of held-out paths and seeds.
_CALL_VALUES = 2**22


class Training:
    """Trains a backend on a task from one seed, or several at once, a chunk at a time.

    In a chunk, only the backend's `train` is on the clock: neither making the data nor reading the
    system's counters. `greeting` is what a process said of itself.
    """

    def __init__(
        self, job: TurnsJob, emit: Emit, find: Find = registry.importer, clock: Clock = now
    ) -> None:
        """Import the backend and set it up; emit how long each took."""
        self._job = job
        self.seeds = job.seeds or (job.seed,)
        self._joules = energy.meter(job.device)
        self._clock = clock
        # Of several threads, it is not known which of them held the others up; and a GPU goes on
        # while its process waits.
        self._one_thread = job.threads == 1 and job.device == "cpu"
        self.peak_gpu: dict[str, float | None] = {}
        """`peak_gpu_mb` after the first call, if it is known: the evaluation may need more."""
        self._run_queue = RunQueue(machine.family, clock)
        emit("phase", "importing")
        import_backend = find(job.backend)
        with self._watch() as watch:
            factory = import_backend()
        self.greeting = greeting(factory)
        emit("fields", {"import_s": watch.seconds})
        emit("phase", "setting up")
        params = [data.initial_params(job.task.model, seed) for seed in self.seeds]
        self._params = {name: np.stack([p[name] for p in params]) for name in params[0]}
        with self._watch() as watch:
            self._backend = factory(job.task.model, job.device)
            self._trained = many_seeds(self._backend) if self.seeds[1:] else Alone(self._backend)
            self.restart()
        emit("fields", {"setup_s": watch.seconds})

    def restart(self, nudge: int = 0) -> None:
        """Start anew from the initial parameters.

        If `nudge` is a number, these and all inputs of the training are nudged: otherwise for
        each number (`harness.trial.trajectory`).
        """
        self._nudge = nudge
        params = data.nudged(self._params, NUDGE, (nudge,)) if nudge else self._params
        self._state = self._trained.init_many(params)
        self._epoch = 0

    def chunk(self, epochs: int) -> tuple[Array, Chunk]:
        """Train some epochs; return their losses [E, R] and the measurements of the call."""
        seeds = len(self.seeds)
        x_ERTB, y_ERTB = data.training_chunks(self._job.task, self.seeds, self._epoch, epochs)
        if self._nudge:
            key = (self._nudge, self._epoch)
            x_ERTB = data.nudged({"x": x_ERTB}, NUDGE, key)["x"]
        joules, before = self._joules_of_calls(), machine.counters()
        start = self._run_queue.read()
        result = self._trained.train_many(self._state, x_ERTB, y_ERTB)
        end = self._run_queue.read()
        after, joules_after = machine.counters(), self._joules_of_calls()
        cpu_s = _cpu_s(start, end, before, after)
        self._state, losses_ER = contract.train_result(result, (epochs, seeds))
        self._epoch += epochs
        wall_s = end.before_s - start.after_s
        if (
            not self.peak_gpu
            and self._job.device == "gpu"
            and isinstance(self._backend, ReportsGpuMemory)
        ):
            self.peak_gpu["peak_gpu_mb"] = self._backend.peak_gpu_mb()
        return losses_ER, Chunk(
            epochs=epochs,
            wall_s=wall_s,
            waited_s=waited_s(start, end, cpu_s) if self._one_thread else None,
            cpu_s=cpu_s,
            # A descendant that has ended takes its count with it.
            involuntary_switches=max(0, after.involuntary_switches - before.involuntary_switches),
            steal_s=_difference(before.steal_s, after.steal_s),
            load=machine.load(),
            mhz=machine.core_mhz(),
            energy_j=energy.between(joules, joules_after),
        )

    def epoch_j(self, epochs: int) -> float | None:
        """Start anew; return the joules of an epoch by a GPU's counter, in calls of so many.

        None if there is no counter.
        """
        self.restart()
        x_ERTB, y_ERTB = data.training_chunks(self._job.task, self.seeds, 0, epochs)

        def call() -> None:
            self._state, _ = self._trained.train_many(self._state, x_ERTB, y_ERTB)

        joules = energy.of_calls_in_a_row(call, self._joules, self._clock)
        return None if joules is None else joules / epochs

    def profile(self, epochs: int) -> Profile:
        """Start anew and see where the time of calls of so many epochs goes."""
        from harness.profiling.profiler import profile

        self.restart()
        x_ERTB: Array = np.empty(0)
        y_ERTB: Array = x_ERTB

        def prepare() -> None:
            nonlocal x_ERTB, y_ERTB
            x_ERTB, y_ERTB = data.training_chunks(self._job.task, self.seeds, 0, epochs)

        def train(fewer: int | None = None, /) -> float:
            x, y = x_ERTB[:fewer], y_ERTB[:fewer]
            start = now()
            result = self._trained.train_many(self._state, x, y)
            seconds = now() - start
            self._state, _ = contract.train_result(result, (len(x), len(self.seeds)))
            return seconds

        backend = self._backend
        own = backend.explain_training if isinstance(backend, ExplainsItself) else None
        return profile(train, epochs, own, prepare, on_gpu=self._job.device == "gpu")

    def evaluate(self) -> tuple[Array, float]:
        """Predict the held-out paths.

        Return the mean squared error at t = 1..T [R, T], and the seconds that predictions took.
        """
        watch = self._watch()
        x_RTN, y_RTN = self._held_out
        squares_RT = np.zeros(y_RTN.shape[:2])
        for part, done in self._parts():
            x_RTP = np.ascontiguousarray(x_RTN[..., part])
            with watch:
                output_RTP = self._trained.predict_many(self._state, x_RTP)
            error_RTP = contract.outputs(output_RTP, x_RTP.shape)[:, 1:] - y_RTN[..., part]
            squares_RT += np.sum(error_RTP[..., done:] ** 2, axis=2)
        step_mse_RT: Array = squares_RT / y_RTN.shape[2]
        return step_mse_RT, watch.seconds

    def learned(self) -> list[dict[str, Any]]:
        """Return what the predictions of each seed are made of: a `harness.trial.learned.Learned`.

        Of a seed that has diverged it is empty.
        """
        x_RTN, y_RTN = self._held_out
        lookers = [Looker(self._job.task, len(self.seeds)) for _ in self.seeds]
        fine_R = np.ones(len(self.seeds), bool)
        for part, done in self._parts():
            x_RTP, y_RTP = x_RTN[..., part], y_RTN[..., part]
            output_RTP = self._trained.predict_many(self._state, np.ascontiguousarray(x_RTP))
            output_RTP = contract.outputs(output_RTP, x_RTP.shape)[:, 1:]
            fine_R &= np.isfinite(output_RTP).all(axis=(1, 2))
            for r in np.flatnonzero(fine_R):
                lookers[r].add(*(values[r][:, done:] for values in (x_RTP, y_RTP, output_RTP)))
        return [
            asdict(looker.learned() if fine else Learned())
            for looker, fine in zip(lookers, fine_R, strict=True)
        ]

    def initial_state_moved(self) -> Array:
        """Return `initial_state_moved` of each seed [R]."""
        params = self._trained.params_many(self._state)
        after = contract.params(params, self._job.task.model, len(self.seeds))
        return initial_state_moved(self._job.task.model, self._params, after)

    def _joules_of_calls(self) -> float | None:
        """Return a reading, if the counter is fine enough for a call: on a GPU it is not."""
        return self._joules() if self._job.device == "cpu" else None

    def _watch(self) -> _Watch:
        return _Watch(self._run_queue, self._one_thread)

    @cached_property
    def _held_out(self) -> tuple[Array, Array]:
        paths = [data.evaluation_paths(self._job.task, seed) for seed in self.seeds]
        return np.stack([x_TN for x_TN, _ in paths]), np.stack([y_TN for _, y_TN in paths])

    def _parts(self) -> Iterator[tuple[slice, int]]:
        """Yield parts of the held-out paths, and how many paths of each were in the part before.

        All parts have one size, so that the backend compiles once.
        """
        task = self._job.task
        most = max(1, _CALL_VALUES // (len(self.seeds) * (task.n_steps + 1)))
        size = ceil(task.eval_paths / ceil(task.eval_paths / most))
        for first in range(0, task.eval_paths, size):
            start = min(first, task.eval_paths - size)
            yield slice(start, start + size), first - start


class _Watch:
    """Adds up the time spent in its `with` blocks, in `seconds`, less any wait for a processor."""

    def __init__(self, run_queue: RunQueue, one_thread: bool) -> None:
        self._run_queue, self._one_thread = run_queue, one_thread
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._before, self._start = machine.counters(), self._run_queue.read()
        return self

    def __exit__(self, *_: object) -> None:
        start, end = self._start, self._run_queue.read()
        self.seconds += end.before_s - start.after_s
        if self._one_thread:
            cpu_s = _cpu_s(start, end, self._before, machine.counters())
            self.seconds -= waited_s(start, end, cpu_s) or 0.0


def _cpu_s(start: Reading, end: Reading, before: Counters, after: Counters) -> float:
    """Return the processor time between two readings, that of descendants included."""
    # A descendant whose parent did not wait for it takes its time with it.
    of_descendants_s = max(0.0, after.descendants_cpu_s - before.descendants_cpu_s)
    return end.cpu_before_s - start.cpu_after_s + of_descendants_s


def initial_state_moved(model: Model, before: Params, after: Params) -> Array:
    """Return how far the initial state of each seed has moved: RMS over its units [R]."""
    moves_RH = [after[name] - before[name] for name in model.initial_states]
    rms_R: Array = np.sqrt(np.mean(np.concatenate(moves_RH, axis=1, dtype=float) ** 2, axis=1))
    return rms_R


def _difference(before: float | None, after: float | None) -> float | None:
    """Return by how much a counter went up; None if it is unknown."""
    return None if before is None or after is None else after - before
