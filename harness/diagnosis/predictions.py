"""Somebody's own predictions, from whatever framework, held against the task.

The inputs are known here, so more can be said than by the yardsticks: what multiple of each term
the predictions contain, and which target they are nearest to. Shape suffix: R rows, one for each
time step t >= 1 of each path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from harness.backend.protocol import Array
from harness.diagnosis.findings import Finding
from harness.diagnosis.rules import signed
from harness.errors import InvalidInput
from harness.task.task import Task
from harness.task.yardsticks import yardsticks

COLUMNS = ("path", "t", "x", "prediction")
_CLUSTERS = 20
"""From so many paths on, each counts as one independent value; of fewer, each row does."""
_NEAR = 0.25
"""A coefficient is called the same as another if they differ by less than this share of w."""
_SURE = 4.0
_FEW_ROWS = 20
_PRESENT = 0.1
_WORSE = 1.1
"""A constant other than the mean is not worth a word until it costs so much."""
_SUBJECTS = ("your predictions",)


@dataclass(frozen=True)
class Predictions:
    """What a file holds, less x_0: it is known to be fed, and not scored."""

    path_R: npt.NDArray[np.int64]
    t_R: npt.NDArray[np.int64]
    x_R: Array
    before_R: Array
    """x_{t-1}"""
    prediction_R: Array
    starts_at_zero: bool
    """Whether x_0 = 0 in all paths, as in the task."""

    @property
    def paths(self) -> int:
        """How many paths there are."""
        return int(self.path_R.max()) + 1

    def target_R(self, weight: float) -> Array:
        """Return x_t^2 + weight * x_{t-1}^2."""
        target: Array = self.x_R**2 + weight * self.before_R**2
        return target

    def mse(self, weight: float) -> float:
        """Return the mean squared error against that target."""
        return float(np.mean((self.prediction_R - self.target_R(weight)) ** 2))


@dataclass(frozen=True)
class Coefficient:
    """A coefficient and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def near(self, value: float, within: float) -> bool:
        """Whether it is near a value, for all that is known."""
        return abs(self.value - value) < within


def read(file: Path) -> Predictions:
    """Read a CSV file with the columns `COLUMNS`; others are ignored.

    Raises `InvalidInput` if it is no such file, with a sentence for all that is wrong with it.
    """
    table = _numbers(file, _columns(file, _parse(file)))
    problems = list(_misnumbered(table))
    if problems:
        raise InvalidInput(*(f"`{file}`: {problem}" for problem in problems))
    table = table.sort_values(["path", "t"], kind="stable")
    before = table.groupby("path")["x"].shift(fill_value=0.0)
    starts = table.loc[table["t"] == 0, "x"]
    scored = table["t"] >= 1
    numbers, _ = pd.factorize(table["path"])
    return Predictions(
        numbers[scored].astype(np.int64),
        table.loc[scored, "t"].to_numpy(dtype=np.int64),
        table.loc[scored, "x"].to_numpy(dtype=float),
        before[scored].to_numpy(dtype=float),
        table.loc[scored, "prediction"].to_numpy(dtype=float),
        bool((starts == 0).all()),
    )


