"""All that a seed decides: training batches, evaluation paths and initial parameters.

Randomness is counter-based (Philox, Salmon et al. 2011): the seed is the key, and every epoch has a
block of 2^128 counter values of its own. So the same seed gives the same numbers to every backend,
on every machine, however the epochs are cut into chunks, and evaluation paths share no draw with
training. Shape suffixes: E epochs, T time steps, B batch, N evaluation paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from math import log, prod, sqrt

import numpy as np
from numpy.typing import NDArray

from harness.backend.model import GATES, Model
from harness.backend.protocol import Array, Params
from harness.task.task import Task

# They are in the processor's caches all at once, and take no memory to speak of.
_EPOCHS_IN_FLOAT64 = 8
_ALIGNMENT = 64


class _Stream(IntEnum):
    TRAIN = 0
    EVAL = 1
    INIT = 2


def training_chunk(task: Task, seed: int, first_epoch: int, epochs: int) -> tuple[Array, Array]:
    """Return inputs x_ETB [epochs, T+1, batch] and targets y_ETB [epochs, T, batch].

    The targets carry `task.train_sign`. Epochs are counted from 0.
    """
    x_ERTB, y_ERTB = training_chunks(task, [seed], first_epoch, epochs)
    return x_ERTB[:, 0], y_ERTB[:, 0]


def training_chunks(
    task: Task, seeds: Sequence[int], first_epoch: int, epochs: int
) -> tuple[Array, Array]:
    """Return `training_chunk` of each seed: x_ERTB [epochs, R, T+1, batch] and y_ERTB, alike."""
    x_ERTB = _aligned((epochs, len(seeds), task.n_steps + 1, task.batch_size), task.dtype)
    y_ERTB = _aligned((epochs, len(seeds), task.n_steps, task.batch_size), task.dtype)
    for r, seed in enumerate(seeds):
        for first in range(0, epochs, _EPOCHS_IN_FLOAT64):
            part = slice(first, first + _EPOCHS_IN_FLOAT64)
            path_ETB = np.zeros(x_ERTB[part, r].shape)
            for number, path_TB in enumerate(path_ETB, first_epoch + first):
                _generator(seed, _Stream.TRAIN, number).standard_normal(out=path_TB[1:])
            _to_ar1(path_ETB, task.rho)
            x_ERTB[part, r] = path_ETB
            y_ERTB[part, r] = _target(path_ETB, task.train_sign * task.lag_weight, task.lag)
    return x_ERTB, y_ERTB


def evaluation_paths(task: Task, seed: int) -> tuple[Array, Array]:
    """Return held-out inputs x_TN [T+1, eval_paths] and true targets y_TN [T, eval_paths].

    Inputs are in the dtype of the task, targets in float64 and with the plus sign.
    """
    x_TN = np.zeros((task.n_steps + 1, task.eval_paths))
    _generator(seed, _Stream.EVAL).standard_normal(out=x_TN[1:])
    _to_ar1(x_TN, task.rho)
    return x_TN.astype(task.dtype), _target(x_TN, task.lag_weight, task.lag)


def reach(task: Task) -> tuple[float, float]:
    """Return values that inputs and targets of the held-out paths hardly ever exceed.

    Of n values of a normal distribution, independent or not, any is beyond `sqrt(3 ln 2n)` standard
    deviations in at most a share `(2n)^-1/2` of all cases (the union bound).
    """
    squared = (1 - task.rho ** (2 * task.n_steps)) / (1 - task.rho**2)
    squared *= 3 * log(2 * task.n_steps * task.eval_paths)
    return sqrt(squared), squared * (1 + abs(task.lag_weight))


def initial_params(model: Model, seed: int) -> Params:
    """Return Glorot-uniform weights, U(-s, s) with s = sqrt(6 / (fan_in + fan_out)); the rest 0.

    The gates of a recurrent layer are matrices of their own: each has `hidden` units as fan_out.
    """
    generator = _generator(seed, _Stream.INIT)

    def draw(name: str, shape: tuple[int, ...]) -> Array:
        matrix = name.rpartition(".")[2]
        gates = GATES[model.cell] if matrix in {"W_xh", "W_hh"} else 1
        scale = np.sqrt(6 / (shape[0] // gates + shape[1])) if matrix.startswith("W_") else 0.0
        return (scale * generator.uniform(-1, 1, shape)).astype(model.dtype)

    return {name: draw(name, shape) for name, shape in model.shapes.items()}


def nudged(arrays: Params, units: int, key: Sequence[int]) -> Params:
    """Return arrays, each value larger or smaller by so many units in the last place.

    Chance, keyed by some numbers, decides which.
    """
    rng = np.random.default_rng((units, *key))

    def moved(value: Array) -> Array:
        share = units * np.finfo(value.dtype).eps * rng.choice((-1, 1), value.shape)
        return (value * (1 + share)).astype(value.dtype)

    return {name: moved(value) for name, value in arrays.items()}


def _aligned(shape: tuple[int, ...], dtype: str) -> Array:
    """Return an array, not yet filled, at a multiple of 64 bytes.

    Elsewhere frameworks may have to copy it first: XLA would, on the clock, at a tenth of the
    time of its fastest training.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    array: Array = memory[first : first + size].view(dtype).reshape(shape)
    return array


def _generator(seed: int, stream: _Stream, epoch: int = 0) -> np.random.Generator:
    # Philox counts in the low words; the high ones set streams and epochs apart.
    counter = np.array([0, 0, epoch, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=_key(seed), counter=counter))


@lru_cache(maxsize=4096)
def _key(seed: int) -> NDArray[np.uint64]:
    return np.random.SeedSequence(seed).generate_state(2, np.uint64).astype(np.uint64)


def _to_ar1(path: Array, rho: float) -> None:
    """Turn noise into x_0 = 0, x_t = rho x_{t-1} + noise_t, in place, along the last axis but one.

    The values at t = 0 are not changed, so they have to be zero.
    """
    for t in range(path.shape[-2] - 1):
        path[..., t + 1, :] += rho * path[..., t, :]


def _target(x: Array, lag_weight: float, lag: int) -> Array:
    square = x**2
    target: Array = square[..., 1:, :].copy()
    # x_0 and all before it are 0.
    target[..., lag - 1 :, :] += lag_weight * square[..., :-lag, :]
    return target
