"""What a backend is: four methods, NumPy arrays in and out, and a state that only it can read.

A backend knows nothing of AR(1) paths, Ray or clocks. The harness owns the data, the initial
parameters, the clock and the evaluation, so that every backend gets the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.backend.model import Model

Array: TypeAlias = "NDArray[np.floating[Any]]"
Params: TypeAlias = "Mapping[str, Array]"
"""Parameters by name, with the names and shapes of `Model.shapes`."""

State = TypeVar("State")


class Backend(Protocol[State]):
    """One framework's way to train the network of a `Model` on one device.

    Arrays come and go in the dtype of the model, time first. Returning NumPy forces the device to
    finish, so the caller's clock needs no call into the framework.
    """

    def init(self, params: Params) -> State:
        """Build the state of a training that starts at `params`, with a fresh optimiser."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Take E optimiser steps, one per epoch; `state` is consumed.

        x_ETB: inputs [E, T+1, B]; y_ETB: targets [E, T, B]. The loss of an epoch is the mean
        squared error between the last T outputs and the targets. Returns the new state and the
        losses [E], each taken before that epoch's step.
        """

    def predict(self, state: State, x_TN: Array) -> Array:
        """Return one output per step fed: inputs [T+1, N] to outputs [T+1, N]; keeps `state`."""

    def params(self, state: State) -> Params:
        """Return the current parameters; keeps `state`."""


@runtime_checkable
class TrainsManySeeds(Protocol[State]):
    """Optional second protocol: a backend that trains R independent networks in one go.

    Each has its own parameters, optimiser and data, and ends as it would have ended alone, to
    rounding. Every array has the seeds as its first axis, after the epochs if there are any; a
    seed that diverges leaves the others alone.
    """

    def init_many(self, params: Params) -> State:
        """Build the state of R trainings: every parameter is [R, *its shape]."""

    def train_many(self, state: State, x_ERTB: Array, y_ERTB: Array) -> tuple[State, Array]:
        """Take E optimiser steps with each network, as `Backend.train` does; `state` is consumed.

        x_ERTB: inputs [E, R, T+1, B]; y_ERTB: targets [E, R, T, B]. Returns the new state and the
        losses [E, R].
        """

    def predict_many(self, state: State, x_RTN: Array) -> Array:
        """Return one output per step fed: inputs [R, T+1, N] to outputs of that shape."""

    def params_many(self, state: State) -> Params:
        """Return the current parameters, each [R, *its shape]; keeps `state`."""


class BackendFactory(Protocol):
    """What the entry-point group `harness.backends` holds: a class or a function.

    Raises `harness.Unavailable` when the device ("cpu" or "gpu") is not there, or if it cannot
    train such a network (`Model.require` says so in a sentence).
    """

    def __call__(self, model: Model, device: str) -> Backend[Any]:
        """Make a backend for `model` on `device`."""


@runtime_checkable
class ReportsGpuMemory(Protocol):
    """Optional second protocol: a backend that knows the peak of its arrays on the GPU."""

    def peak_gpu_mb(self) -> float | None:
        """Return the most memory that arrays held on the GPU at once, in MB (10^6 bytes).

        A trial asks once, after the first call of `train` and before any prediction; the parity
        check asks at its end. None: unknown.
        """


@runtime_checkable
class NamesCompilerOptions(Protocol):
    """Optional second protocol of a class: its backends are compiled with options of their own."""

    def compiler_options(self, device: str) -> Mapping[str, object]:
        """Return the options by name, for the record of a trial; a static method."""


@runtime_checkable
class ExplainsItself(Protocol):
    """Optional second protocol: a backend that knows where the time of its training goes.

    For what profilers cannot see: a library's own threads and buffers, another process, a device.
    """

    def explain_training(self) -> Mapping[str, float]:
        """Return what the last call of `train` or `train_many` did.

        The names of `harness.trial.profile.Stretch`, such as `copies`, are seconds; all others are
        counts. They are measured as long as a call takes, so that a profile costs nothing more.
        """