def _parse(file: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(file, dtype=str, encoding="utf-8-sig", skipinitialspace=True)
    except OSError as error:
        raise InvalidInput(f"`{file}` cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"`{file}` is no text in UTF-8; save it as CSV in UTF-8.") from error
    except pd.errors.EmptyDataError as error:
        raise InvalidInput(f"`{file}` is empty; it needs {_WANTED}.") from error
    except (pd.errors.ParserError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InvalidInput(f"`{file}` cannot be read as CSV: {why}.") from error


_WANTED = f"a row of names ({', '.join(COLUMNS)}) and a row for each path and time step"


def _columns(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    # Names in capitals are as good.
    table = table.rename(columns=lambda name: str(name).strip().lower())
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        there = ", ".join(f"`{name}`" for name in table.columns[:8])
        why = f"there is no column {' and no '.join(f'`{name}`' for name in missing)}"
        if any(";" in name or "\t" in name for name in table.columns):
            why = "columns are to be separated by commas"
        elif all(_is_number(name) for name in table.columns):
            why = "there is no row of names"
        raise InvalidInput(f"`{file}`: {why}. It begins with {there}; it needs {_WANTED}.")
    if table.columns.duplicated().any():
        twice = table.columns[table.columns.duplicated()][0]
        raise InvalidInput(f"`{file}`: there are two columns `{twice}`.")
    if table.empty:
        raise InvalidInput(f"`{file}` has no rows; it needs {_WANTED}.")
    return table[list(COLUMNS)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Turn all columns but `path` into numbers; at t = 0 no prediction is needed."""
    parsed = table.assign(
        **{name: pd.to_numeric(table[name], errors="coerce") for name in COLUMNS[1:]}
    )
    problems = []
    for name in COLUMNS:
        column = parsed[name]
        bad = column.isna() if name == "path" else ~np.isfinite(column)
        if name == "t":
            bad |= (column % 1 != 0) | (column < 0)
        if name == "prediction":
            bad &= ~((parsed["t"] == 0) & table[name].isna())
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            got = table[name].iloc[row]
            value = "nothing" if pd.isna(got) else f"`{got}`"
            what = "a whole number, 0 or more" if name == "t" else "a finite number"
            more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
            problems.append(
                f"`{file}`, line {row + 2}: `{name}` is {value}, and must be {what}{more}."
            )
    if problems:
        raise InvalidInput(*problems)
    return parsed.astype({"t": np.int64})


def _misnumbered(table: pd.DataFrame) -> Iterator[str]:
    """Yield what is wrong with the time steps of the paths."""
    twice = table.duplicated(["path", "t"], keep="first")
    if twice.any():
        row = table[twice].iloc[0]
        yield f"path {row['path']} has t = {row['t']} twice ({int(twice.sum())} rows too many)."
        return
    steps = table.groupby("path")["t"].agg(["min", "max", "count"])
    late = steps[steps["min"] > 1]
    if len(late):
        yield (
            f"path {late.index[0]} begins at t = {late['min'].iloc[0]} ({len(late)} of "
            f"{len(steps)} paths begin later than t = 1): number the steps from t = 0 or 1, as "
            "x_(t-1) is needed for each."
        )
    gaps = steps[(steps["max"] - steps["min"] + 1 != steps["count"]) & (steps["min"] <= 1)]
    if len(gaps):
        yield f"path {gaps.index[0]} lacks some t between its first and its last ({len(gaps)} do)."
    if not (steps["max"] >= 1).any():
        yield "there is nothing but t = 0; predictions are scored from t = 1 on."


def coefficients(predictions: Predictions) -> dict[str, Coefficient]:
    """Return what multiple of 1, x_t^2 and x_{t-1}^2 the predictions contain, by least squares.

    The intervals take the residuals for what they are: those of one path may go together, and
    their size may depend on x (Liang and Zeger 1986, with Student's t). From few paths, each row
    counts as independent (White 1980). Empty if the rows cannot tell the three apart.
    """
    x_R, before_R = predictions.x_R, predictions.before_R
    design = np.stack([np.ones_like(x_R), x_R**2, before_R**2], axis=1)
    rows, terms = design.shape
    if rows <= 2 * terms or np.linalg.matrix_rank(design) < terms:
        return {}
    inverse = np.linalg.inv(design.T @ design)
    values = inverse @ (design.T @ predictions.prediction_R)
    scores = design * (predictions.prediction_R - design @ values)[:, None]
    n = rows
    if predictions.paths >= _CLUSTERS:
        n = predictions.paths
        scores = np.stack([np.bincount(predictions.path_R, column) for column in scores.T], axis=1)
    variance = inverse @ (scores.T @ scores) @ inverse * n / (n - 1)
    half = float(stdtrit(n - 1, 0.975)) * np.sqrt(np.diag(variance))
    return {
        name: Coefficient(float(v), float(v - h), float(v + h))
        for name, v, h in zip(("1", "now", "before"), values, half, strict=True)
    }


def explain(predictions: Predictions, task: Task) -> list[Finding]:
    """Return what the predictions show, worst first; of the task, rho and lag_weight count."""
    view = _View(predictions, task)
    found = [*_inputs(view), *_lag(view), *_present(view), *_constant(view)]
    order = ("fault", "warning", "good")
    return sorted(found, key=lambda finding: order.index(finding.severity))


class _Process(NamedTuple):
    rho: float
    error: float
    """Standard error of rho."""
    variance: float
    """Of the noise."""


@dataclass(frozen=True)
class _View:
    predictions: Predictions
    task: Task

    @cached_property
    def terms(self) -> dict[str, Coefficient]:
        return coefficients(self.predictions)

    @property
    def w(self) -> float:
        return self.task.lag_weight

    @cached_property
    def process(self) -> _Process:
        """What the inputs look like: an AR(1) process, by least squares."""
        one = self.predictions
        weight = float(np.sum(one.before_R**2))
        if not weight or len(one.x_R) < _FEW_ROWS:
            return _Process(self.task.rho, np.inf, 1.0)
        rho = float(np.sum(one.x_R * one.before_R)) / weight
        variance = float(np.mean((one.x_R - rho * one.before_R) ** 2))
        return _Process(rho, float(np.sqrt(variance / weight)), variance)

    @property
    def other_rho(self) -> bool:
        """Whether the inputs cannot have the coefficient of the task."""
        return abs(self.process.rho - self.task.rho) > _SURE * self.process.error

    @property
    def other_noise(self) -> bool:
        """Whether the noise of the inputs cannot have the variance 1."""
        off = abs(self.process.variance - 1)
        return bool(off > max(0.05, _SURE * np.sqrt(2 / len(self.predictions.x_R))))

    @cached_property
    def yardstick(self) -> dict[str, float]:
        """The yardsticks averaged as the errors are: over the rows there are.

        They are those of the inputs as they are; all of them go with the square of a variance.
        """
        t_R = self.predictions.t_R
        rho = float(np.clip(self.process.rho, -0.999, 0.999)) if self.other_rho else self.task.rho
        scale = self.process.variance**2 if self.other_noise else 1.0
        exact = yardsticks(self.task.changed(n_steps=int(t_R.max()), rho=rho))
        return {name: scale * float(value[t_R - 1].mean()) for name, value in vars(exact).items()}

    @property
    def follows_present(self) -> bool:
        """Whether x_t^2 is in the predictions about once, for all that is known."""
        now = self.terms.get("now")
        return now is None or abs(now.value - 1) < _PRESENT or now.low <= 1 <= now.high

    @property
    def wrong_sign(self) -> bool:
        """Whether the lag term is there, with the other sign."""
        c = self.terms.get("before")
        return bool(self.w) and c is not None and c.near(-self.w, _NEAR * abs(self.w))

    @property
    def errors(self) -> str:
        """The errors against each target, in words."""
        one = self.predictions
        if not self.w:
            return f"The error against x_t^2 is {one.mse(0):.3g}"
        return (
            f"The error is {one.mse(self.w):.3g} against x_t^2 {signed(self.w)}*x_(t-1)^2, "
            f"{one.mse(-self.w):.3g} against x_t^2 {signed(-self.w)}*x_(t-1)^2 and "
            f"{one.mse(0):.3g} against x_t^2"
        )

    @property
    def size(self) -> str:
        steps = f"{len(self.predictions.t_R):,} steps"
        return f"{self.predictions.paths} path{'s' * (self.predictions.paths > 1)}, {steps}"


def _finding(rule: str, severity: str, headline: str, evidence: str, remedy: str = "") -> Finding:
    assert severity in {"fault", "warning", "good"}
    return Finding(rule, severity, headline, evidence, remedy, _SUBJECTS, "")  # type: ignore[arg-type]


def _inputs(view: _View) -> Iterator[Finding]:
    """Say if the inputs are not those of the task."""
    made, rho = view.process, view.task.rho
    told = []
    if view.other_rho:
        told.append(
            f"x_t depends on x_(t-1) with a coefficient of {made.rho:.3f} ± {2 * made.error:.3f}, "
            f"the task has rho = {rho:g}"
        )
    if view.other_noise:
        told.append(f"their noise has the variance {made.variance:.3g}, that of the task 1")
    if not view.predictions.starts_at_zero:
        told.append("x_0 is not 0 in all paths")
    if not told:
        return
    fits = view.other_rho and not told[1:] and abs(made.rho) < 0.995
    yield _finding(
        "other-inputs",
        "warning",
        "The inputs are not those of the task.",
        f"Of x, {'; '.join(told)} ({view.size}). What is said here is computed for the inputs as "
        "they are, but predictions of a network that was trained on others may be poor for it.",
        f"If these inputs are meant, name their coefficient: --set rho={made.rho:.2f}"
        if fits
        else "Make the inputs as x_0 = 0, x_t = rho*x_(t-1) + N(0, 1).",
    )


def _lag(view: _View) -> Iterator[Finding]:
    """Say what became of the lag term."""
    one, w = view.predictions, view.w
    if "before" not in view.terms:
        yield _finding(
            "unsure",
            "warning",
            "There is too little in the file to tell what the predictions are made of.",
            f"It holds {view.size}, which do not tell x_t^2, x_(t-1)^2 and a constant apart.",
            "Give more paths: 100 will do.",
        )
        return
    if not view.follows_present:
        return
    c = view.terms["before"]
    has = f"Your predictions contain {c} times x_(t-1)^2 (95 % interval, {view.size}); the target"
    has += f" has {w:+g}. {view.errors}"
    if (c.high - c.low) / 2 > (abs(w) / 2 or 0.02):
        yield _finding(
            "unsure",
            "warning",
            "There are too few paths to tell whether the predictions use the previous value.",
            f"{has}.",
            "Give more paths: the interval shrinks with the square root of their number.",
        )
    elif not w:
        if c.near(0, 0.02):
            return
        yield _finding(
            "other-lag",
            "fault",
            "The predictions contain a lag term, and the target has none.",
            f"{has}.",
            f"If the target is meant to have one, say so: --set lag_weight={c.value:.2g}",
        )
    elif view.wrong_sign:
        yield _finding(
            "wrong-sign",
            "fault",
            "The lag term of the predictions has the wrong sign.",
            f"{has}: what is learned perfectly with the wrong sign has an error of "
            f"{view.yardstick['wrong_sign']:.3g}.",
            f"Compute the target of the loss with {signed(w)}*x_(t-1)^2, as the evaluation does; "
            "if the other sign is meant, fix the evaluation.",
        )
    elif c.near(0, _NEAR * abs(w)) and (c.low <= 0 <= c.high or abs(c.value) < abs(w) / 20):
        yield _finding(
            "memoryless",
            "fault",
            "The predictions use only the present value and not the one before.",
            f"{has}: the least error of anything that sees the present only is "
            f"{view.yardstick['memoryless']:.3g}.",
            "Train longer; if that does not help, check that the hidden state is carried from each "
            "step to the next (in Flux, Flux.reset! comes between sequences, not between steps).",
        )
    elif not c.near(w, _NEAR * abs(w)):
        yield _finding(
            "other-lag",
            "warning",
            "The predictions contain the lag term, but with another weight than the target.",
            f"{has}.",
            "Train longer if its weight is between 0 and that of the target; otherwise check the "
            "target of the loss, and name the weight that is meant: --set lag_weight=...",
        )
    elif one.mse(w) < view.yardstick["memoryless"]:
        yield _finding(
            "learned",
            "good",
            "The predictions use the previous value as they should.",
            f"{has}, below {view.yardstick['memoryless']:.3g}, the least error of anything that "
            "sees the present only.",
        )
    else:
        yield _finding(
            "imprecise",
            "warning",
            "The predictions contain the lag term, but other errors are larger than it.",
            f"{has}; the least error of anything that sees the present only is "
            f"{view.yardstick['memoryless']:.3g}.",
            "Train longer, or with a wider network.",
        )


def _present(view: _View) -> Iterator[Finding]:
    """Say if what the predictions have of x_t^2 is not once that."""
    now = view.terms.get("now")
    if now is not None and not view.follows_present:
        yield _finding(
            "other-present",
            "fault" if abs(now.value - 1) > 0.5 else "warning",
            "The predictions do not follow the square of the present value.",
            f"They contain {now} times x_t^2; the target has it once. {view.errors}.",
            "Check that prediction and x of a row belong to the same time step and path, and that "
            "nothing is scaled; then train longer.",
        )


def _constant(view: _View) -> Iterator[Finding]:
    """Say if a constant would do better; without a lag term, also if all is well."""
    one, w = view.predictions, view.w
    if len(one.x_R) < _FEW_ROWS:
        return
    mse, variance = one.mse(w), float(np.var(one.target_R(w)))
    if mse > _WORSE * variance and not view.wrong_sign:
        yield _finding(
            "worse-than-constant",
            "fault",
            "The predictions are worse than a constant would be.",
            f"The error is {mse:.3g}; the mean of the target alone has {variance:.3g}.",
            "Check that prediction and x of a row belong to the same time step and path.",
        )
    elif not w and variance and mse < 0.01 * variance:
        yield _finding(
            "learned",
            "good",
            "The predictions follow the function.",
            f"The error is {mse:.3g}, {mse / variance:.2%} of the variance of the target.",
        )
