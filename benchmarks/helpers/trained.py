"""Trainings that are kept, healthy and with a planted fault, and the runs that are made of them.

Shape suffixes: K evaluations, L of them at the end of a run, T time steps, N paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from harness.backend import registry
from harness.backend.protocol import Array, Params
from harness.diagnosis.curve import Curve
from harness.diagnosis.lag_terms import Coefficient, LagTerms
from harness.diagnosis.observed import Observed
from harness.diagnosis.trainings import trainings as observed_trainings
from harness.measure.learned import Looker
from harness.measure.training import initial_state_moved
from harness.tables.memory import memory
from harness.task import data
from harness.task.task import Task

POINTS = 20
LENGTHS = (500, 1000, 2000, 5000, 10_000, 20_000)
# Where the curve of a run of any of these lengths has its points.
EPOCHS = sorted({length // POINTS * k for length in LENGTHS for k in range(1, POINTS + 1)})

HEALTHY: dict[str, dict[str, Any]] = {
    "corrected": {},
    "strong-lag": {"lag_weight": 1.0},
    "no-lag": {"lag_weight": 0.0},
    "w=0.5": {"lag_weight": 0.5},
    "w=-0.3": {"lag_weight": -0.3},
    "rho=0.9": {"rho": 0.9},
    "rho=0.99": {"rho": 0.99, "lag_weight": 0.5},
    "rho=-0.6": {"rho": -0.6, "lag_weight": 0.5},
    "hidden=4": {"hidden": 4},
    "hidden=32": {"hidden": 32},
    "T=10": {"n_steps": 10, "lag_weight": 0.5},
    "few paths": {"eval_paths": 100},
    "relu": {"activation": "relu"},
    "fast": {"learning_rate": 3e-3},
    "rho=0.9, w=1": {"rho": 0.9, "lag_weight": 1.0},
}
OTHER_CELLS: dict[str, dict[str, Any]] = {
    "gru": {"cell": "gru"},
    "lstm": {"cell": "lstm"},
    "gru, w=1": {"cell": "gru", "lag_weight": 1.0},
    "2 layers": {"layers": 2},
}
POSTED: dict[str, dict[str, Any]] = {
    "posted": {"train_sign": -1},
    "posted, w=1": {"train_sign": -1, "lag_weight": 1.0},
    "posted, rho=0.9": {"train_sign": -1, "rho": 0.9},
}
AILING = "benchmarks.helpers.ailing:"
PLANTED: dict[str, tuple[str, dict[str, Any]]] = {
    "forgets": (f"{AILING}Forgets", {}),
    "forgets, w=1": (f"{AILING}Forgets", {"lag_weight": 1.0}),
    "forgets, rho=0.9": (f"{AILING}Forgets", {"rho": 0.9}),
    "freezes some": (f"{AILING}FreezesSome", {}),
    "forgets some": (f"{AILING}ForgetsSome", {}),
    "drifts": (f"{AILING}Drifts", {}),
    "rounds": (f"{AILING}Rounds", {}),
    "keeps its start": (f"{AILING}KeepsStart", {}),
    "keeps its start, w=1": (f"{AILING}KeepsStart", {"lag_weight": 1.0}),
    "keeps its start, rho=0.9": (f"{AILING}KeepsStart", {"rho": 0.9}),
    "cut": ("benchmarks.helpers.ailing_jax:Cut", {}),
    "cut, w=1": ("benchmarks.helpers.ailing_jax:Cut", {"lag_weight": 1.0}),
    "broadcast": ("jax", {"gradient": "stateful-broadcast"}),
    "broadcast, w=1": ("jax", {"gradient": "stateful-broadcast", "lag_weight": 1.0}),
    "broadcast, rho=0.9": ("jax", {"gradient": "stateful-broadcast", "rho": 0.9}),
    "broadcast, posted": ("jax", {"gradient": "stateful-broadcast", "train_sign": -1}),
}
FAR: dict[str, dict[str, Any]] = {
    f"L={lag}, rho={rho:g}, w={w:g}": {"lag": lag, "rho": rho, "lag_weight": w, "n_steps": 50}
    for lag, rho, w in product((2, 4, 8), (0.1, 0.9), (0.1, 1.0, -1.0))
}
FAR_CELLS: dict[str, dict[str, Any]] = {
    f"{cell}, L=4": {"cell": cell, "lag": 4, "lag_weight": 1.0, "n_steps": 50}
    for cell in ("gru", "lstm")
}


def _taught(lag: int) -> dict[str, Sequence[dict[str, Any]]]:
    return {
        "one step short": [{"lag": lag - 1}],
        "one step far": [{"lag": lag + 1}],
        "spread": [{"lag": lag + off} for off in (-1, 0, 1)],
        "half of it": [{"lag_weight": 0.5}],
        "turned": [{"lag_weight": -1.0}],
    }


TAUGHT: dict[str, tuple[dict[str, Any], Sequence[dict[str, Any]]]] = {
    f"{name}, L={lag}": ({"lag": lag, "lag_weight": 1.0, "n_steps": 50}, changes)
    for lag in (2, 4, 8)
    for name, changes in _taught(lag).items()
}
"""The task that a training is scored on, and what it is changed to for the targets of the training:
the mean of these."""
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ("floor", fields) for name, fields in (HEALTHY | POSTED | FAR).items()},
    **{name: ("jax", fields) for name, fields in (OTHER_CELLS | FAR_CELLS).items()},
    **{name: ("floor", fields) for name, (fields, _) in TAUGHT.items()},
    **PLANTED,
}
# Held-out paths whose outputs are kept, at the end of each of `LENGTHS`.
KEPT_PATHS = 200


class Trained(NamedTuple):
    """A training, evaluated at `EPOCHS`, or up to where it diverged."""

    loss: Array
    """Sum of the losses up to then [K]."""
    step_mse: Array
    """[K, T]"""
    moved: Array
    """How far the initial state has moved [K]."""
    outputs: Array
    """The outputs on the first held-out paths, at each of `LENGTHS` [L, T+1, N]."""
    lags: Array
    """The coefficients of x_{t-k}^2 on all of them, and the ends of their intervals [L, k, 3]."""
    memory: Array
    """How many steps back it provably looks [L]."""


def train(name: str, seed: int) -> Trained:
    """Train the longest run there is, an ailing one half as long: it is slow."""
    backend_name, fields = TASKS[name]
    task = Task(epochs=LENGTHS[-1 if backend_name == "floor" else -2], **fields)
    backend = registry.load(backend_name)(task.model, "cpu")
    start = data.initial_params(task.model, seed)
    state = backend.init(start)
    x_TN, y_TN = data.evaluation_paths(task, seed)
    epoch, total = 0, 0.0
    taught = [task.changed(**change) for change in TAUGHT.get(name, ({}, [{}]))[1]]
    losses, steps, moved, outputs, looks = [], [], [], [], []
    for until in (e for e in EPOCHS if e <= task.epochs):
        for first in range(epoch, until, 200):
            number = min(200, until - first)
            chunks = [data.training_chunk(each, seed, first, number) for each in taught]
            x_ETB, y_ETB = chunks[0][0], np.mean([y for _, y in chunks], axis=0, dtype=task.dtype)
            state, loss_E = backend.train(state, x_ETB, y_ETB)
            total += float(loss_E.sum(dtype=float))
        epoch = until
        losses.append(total)
        output_TN = backend.predict(state, x_TN)
        steps.append(np.mean((output_TN[1:] - y_TN) ** 2, axis=1))
        moved.append(initial_state_moved(task.model, *map(_alone, (start, backend.params(state)))))
        if until in LENGTHS:
            outputs.append(output_TN[:, :KEPT_PATHS])
            looks.append(_look(task, x_TN, y_TN, output_TN))
        if not np.isfinite(total):
            break
    lags, memories = zip(*looks, strict=True) if looks else ((), ())
    return Trained(
        np.array(losses),
        np.array(steps),
        np.concatenate(moved),
        np.array(outputs),
        np.array(lags),
        np.array(memories, float),
    )


def _look(task: Task, x_TN: Array, y_TN: Array, output_TN: Array) -> tuple[Array, float]:
    """Return what the table `lags` of a run has [k, 3], and the column `memory`."""
    looker = Looker(task)
    looker.add(x_TN, y_TN, output_TN[1:])
    learned = looker.learned()
    value, error = np.array([learned.coefficients, learned.coefficient_errors])
    half = stdtrit(learned.groups - 1, 0.975) * error
    proven = memory(learned)
    return np.stack([value, value - half, value + half], 1), np.nan if proven is None else proven


def _alone(params: Params) -> Params:
    """Return the parameters of one seed with an axis for the seeds."""
    return {name: value[None] for name, value in params.items()}


def _measure(folder: Path, name: str, seed: int) -> str:
    file = folder / f"{name}-{seed}.npz"
    if not file.exists():
        trained = train(name, seed)
        np.savez(file, **trained._asdict())
    return file.name


def measure(folder: Path, seeds: int, word: str = "") -> None:
    """Train everything that has this word in its name and is not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in TASKS if word in name]
    with ProcessPoolExecutor(2) as pool:
        jobs = [
            pool.submit(_measure, folder, name, seed) for seed, name in product(range(seeds), names)
        ]
        for number, job in enumerate(jobs, 1):
            print(f"[{number}/{len(jobs)}] {job.result()}", flush=True)


