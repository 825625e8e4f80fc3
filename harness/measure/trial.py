"""One trial, inside its own process: import, set-up, first call, steady training, evaluation.

Only calls into the backend are on the clock. The first call trains a throw-away chunk, which pays
for compilation and memory; then the training starts anew from the initial parameters. All chunks
have one size, so nothing recompiles on the clock. Shape suffixes as in `harness.backend.model`;
R is the number of seeds that are trained at once, mostly 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from math import ceil
from typing import Any, TypeAlias

import numpy as np

from harness.backend import contract, registry
from harness.backend.model import Model
from harness.backend.process import greeting
from harness.backend.protocol import Array, BackendFactory, Params, ReportsGpuMemory
from harness.backend.single_seed import Alone, many_seeds
from harness.measure import energy, machine
from harness.measure.clock import Clock, Stopwatch, cpu_time, now
from harness.measure.curves import Curves
from harness.task import data
from harness.trial.jobs import TrialJob, TurnsJob
from harness.trial.record import Chunk

Emit: TypeAlias = Callable[[str, Any], None]
"""Takes a kind of message and its value."""
Find: TypeAlias = Callable[[str], Callable[[], BackendFactory]]
"""Finds a backend by name, and returns a function that imports it: `registry.importer`."""

# The most input values (16 MiB of float32) of one call of `predict`, so that the memory needed does
# not grow with the number of held-out paths and seeds.
_CALL_VALUES = 2**22


def run(job: TrialJob, emit: Emit, find: Find = registry.importer, clock: Clock = now) -> None:
    """Run a trial and emit each measurement at once. Raises what the backend raises."""
    training = Training(job, emit, find, clock)
    task, curves = job.task, Curves(training.seeds)

    emit("phase", "in the first call")
    _, chunk = training.chunk(training.chunk_epochs)
    # Now, because the evaluation may need more, and all chunks need the same.
    emit("fields", training.peak_gpu())
    training.step_mse()
    emit("fields", {"first_call_s": chunk.wall_s + training.evaluation.seconds})
    training.restart()

    emit("phase", "training")
    while training.epoch < task.epochs and curves.running:
        losses_ER, chunk = training.chunk(training.chunk_epochs)
        emit("chunk", chunk)
        at_point = not training.epoch % task.epochs_per_point
        if curves.add(losses_ER) or at_point:
            epoch, seconds = training.epoch, training.seconds
            point = curves.evaluate(epoch, seconds, training.step_mse(), everyone=at_point)
            if at_point or not curves.running:
                emit("point", point)
    emit("fields", {"eval_s": training.evaluation.seconds})
    emit("fields", {"status": "ok" if curves.running else "diverged"})
    shares = curves.shares(training.initial_state_moved())
    if job.seeds:
        emit("shares", shares)
    elif curves.running:
        names = ("step_mse", "initial_state_moved")
        emit("fields", {name: getattr(shares[0], name) for name in names})


class Training:
    """Trains a backend on a task from one seed, or several at once, a chunk at a time.

    In a chunk, only the backend's `train` is on the clock: neither making the data nor reading the
    system's counters. `epoch` and `seconds` are the epochs and the time of training so far,
    `evaluation` the time of predictions, `greeting` what a process said of itself.
    """

    def __init__(
        self,
        job: TrialJob | TurnsJob,
        emit: Emit,
        find: Find = registry.importer,
        clock: Clock = now,
    ) -> None:
        """Import the backend and set it up; emit how long each took."""
        self._job, self._clock = job, clock
        self.seeds = job.seeds or (job.seed,)
        self._joules = energy.meter(job.device)
        emit("phase", "importing")
        import_backend = find(job.backend)
        with Stopwatch(clock) as watch:
            factory = import_backend()
        self.greeting = greeting(factory)
        emit("fields", {"import_s": watch.seconds})
        emit("phase", "setting up")
        params = [data.initial_params(job.task.model, seed) for seed in self.seeds]
        self._params = {name: np.stack([p[name] for p in params]) for name in params[0]}
        with Stopwatch(clock) as watch:
            self._backend = factory(job.task.model, job.device)
            self._trained = many_seeds(self._backend) if self.seeds[1:] else Alone(self._backend)
            self.restart()
        emit("fields", {"setup_s": watch.seconds})

    @property
    def chunk_epochs(self) -> int:
        """How many epochs each call trains."""
        return self._job.task.chunk_epochs(len(self.seeds))

    def restart(self) -> None:
        """Start anew from the initial parameters."""
        self._state = self._trained.init_many(self._params)
        self.epoch = 0
        self.seconds = 0.0
        self.evaluation = Stopwatch(self._clock)

    def chunk(self, epochs: int) -> tuple[Array, Chunk]:
        """Train some epochs; return their losses [E, R] and the measurements of the call."""
        clock = self._clock
        x_ERTB, y_ERTB = data.training_chunks(self._job.task, self.seeds, self.epoch, epochs)
        joules, before = self._joules(), machine.counters()
        cpu, start = cpu_time(), clock()
        result = self._trained.train_many(self._state, x_ERTB, y_ERTB)
        wall_s, cpu_s = clock() - start, cpu_time() - cpu
        after, joules_after = machine.counters(), self._joules()
        # A descendant whose parent did not wait for it takes its time with it.
        cpu_s += max(0.0, after.descendants_cpu_s - before.descendants_cpu_s)
        self._state, losses_ER = contract.train_result(result, (epochs, len(self.seeds)))
        self.epoch += epochs
        self.seconds += wall_s
        return losses_ER, Chunk(
            wall_s=wall_s,
            cpu_s=cpu_s,
            # A descendant that has ended takes its count with it.
            involuntary_switches=max(0, after.involuntary_switches - before.involuntary_switches),
            steal_s=_difference(before.steal_s, after.steal_s),
            load=machine.load(),
            mhz=machine.core_mhz(),
            energy_j=energy.of_call(self._job.device, joules, joules_after, wall_s),
        )

    def step_mse(self) -> Array:
        """Return the mean squared error on the held-out paths at t = 1..T, shape [R, T]."""
        x_RTN, y_RTN = self._held_out
        squares_RT = np.zeros(y_RTN.shape[:2])
        for part, done in self._parts():
            x_RTP = np.ascontiguousarray(x_RTN[..., part])
            with self.evaluation:
                output_RTP = self._trained.predict_many(self._state, x_RTP)
            error_RTP = contract.outputs(output_RTP, x_RTP.shape)[:, 1:] - y_RTN[..., part]
            squares_RT += np.sum(error_RTP[..., done:] ** 2, axis=2)
        step_mse_RT: Array = squares_RT / y_RTN.shape[2]
        return step_mse_RT

    def initial_state_moved(self) -> Array:
        """Return `initial_state_moved` of each seed [R]."""
        params = self._trained.params_many(self._state)
        after = contract.params(params, self._job.task.model, len(self.seeds))
        return initial_state_moved(self._job.task.model, self._params, after)

    def peak_gpu(self) -> dict[str, float | None]:
        """Return the field `peak_gpu_mb` if there is one to report."""
        if self._job.device == "gpu" and isinstance(self._backend, ReportsGpuMemory):
            return {"peak_gpu_mb": self._backend.peak_gpu_mb()}
        return {}

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


def initial_state_moved(model: Model, before: Params, after: Params) -> Array:
    """Return how far the initial state of each seed has moved: RMS over its units [R]."""
    moves_RH = [after[name] - before[name] for name in model.initial_states]
    rms_R: Array = np.sqrt(np.mean(np.concatenate(moves_RH, axis=1, dtype=float) ** 2, axis=1))
    return rms_R


def _difference(before: float | None, after: float | None) -> float | None:
    """Return by how much a counter went up; None if it is unknown."""
    return None if before is None or after is None else after - before
