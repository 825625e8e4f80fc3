"""How often is the diagnosis of a run wrong?

Trains many networks in `floor` and `jax`, healthy ones and ones with a planted fault, and keeps the
error at each time step as training goes on, and some outputs. A run of so many epochs and seeds is
then made from them as it would have been stored, and diagnosed; outputs are diagnosed as
predictions from elsewhere. WORD chooses trainings by their names: `L=` is in those of longer lags.

    python -m benchmarks.diagnosis measure FOLDER [SEEDS [WORD]]
    python -m benchmarks.diagnosis report FOLDER
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.helpers.trained import (
    EPOCHS,
    FAR,
    FAR_CELLS,
    HEALTHY,
    KEPT_PATHS,
    LENGTHS,
    OTHER_CELLS,
    TASKS,
    load,
    measure,
    runs,
)
from harness.backend.protocol import Array
from harness.diagnosis.observed import Observed
from harness.diagnosis.predictions import explain
from harness.diagnosis.predictions_file import Predictions
from harness.diagnosis.rules import observe
from harness.diagnosis.rules_of_steps import first_steps
from harness.diagnosis.types import Rule
from harness.stats.forecast import Forecast, forecast
from harness.task import data
from harness.task.task import Task

# What a training that is healthy, if perhaps unfinished, may be said to be.
FINE = {"learned", "not-converged"}
# What it may be said to be on its way to a lag of several steps: warnings, and they are true.
ON_THE_WAY = FINE | {"memoryless", "wrong-lag", "other-lag"}
PLANTED_RULE = {
    "posted": "wrong-sign",
    "forgets some": "stuck-seed",
    "forgets": "memoryless, a fault",
    "freezes some": "stuck-seed",
    "drifts": "error-grows",
    "keeps": "first-steps",
    "cut": "first-steps",
    "broadcast": "broken-gradient",
    "one step": "wrong-lag, a fault",
    "spread": "wrong-lag",
    "half": "other-lag",
    "turned": "wrong-sign",
}


def expected(name: str, trainings: Observed) -> str:
    """Return the rule that should speak; "" if none of those for faults should."""
    planted = next((rule for key, rule in PLANTED_RULE.items() if name.startswith(key)), "")
    if planted != "stuck-seed":
        return planted
    ill = sum(is_ill(trainings, seed) for seed in trainings.seeds)
    # Where most are ill, or there is nobody to compare with, it is no seed that stands out.
    return planted if ill and len(trainings.seeds) >= 3 * ill else ""


def said(rule: Rule) -> str:
    """Return the name of a rule; two have a fault and a warning, and are told apart."""
    several = rule.id in {"wrong-lag", "memoryless"} and rule.severity == "fault"
    return f"{rule.id}, a fault" if several else rule.id


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
                    rules = {said(rule) for rule, _ in observe(trainings)}
                    number += 1
                    told.update(rules or {"nothing"})
                    rule = expected(name, trainings)
                    planted, found = planted + bool(rule), found + (rule in rules)
                    if name in FAR | FAR_CELLS:
                        healthy["runs, far"] += 1
                        healthy["false, far"] += bool(rules - ON_THE_WAY)
                        healthy["on the way"] += bool(rules - FINE)
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
    for name in HEALTHY | FAR:
        for length in (500, 1000, 2000, 5000):
            right: list[tuple[bool, float]] = []
            for trainings in (t for size in sizes for t in runs(folder, name, length, size)):
                told = _forecast(trainings)
                if told is None or not trainings.typical:
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
        measure(Path(folder), int(rest[0]) if rest else 30, *rest[1:])
    else:
        rates(Path(folder))
        blind(Path(folder))
        predictions(Path(folder))
        coverage(Path(folder))


if __name__ == "__main__":
    main()