@cache
def load(folder: Path, name: str) -> dict[int, Trained]:
    """Return the trainings of a name there are, by seed."""
    found = {}
    for file in folder.glob(f"{name}-*.npz"):
        seed = file.stem.removeprefix(f"{name}-")
        if seed.isdecimal():
            kept = np.load(file)
            found[int(seed)] = Trained(**kept)
    return dict(sorted(found.items()))


def trainings_of(name: str, trained: Mapping[int, Trained], length: int) -> Observed | None:
    """Return what a run of so many epochs knows; None if none of its seeds got that far."""
    at_K = [EPOCHS.index(length // POINTS * k) for k in range(1, POINTS + 1)]
    long = {seed: one for seed, one in trained.items() if len(one.loss) > at_K[-1]}
    if not long:
        return None
    epochs_K = np.array([EPOCHS[k] for k in at_K], float)
    sums_SK = np.stack([one.loss[at_K] for one in long.values()])
    task, end = Task(epochs=length, **TASKS[name][1]), LENGTHS.index(length)
    terms = [[Coefficient(*row) for row in one.lags[end].tolist()] for one in long.values()]
    memory_S = np.array([one.memory[end] for one in long.values()])
    return observed_trainings(
        task,
        tuple(long),
        Curve(
            epochs_K,
            np.broadcast_to(epochs_K * 1e-4, sums_SK.shape),
            loss_SK=np.diff(sums_SK, prepend=0.0) / (length // POINTS),
            mse_SK=np.stack([one.step_mse[at_K].mean(axis=1) for one in long.values()]),
        ),
        np.stack([one.step_mse[at_K[-1]] for one in long.values()]),
        moved_S=np.array([one.moved[at_K[-1]] for one in long.values()]),
        lag_terms=[LagTerms(each, task) for each in terms],
        memory_S=None if np.isnan(memory_S).any() else memory_S,
    )


def runs(folder: Path, name: str, length: int, size: int) -> Iterator[Observed]:
    """Yield the runs of so many seeds that can be made of the trainings, none in two of them."""
    trained = list(load(folder, name).items())
    for first in range(0, len(trained) - size + 1, size):
        trainings = trainings_of(name, dict(trained[first : first + size]), length)
        if trainings is not None:
            yield trainings
