"""One trial: import, set up, first call, then chunk after chunk of training on the clock.

Runs in a process of its own, with threads, cores and devices already set (see `harness.launch`).
Only `Backend.train` is timed as training; making data and evaluating are off that clock. Shape
suffixes: E epochs, T time steps, B batch, N evaluation paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from harness import contract, data, registry
from harness.clock import Clock, Stopwatch, now
from harness.jobs import TrialJob
from harness.protocol import Array, Backend, BackendFactory, Params, ReportsGpuMemory
from harness.record import Point

Emit: TypeAlias = Callable[[str, Any], None]
"""Takes a kind and a value: ("phase", what the trial does now), ("fields", fields of the record
just measured), or ("point", a point of the curve)."""


def run(
    job: TrialJob,
    emit: Emit,
    load: Callable[[str], BackendFactory] = registry.load,
    clock: Clock = now,
) -> None:
    """Run a trial and emit each measurement as soon as it is made; backend errors come through."""
    emit("phase", "importing")
    with Stopwatch(clock) as watch:
        factory = load(job.backend)
    emit("fields", {"import_s": watch.seconds})

    emit("phase", "setting up")
    params = data.initial_params(job.task.model, job.seed)
    with Stopwatch(clock) as watch:
        backend = factory(job.task.model, job.device)
        state = backend.init(params)
    emit("fields", {"setup_s": watch.seconds})

    emit("phase", "in the first call")
    evaluation = _Evaluation(job, clock)
    x_ETB, y_ETB = data.training_chunk(job.task, job.seed, 0, job.task.chunk_epochs)
    with Stopwatch(clock) as watch:
        state, _ = contract.train_result(backend.train(state, x_ETB, y_ETB), len(x_ETB))
        evaluation.predict(backend, state)
    emit("fields", {"first_call_s": watch.seconds})

    emit("phase", "training")
    _train(job, backend, params, evaluation, emit, clock)
    if job.device == "gpu" and isinstance(backend, ReportsGpuMemory):
        emit("fields", {"peak_gpu_mb": backend.peak_gpu_mb()})


class _Evaluation:
    """The held-out paths of a trial and the time spent on them."""

    def __init__(self, job: TrialJob, clock: Clock) -> None:
        self._x_TN, self._y_TN = data.evaluation_paths(job.task, job.seed)
        self.watch = Stopwatch(clock)

    def predict(self, backend: Backend[Any], state: Any) -> Array:
        return contract.outputs(backend.predict(state, self._x_TN), self._x_TN.shape)

    def step_mse(self, backend: Backend[Any], state: Any) -> Array:
        """Return the mean squared error at t = 1..T, shape [T]."""
        with self.watch:
            output_TN = self.predict(backend, state)
        error_T: Array = np.mean((output_TN[1:] - self._y_TN) ** 2, axis=1)
        return error_T


def _train(
    job: TrialJob,
    backend: Backend[Any],
    params: Params,
    evaluation: _Evaluation,
    emit: Emit,
    clock: Clock,
) -> None:
    task, chunk = job.task, job.task.chunk_epochs
    state = backend.init(params)
    training = Stopwatch(clock)
    losses: list[Array] = []
    for epoch in range(chunk, task.epochs + 1, chunk):
        x_ETB, y_ETB = data.training_chunk(task, job.seed, epoch - chunk, chunk)
        with training:
            result = backend.train(state, x_ETB, y_ETB)
        state, losses_E = contract.train_result(result, chunk)
        losses.append(losses_E)
        diverged = not np.isfinite(losses_E).all()
        if not diverged and epoch % task.epochs_per_point:
            continue
        step_mse_T = evaluation.step_mse(backend, state)
        emit(
            "point",
            Point(
                epoch=epoch,
                train_s=training.seconds,
                train_loss=float(np.mean(np.concatenate(losses))),
                eval_mse=float(np.mean(step_mse_T)),
            ),
        )
        losses.clear()
        if diverged or not np.isfinite(step_mse_T).all():
            emit("fields", {"status": "diverged", "eval_s": evaluation.watch.seconds})
            return
    final = {"status": "ok", "eval_s": evaluation.watch.seconds, "step_mse": step_mse_T.tolist()}
    emit("fields", final)
