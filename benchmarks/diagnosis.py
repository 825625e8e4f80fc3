"""How often is the diagnosis of a run wrong?

Trains many networks in `floor` and `jax`, healthy ones and ones with a planted fault, and keeps the
error at each time step as training goes on, and some outputs. A run of so many epochs and seeds is
then made from them as it would have been stored, and diagnosed; outputs are diagnosed as
predictions from elsewhere.

    python -m benchmarks.diagnosis measure FOLDER [SEEDS]
    python -m benchmarks.diagnosis report FOLDER
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.backend import registry
from harness.backend.protocol import Array, Params
from harness.diagnosis.curve import Curve
from harness.diagnosis.observed import Observed
from harness.diagnosis.predictions import explain
from harness.diagnosis.predictions_file import Predictions
from harness.diagnosis.rules import observe
from harness.diagnosis.rules_of_steps import first_steps
from harness.diagnosis.trainings import trainings as observed_trainings
from harness.measure.training import initial_state_moved
from harness.stats.forecast import Forecast, forecast
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
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ("floor", fields) for name, fields in (HEALTHY | POSTED).items()},
    **{name: ("jax", fields) for name, fields in OTHER_CELLS.items()},
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


def train(name: str, seed: int) -> Trained:
    """Train the longest run there is, an ailing one half as long: it is slow."""
    backend_name, fields = TASKS[name]
    task = Task(epochs=LENGTHS[-1 if backend_name == "floor" else -2], **fields)
    backend = registry.load(backend_name)(task.model, "cpu")
    start = data.initial_params(task.model, seed)
    state = backend.init(start)
    x_TN, y_TN = data.evaluation_paths(task, seed)
    epoch, total = 0, 0.0
    losses, steps, moved, outputs = [], [], [], []
    for until in (e for e in EPOCHS if e <= task.epochs):
        for first in range(epoch, until, 200):
            number = min(200, until - first)
            x_ETB, y_ETB = data.training_chunk(task, seed, first, number)
            state, loss_E = backend.train(state, x_ETB, y_ETB)
            total += float(loss_E.sum(dtype=float))
        epoch = until
        losses.append(total)
        output_TN = backend.predict(state, x_TN)
        steps.append(np.mean((output_TN[1:] - y_TN) ** 2, axis=1))
        moved.append(initial_state_moved(task.model, *map(_alone, (start, backend.params(state)))))
        if until in LENGTHS:
            outputs.append(output_TN[:, :KEPT_PATHS])
        if not np.isfinite(total):
            break
    return Trained(np.array(losses), np.array(steps), np.concatenate(moved), np.array(outputs))


def _alone(params: Params) -> Params:
    """Return the parameters of one seed with an axis for the seeds."""
    return {name: value[None] for name, value in params.items()}


def _measure(folder: Path, name: str, seed: int) -> str:
    file = folder / f"{name}-{seed}.npz"
    if not file.exists():
        trained = train(name, seed)
        np.savez(file, **trained._asdict())
    return file.name


def measure(folder: Path, seeds: int) -> None:
    """Train everything that is not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as pool:
        jobs = [
            pool.submit(_measure, folder, name, seed) for seed, name in product(range(seeds), TASKS)
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
    return observed_trainings(
        Task(epochs=length, **TASKS[name][1]),
        tuple(long),
        Curve(
            epochs_K,
            np.broadcast_to(epochs_K * 1e-4, sums_SK.shape),
            loss_SK=np.diff(sums_SK, prepend=0.0) / (length // POINTS),
            mse_SK=np.stack([one.step_mse[at_K].mean(axis=1) for one in long.values()]),
        ),
        np.stack([one.step_mse[at_K[-1]] for one in long.values()]),
        moved_S=np.array([one.moved[at_K[-1]] for one in long.values()]),
    )


def runs(folder: Path, name: str, length: int, size: int) -> Iterator[Observed]:
    """Yield the runs of so many seeds that can be made of the trainings, none in two of them."""
    trained = list(load(folder, name).items())
    for first in range(0, len(trained) - size + 1, size):
        trainings = trainings_of(name, dict(trained[first : first + size]), length)
        if trainings is not None:
            yield trainings


# What a training that is healthy, if perhaps unfinished, may be said to be.
FINE = {"learned", "not-converged"}
PLANTED_RULE = {
    "posted": "wrong-sign",
    "forgets some": "stuck-seed",
    "forgets": "memoryless",
    "freezes some": "stuck-seed",
    "drifts": "error-grows",
    "keeps": "first-steps",
    "cut": "first-steps",
    "broadcast": "broken-gradient",
}


def expected(name: str, trainings: Observed) -> str:
    """Return the rule that should speak; "" if none of those for faults should."""
    planted = next((rule for key, rule in PLANTED_RULE.items() if name.startswith(key)), "")
    if planted != "stuck-seed":
        return planted
    ill = sum(is_ill(trainings, seed) for seed in trainings.seeds)
    # Where most are ill, or there is nobody to compare with, it is no seed that stands out.
    return planted if ill and len(trainings.seeds) >= 3 * ill else ""


def is_ill(trainings: Observed, seed: int) -> bool:
    """Return whether a start is one of those that `benchmarks.helpers.ailing` spoils."""
    return bool(data.initial_params(trainings.task.model, seed)["W_1"][0, 0] < -0.3)


def rates(folder: Path, sizes: Sequence[int] = (1, 3, 6)) -> None:
    """Print how many runs got which diagnosis, and how often that was right or wrong."""
    healthy: Counter[str] = Counter()
    for name in TASKS:
        for length in LENGTHS:
            told: Counter[str] = Counter()
            number = planted = found = 0
            for size in sizes:
                for trainings in runs(folder, name, length, size):
                    rules: set[str] = {rule.id for rule, _ in observe(trainings)}
                    number += 1
                    told.update(rules or {"nothing"})
                    rule = expected(name, trainings)
                    planted, found = planted + bool(rule), found + (rule in rules)
                    if name in HEALTHY | OTHER_CELLS:
                        healthy["runs"] += 1
                        healthy["false"] += bool(rules - FINE)
                        goal = np.exp(np.log(trainings.final_S).mean()) < trainings.target / 2
                        healthy["unfinished, they say, and twice as good"] += bool(
                            goal and "not-converged" in rules
                        )
            if number:
                share = f"{found} of {planted} found" if planted else ""
                print(f"{name:<18} {length:>6} {number:>4} runs {share:>16}  {dict(told)}")
    print(f"healthy: {dict(healthy)}")


def blind(folder: Path, sizes: Sequence[int] = (1, 3)) -> None:
    """Print how often errors alone tell a gradient that is broken.

    That is, if the task does not say so, and how far the initial state has moved is not known.
    """
    print("first-steps, from the errors alone")
    for name in (name for name in TASKS if name.startswith(("keeps", "cut", "broadcast"))):
        for length in LENGTHS[:-1]:
            found = [
                bool(first_steps.look(_unaware(trainings)))
                for size in sizes
                for trainings in runs(folder, name, length, size)
            ]
            print(f"  {name:<24} {length:>6} {sum(found):>3} of {len(found)}")


def _unaware(trainings: Observed) -> Observed:
    exact = trainings.task.changed(gradient="exact")
    return replace(trainings, task=exact, moved_S=None)


def predictions(folder: Path, sizes: Sequence[int] = (20, 100)) -> None:
    """Print how many files of so many paths got which diagnosis as predictions from elsewhere."""
    for name, (_, fields) in TASKS.items():
        for at, length in enumerate(LENGTHS):
            for size in sizes:
                told: Counter[str] = Counter()
                for seed, trained in load(folder, name).items():
                    if at >= len(trained.outputs):
                        continue
                    task = Task(epochs=length, **fields)
                    x_TN, _ = data.evaluation_paths(task, seed)
                    for first in range(0, min(KEPT_PATHS, task.eval_paths), size):
                        paths = slice(first, first + size)
                        file = _as_file(x_TN[:, paths], trained.outputs[at][:, paths])
                        rules: set[str] = {finding.rule for finding in explain(file, task)}
                        told.update(rules or {"nothing"})
                        told["files"] += 1
                if told:
                    print(f"{name:<24} {length:>6} {size:>4} paths  {dict(told)}")


def _as_file(x_TN: Array, output_TN: Array) -> Predictions:
    steps, paths = x_TN.shape[0] - 1, x_TN.shape[1]
    now, before, output = (a.T.ravel().astype(float) for a in (x_TN[1:], x_TN[:-1], output_TN[1:]))
    path_R, t_R = np.repeat(np.arange(paths), steps), np.tile(np.arange(1, steps + 1), paths)
    return Predictions(path_R, t_R, now, before, output, starts_at_zero=True)


def coverage(folder: Path, sizes: Sequence[int] = (1, 3)) -> None:
    """Print how often the interval of a forecast holds the epoch at which the goal was reached.

    That is the first at which the geometric mean of three evaluations and all seeds is there. Where
    it was not within the longest training, an interval is right that does not end before.
    """
    print(
        "tanh, Adam: forecasts, share held, share of those that were reached within the training,"
    )
    print("and the median of the error of the forecast, as a factor")
    total = []
    for name in HEALTHY:
        if name == "relu":
            continue
        for length in (500, 1000, 2000, 5000):
            right: list[tuple[bool, float]] = []
            for trainings in (t for size in sizes for t in runs(folder, name, length, size)):
                told = _forecast(trainings)
                if told is None:
                    continue
                reached = reaches(folder, name, trainings)
                held = reached >= told.low and (
                    reached <= told.high or (np.isinf(reached) and told.high > LENGTHS[-1])
                )
                right.append((held or (told.beyond and reached >= told.low), reached / told.epochs))
            if right:
                total += right
                print(f"  {name:<12} {length:>6}  {_summary(right)}")
    print(f"  {'all':<12} {'':>6}  {_summary(total)}")


def _forecast(trainings: Observed) -> Forecast | None:
    curve = trainings.curve
    assert curve is not None
    return forecast(curve.epochs_K, curve.mse_SK, trainings.target)


def _summary(right: Sequence[tuple[bool, float]]) -> str:
    factors = np.array([factor for _, factor in right if 0 < factor < np.inf])
    typical = np.exp(np.median(np.abs(np.log(factors)))) if len(factors) else np.nan
    held = float(np.mean([held for held, _ in right]))
    return f"{len(right):>4} {held:>5.0%} {len(factors) / len(right):>5.0%} {typical:>6.2f}"


def reaches(folder: Path, name: str, trainings: Observed) -> float:
    """Return the epoch at which the seeds of a run reach its goal; infinite if they do not."""
    trained = load(folder, name)
    log_K = np.mean(
        [np.log(trained[seed].step_mse.mean(axis=1)) for seed in trainings.seeds], axis=0
    )
    smooth_K = np.convolve(np.pad(log_K, 1, "edge"), np.ones(3) / 3, "valid")
    there_K = np.flatnonzero(smooth_K <= np.log(trainings.target))
    return float(EPOCHS[there_K[0]]) if len(there_K) else np.inf


def main() -> None:
    """Measure or report."""
    command, folder, *rest = sys.argv[1:]
    if command == "measure":
        measure(Path(folder), int(rest[0]) if rest else 30)
    else:
        rates(Path(folder))
        blind(Path(folder))
        predictions(Path(folder))
        coverage(Path(folder))


if __name__ == "__main__":
    main()
