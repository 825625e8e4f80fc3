"""Parity: a backend is timed only after it matched the float64 reference.

Three things are compared, element by element, in float64 and in float32, on random data and
parameters (not zero, because a zero bias or initial state would hide faults). Some inputs and
outputs are as large as any in the evaluation of the task:

- outputs;
- gradients: one step of plain gradient descent at rate 1 moves every parameter by its gradient;
- a trajectory: the losses of 20 Adam steps and how far each parameter moved, in two calls of
  `train`, which shows whether the optimiser keeps its state between calls.

A backend that trains many seeds at once must match in that, too, with data and parameters of its
own for each seed.

When a check fails, the fault is looked for among those that people make (`harness.measure.faults`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from harness.backend import contract, registry
from harness.backend.evidence import Sample, relative_error
from harness.backend.model import Model
from harness.backend.process import ProcessWorker, greeting
from harness.backend.protocol import (
    Array,
    Backend,
    BackendFactory,
    Params,
    ReportsGpuMemory,
    TrainsManySeeds,
)
from harness.backend.single_seed import Alone, many_seeds, one_of_many
from harness.errors import ContractViolation, Unavailable, WorkerError, brief
from harness.measure import conformance, machine
from harness.measure.faults import name_fault, reference
from harness.measure.training import Emit
from harness.task.data import reach
from harness.task.task import Task
from harness.trial.events import Check
from harness.trial.jobs import ParityJob

DType: TypeAlias = Literal["float32", "float64"]

TOLERANCE: Mapping[DType, float] = {"float64": 1e-9, "float32": 1e-4}
TRAJECTORY_STEPS = 20
# Not the default, so that a backend that ignores the rate fails.
_TRAJECTORY_RATE = 3e-3
_SIZE, _OFFSET = 32, 10
# A change of the parameters may change a result thirty times as much, and no more.
_DRAWS, _AMPLIFIED = 20, 30
# Adam divides by the size of the gradient, so a parameter whose gradient happens to vanish moves by
# rounding alone, and a large network has such parameters. The optimiser works element by element,
# so a small network and few data are enough. Outputs and gradients are compared at the size of the
# task.
_TRAJECTORY_HIDDEN, _TRAJECTORY_SIZE = 16, 8
# The outputs are linear in these parameters.
_HEAD = ("W_2", "b_2")
# One more than sixteen: a backend that works in blocks of seeds has a remainder, too.
_MOST_SEEDS = 17


def run(job: ParityJob, emit: Emit) -> None:
    """Run a parity job and emit its checks. Raises what the backend raises."""
    emit("phase", "importing")
    factory = registry.load(job.backend)
    emit("phase", "in the parity check")
    fault = ""
    for network, task in job.networks:
        try:
            for check in compare(factory, job.device, task, job.at_once):
                emit("check", check.model_copy(update={"network": network}))
                if not (check.passed or fault):
                    fault = _fault(factory, job.device, task, check)
                    emit("fields", {"fault": fault})
        except (ContractViolation, WorkerError) as error:
            if not isinstance(factory, ProcessWorker):
                raise
            raise type(error)(_all_wrong(error, factory, task.model, job.device)) from error
    if job.device == "gpu":
        backend = factory(job.task.model, job.device)
        if isinstance(backend, ReportsGpuMemory):
            emit("fields", {"peak_gpu_mb": backend.peak_gpu_mb()})
    emit("fields", {"versions": {**machine.loaded_versions(), **greeting(factory).versions}})


def _fault(factory: BackendFactory, device: str, task: Task, check: Check) -> str:
    """Say what is wrong with a backend, given the first check that it failed."""

    def make(model: Model) -> Backend[Any]:
        return one_of_many(factory(model, device)) if check.at_once > 1 else factory(model, device)

    model = replace(task.model, dtype=check.dtype)
    try:
        if isinstance(factory, ProcessWorker) and (
            wrong := conformance.problems(factory, model, device)
        ):
            return "; ".join(wrong)
        return name_fault(make, Sample.draw(model), check.tolerance)
    except Exception as error:  # The check has failed all the same.
        return f"its fault could not be looked for: {type(error).__name__}: {brief(error)}"


def _all_wrong(error: Exception, worker: ProcessWorker, model: Model, device: str) -> str:
    """Return the error that ended a check, and what else the process gets wrong."""
    try:
        worker.restart()
        found = conformance.problems(worker, model, device)
    except Exception as other:  # The first error is the one to mend.
        found = [f"what else is wrong was not found: {type(other).__name__}: {brief(other)}"]
    return "; ".join(dict.fromkeys([f"{error}".rstrip("."), *found]))


def compare(factory: BackendFactory, device: str, task: Task, at_once: int = 1) -> Iterator[Check]:
    """Yield the checks of a backend on the network of `task`, in both precisions.

    With `at_once` above 1, also those of training that many seeds (17 at most), if it can. A
    precision that it lacks is skipped, unless the task asks for it. Raises what the backend raises.
    """
    largest = reach(task)
    for dtype, tolerance in TOLERANCE.items():
        model = replace(task.model, dtype=dtype)
        try:
            backend = factory(model, device)
        except Unavailable:
            if dtype == task.dtype:
                raise
            continue
        yield from _compare(factory, device, model, tolerance, 1, largest)
        if at_once > 1 and isinstance(backend, TrainsManySeeds):
            many = min(at_once, _MOST_SEEDS)
            yield from _compare(factory, device, model, tolerance, many, largest)


_Quantity: TypeAlias = Literal["outputs", "gradient", "losses", "trajectory"]
_Observed: TypeAlias = dict[_Quantity, Params]
_Make: TypeAlias = Callable[[Model], TrainsManySeeds[Any]]
_Observe: TypeAlias = "Callable[[_Sample, _Make], _Observed]"
_Draw: TypeAlias = "Callable[[int], _Sample]"


def _compare(
    factory: BackendFactory,
    device: str,
    model: Model,
    tolerance: float,
    seeds: int,
    largest: tuple[float, float],
) -> Iterator[Check]:
    """Yield the checks of training `seeds` seeds; they are the first axis of every array.

    Inputs and outputs are as large as `largest`.
    """
    small = replace(model, hidden=_TRAJECTORY_HIDDEN)

    def of_task(number: int) -> _Sample:
        return _Sample.draw(model, number, _SIZE).reaching(*largest)

    def of_trajectory(number: int) -> _Sample:
        return _Sample.draw(small, number, _TRAJECTORY_SIZE)

    def tested(model: Model) -> TrainsManySeeds[Any]:
        backend = factory(model, device)
        return many_seeds(backend) if seeds > 1 else Alone(backend)

    for observe, draw, change in (
        (_outputs_and_gradient, of_task, 1e-6),
        (_trajectory, of_trajectory, 1e-5),
    ):
        smooth = [_smooth(observe, draw, number, change) for number in range(seeds)]
        got = observe(_Sample.stack([sample for sample, _ in smooth]), tested)
        for quantity in got:
            want = {
                name: np.concatenate([one[quantity][name] for _, one in smooth])
                for name in got[quantity]
            }
            yield worst(quantity, got[quantity], want, model.dtype, tolerance)


def _smooth(
    observe: _Observe, draw: _Draw, number: int, change: float
) -> tuple[_Sample, _Observed]:
    """Return a sample whose results rounding does not decide, and those of the reference.

    Where an argument of relu is near zero, rounding decides whether a gradient passes. So samples
    are drawn until a small relative change of the parameters changes no result much more.
    """

    def exact(sample: _Sample) -> _Observed:
        return observe(sample, lambda model: Alone(reference(model)))

    for another in range(_DRAWS):
        sample = draw(number + another * _MOST_SEEDS)
        want = exact(sample)
        if sample.model.activation != "relu":
            break
        near = [exact(sample.changed(by)) for by in (change, -change)]
        if max(_distance(one, want) for one in near) < _AMPLIFIED * change:
            break
    return sample, want


@dataclass(frozen=True)
class _Sample:
    """Random parameters and data, the same for every backend, for R seeds."""

    model: Model
    params: Params
    x_ERTB: Array
    y_ERTB: Array

    @classmethod
    def draw(cls, model: Model, number: int, size: int) -> _Sample:
        """Draw paths of `size` steps, as many in a batch."""
        rng = np.random.default_rng(20230801 + number)

        def draw(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(model.dtype)

        params = {
            name: draw(1, *shape) / np.sqrt(shape[-1]).astype(model.dtype)
            for name, shape in model.shapes.items()
        }
        x_ERTB = draw(TRAJECTORY_STEPS, 1, size + 1, size)
        # Targets away from zero give every parameter a gradient well above its own rounding.
        y_ERTB = draw(TRAJECTORY_STEPS, 1, size, size) + _OFFSET
        return cls(model, params, x_ERTB, y_ERTB)

    @classmethod
    def stack(cls, samples: list[_Sample]) -> _Sample:
        return cls(
            samples[0].model,
            {n: np.concatenate([s.params[n] for s in samples]) for n in samples[0].params},
            np.concatenate([s.x_ERTB for s in samples], axis=1),
            np.concatenate([s.y_ERTB for s in samples], axis=1),
        )

    def reaching(self, x: float, y: float) -> _Sample:
        """Return it with one path whose inputs, and with outputs that are as large as these."""
        x_ERTB = self.x_ERTB.copy()
        x_ERTB[..., -1] *= x / np.abs(x_ERTB[..., -1]).max()
        exact = Alone(reference(self.model))
        output_RTB = exact.predict_many(exact.init_many(self.params), x_ERTB[0])
        scale = y / output_RTB.flat[np.abs(output_RTB).argmax()]
        head = {name: (scale * self.params[name]).astype(self.model.dtype) for name in _HEAD}
        return replace(self, x_ERTB=x_ERTB, params={**self.params, **head})

    def changed(self, by: float) -> _Sample:
        """Return it with every parameter changed by about that share."""
        rng = np.random.default_rng(0)
        params = {n: v * (1 + by * rng.standard_normal(v.shape)) for n, v in self.params.items()}
        return replace(self, params=params)

    def moved(self, backend: TrainsManySeeds[Any], epochs: int, calls: int) -> tuple[Params, Array]:
        """Train calls x epochs steps; return parameters (start minus end) and losses [R, E]."""
        state = backend.init_many(self.params)
        losses = []
        for first in range(0, epochs * calls, epochs):
            part = slice(first, first + epochs)
            result = backend.train_many(state, self.x_ERTB[part], self.y_ERTB[part])
            shape = (epochs, self.x_ERTB.shape[1])
            state, losses_ER = contract.train_result(result, shape)
            losses.append(losses_ER)
        seeds = self.x_ERTB.shape[1]
        end = contract.params(backend.params_many(state), self.model, seeds)
        fell = {name: start.astype(np.float64) - end[name] for name, start in self.params.items()}
        return fell, np.concatenate(losses).T


def _outputs_and_gradient(sample: _Sample, make: _Make) -> _Observed:
    backend = make(replace(sample.model, optimiser="sgd", learning_rate=1.0))
    x_RTB = sample.x_ERTB[0]
    output_RTB = backend.predict_many(backend.init_many(sample.params), x_RTB)
    gradient, _ = sample.moved(backend, epochs=1, calls=1)
    return {
        "outputs": {"output": contract.outputs(output_RTB, x_RTB.shape)},
        "gradient": gradient,
    }


def _trajectory(sample: _Sample, make: _Make) -> _Observed:
    backend = make(replace(sample.model, optimiser="adam", learning_rate=_TRAJECTORY_RATE))
    moved, losses_RE = sample.moved(backend, epochs=TRAJECTORY_STEPS // 2, calls=2)
    return {"losses": {"loss": losses_RE}, "trajectory": moved}


def worst(
    quantity: _Quantity,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    dtype: DType,
    tolerance: float,
) -> Check:
    """Return the check at the worst element of arrays by name, whose first axis is the seeds."""
    name, index, error = max(
        ((name, *_largest(_relative_error(got[name], want[name]))) for name in want),
        key=lambda found: found[2],
    )
    value, seeds = float(got[name][index]), len(got[name])
    return Check(
        quantity=quantity,
        dtype=dtype,
        at_once=seeds,
        element=f"{name}[{', '.join(map(str, index[seeds == 1 :]))}]",
        got=value if np.isfinite(value) else None,
        want=float(want[name][index]),
        error=error if np.isfinite(error) else None,
        tolerance=tolerance,
    )


def _distance(got: _Observed, want: _Observed) -> float:
    """Return the largest relative error of all quantities."""
    return max(
        float(_relative_error(got[quantity][name], value).max())
        for quantity, values in want.items()
        for name, value in values.items()
    )


def _relative_error(got_R: Array, want_R: Array) -> Array:
    """Return the relative error of each seed by element."""
    return np.stack([relative_error(*one) for one in zip(got_R, want_R, strict=True)])


def _largest(error: Array) -> tuple[tuple[int, ...], float]:
    index = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    return index, float(error[index])
