"""One trial: import, set up, first call, then chunk after chunk of training on the clock.

Runs in a process of its own, with threads, cores and devices already set (see `harness.launch`).
Shape suffixes: E epochs, T time steps, B batch, N evaluation paths.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from harness import contract, data, machine, registry
from harness.clock import Clock, Stopwatch, cpu_time, now
from harness.jobs import TrialJob, TurnsJob
from harness.protocol import Array, BackendFactory, ReportsGpuMemory
from harness.record import Chunk, Point

Emit: TypeAlias = Callable[[str, Any], None]
"""Takes a kind and a value: ("phase", what the trial does now), ("fields", fields of the record
just measured), ("chunk", a timed call) or ("point", a point of the curve)."""
Load: TypeAlias = Callable[[str], BackendFactory]


def run(job: TrialJob, emit: Emit, load: Load = registry.load, clock: Clock = now) -> None:
    """Run a trial and emit each measurement as soon as it is made; backend errors come through."""
    training = Training(job, emit, load, clock)
    task = job.task

    emit("phase", "in the first call")
    _, chunk = training.chunk(task.chunk_epochs())
    training.step_mse()
    emit("fields", {"first_call_s": chunk.wall_s + training.evaluation.seconds})
    training.restart()

    emit("phase", "training")
    losses: list[Array] = []
    diverged = False
    while training.epoch < task.epochs and not diverged:
        losses_E, chunk = training.chunk(task.chunk_epochs())
        emit("chunk", chunk)
        losses.append(losses_E)
        diverged = not np.isfinite(losses_E).all()
        if not diverged and training.epoch % task.epochs_per_point:
            continue
        step_mse_T = training.step_mse()
        diverged = diverged or not np.isfinite(step_mse_T).all()
        point = Point(
            epoch=training.epoch,
            train_s=training.seconds,
            train_loss=float(np.mean(np.concatenate(losses))),
            eval_mse=float(np.mean(step_mse_T)),
        )
        emit("point", point)
        losses.clear()
    emit("fields", {"eval_s": training.evaluation.seconds} | training.peak_gpu())
    emit(
        "fields",
        {"status": "diverged"} if diverged else {"status": "ok", "step_mse": step_mse_T.tolist()},
    )


class Training:
    """A backend that trains on a task from one seed, a chunk at a time.

    Of a chunk, only `Backend.train` is on the clock: not the making of its data, nor what is read
    of the system before and after. `epoch` and `seconds` say how far it is and how long that took,
    `evaluation` how long the predictions did.
    """

    def __init__(
        self, job: TrialJob | TurnsJob, emit: Emit, load: Load = registry.load, clock: Clock = now
    ) -> None:
        """Import the backend and set it up; emit how long each took."""
        self._job, self._clock = job, clock
        emit("phase", "importing")
        with Stopwatch(clock) as watch:
            factory = load(job.backend)
        emit("fields", {"import_s": watch.seconds})
        emit("phase", "setting up")
        self._params = data.initial_params(job.task.model, job.seed)
        with Stopwatch(clock) as watch:
            self._backend = factory(job.task.model, job.device)
            self.restart()
        emit("fields", {"setup_s": watch.seconds})

    def restart(self) -> None:
        """Start anew from the initial parameters."""
        self._state = self._backend.init(self._params)
        self.epoch = 0
        self.seconds = 0.0
        self.evaluation = Stopwatch(self._clock)

    def chunk(self, epochs: int) -> tuple[Array, Chunk]:
        """Train some epochs; return their losses [E] and what the call took."""
        task, clock = self._job.task, self._clock
        x_ETB, y_ETB = data.training_chunk(task, self._job.seed, self.epoch, epochs)
        before = machine.counters()
        cpu, start = cpu_time(), clock()
        result = self._backend.train(self._state, x_ETB, y_ETB)
        wall_s, cpu_s = clock() - start, cpu_time() - cpu
        after = machine.counters()
        self._state, losses_E = contract.train_result(result, epochs)
        self.epoch += epochs
        self.seconds += wall_s
        return losses_E, Chunk(
            wall_s=wall_s,
            cpu_s=cpu_s,
            involuntary_switches=after.involuntary_switches - before.involuntary_switches,
            steal_s=None
            if before.steal_s is None or after.steal_s is None
            else after.steal_s - before.steal_s,
            load=machine.load(),
            mhz=machine.core_mhz(),
        )

    def step_mse(self) -> Array:
        """Return the mean squared error on the held-out paths at t = 1..T, shape [T]."""
        x_TN, y_TN = self._held_out
        with self.evaluation:
            output_TN = self._backend.predict(self._state, x_TN)
        error_TN = contract.outputs(output_TN, x_TN.shape)[1:] - y_TN
        error_T: Array = np.mean(error_TN**2, axis=1)
        return error_T

    @cached_property
    def _held_out(self) -> tuple[Array, Array]:
        return data.evaluation_paths(self._job.task, self._job.seed)

    def peak_gpu(self) -> dict[str, float]:
        """Return the field `peak_gpu_mb` if there is one to report."""
        if self._job.device == "gpu" and isinstance(self._backend, ReportsGpuMemory):
            return {"peak_gpu_mb": self._backend.peak_gpu_mb()}
        return {}
