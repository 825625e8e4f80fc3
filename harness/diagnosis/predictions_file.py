"""Reads predictions of any framework from a text file, a row for each path and time step.

Shape suffixes: P paths; R rows, one for each time step t >= 1 of each path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.backend.protocol import Array
from harness.diagnosis.separated import read_columns
from harness.diagnosis.types import Which
from harness.errors import InvalidInput

NUMBERS = ("t", "x", "prediction")
_OF_COLUMNS = {
    "path": "paths path_id id series sample sequence seq trajectory batch run sim simulation",
    "t": "time step steps time_step timestep time_index k",
    "x": "input inputs xs xi ξ x_t feature",
    "prediction": "pred preds predictions predicted y y_hat yhat ŷ y_pred ypred output outputs out"
    " h_nn forecast",
}
OTHER_NAMES = {other: name for name, others in _OF_COLUMNS.items() for other in others.split()}
"""What people call these columns elsewhere."""
WANTED = f"a row of names (path, {', '.join(NUMBERS)}) and a row for each path and time step"
_LARGEST_T = 2**53
_LARGEST = 1e30
"""The fourth powers of larger numbers, squared, are no floats any more."""
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_RUN, _OVERLAP, _RATHER = 3, 0.01, 10
"""Paths overlap if more runs of so many steps than this share are there twice, and so many times
more than by chance: inputs may be rounded, or few different numbers."""


@dataclass(frozen=True)
class Predictions:
    """The rows that are scored: x_0 is an input only."""

    path_R: npt.NDArray[np.int64]
    t_R: npt.NDArray[np.int64]
    """From 1 on in each path, without gaps; rows are in the order of paths, then of steps."""
    x_R: Array
    before_R: Array
    """x_{t-1}"""
    prediction_R: Array
    starts_at_zero: bool
    """Whether x_0 = 0 in all paths whose x_0 is known, as in the task."""
    assumed_R: Which | None = None
    """Which rows are at t = 1 of a path whose x_0 is unknown and taken as 0; None if none are."""
    notes: tuple[str, ...] = ()
    """What is taken for granted, in sentences."""
    begins: bool = True
    """Whether all paths begin with x_0; of windows, what was before that is not in the file."""
    lag: int = 1
    """L of the task that they are compared with."""
    further_HP: Array | None = None
    """x_{-1}, x_{-2}, ... of each path where paths are windows; None if they are 0."""

    @property
    def paths(self) -> int:
        """How many paths there are."""
        return int(self.path_R.max()) + 1

    @cached_property
    def step_R(self) -> npt.NDArray[np.int64]:
        """Numbers of the different steps: paths that overlap have steps in common."""
        length = min(_RUN, int(self.t_R.max()))
        last = len(self.x_R) - length + 1
        runs = np.flatnonzero(self.path_R[:last] == self.path_R[length - 1 :])
        values = (self.x_R[runs + step] for step in range(length))
        again = len(runs) - _numbers_of(self.before_R[runs], *values).max() - 1
        share_X = np.bincount(_numbers_of(self.x_R)) / len(self.x_R)  # Of each value of x.
        by_chance = len(runs) ** 2 * np.sum(share_X**2) ** (length + 1)
        if again <= max(_OVERLAP * len(runs), _RATHER * by_chance):
            return np.arange(len(self.x_R)).astype(np.int64)
        return _numbers_of(self.before_R, self.x_R)

    @property
    def steps(self) -> int:
        """How many different steps there are."""
        return int(self.step_R.max()) + 1

    def back_R(self, steps: int) -> Array:
        """Return x_{t-steps}; where paths begin, it is 0 before x_0."""
        if steps < 2:
            return self.before_R if steps else self.x_R
        back_R = np.zeros_like(self.x_R)
        on_path = np.flatnonzero(self.t_R >= steps)
        back_R[on_path] = self.before_R[on_path - steps + 1]
        if self.further_HP is not None:
            before = self.t_R - steps  # Of which time the value is.
            known = np.flatnonzero((before < 0) & (before >= -len(self.further_HP)))
            back_R[known] = self.further_HP[-before[known] - 1, self.path_R[known]]
        return back_R

    @property
    def further(self) -> int:
        """How many values before x_0 are known where paths are windows."""
        return 0 if self.further_HP is None else len(self.further_HP)

    @cached_property
    def lagged_R(self) -> Array:
        """x_{t-L}; 0 if paths begin later."""
        return self.back_R(self.lag)

    def target_R(self, weight: float) -> Array:
        """Return x_t^2 + weight * x_{t-L}^2."""
        target: Array = self.x_R**2 + weight * self.lagged_R**2
        return target

    def mse(self, weight: float, constant: float = 0.0) -> float:
        """Return the mean squared error against that target plus a constant."""
        return float(np.mean((self.prediction_R - self.target_R(weight) - constant) ** 2))


def _numbers_of(*columns: Array) -> npt.NDArray[np.int64]:
    """Return numbers of rows; rows with the same values have the same one."""
    order = np.lexsort(columns)
    changes = np.any([np.diff(column[order]) != 0 for column in columns], axis=0)
    numbers = np.zeros(len(order), np.int64)
    numbers[order[1:]] = np.cumsum(changes)
    return numbers


def read(file: Path) -> Predictions:
    """Read a file with the columns path, t, x and prediction; without `path` it is one path.

    Raises `InvalidInput` with a sentence for everything that is wrong with the file.
    """
    table = _numbers(file, read_columns(file, NUMBERS, "path", WANTED, OTHER_NAMES))
    if "path" in table:
        path_R, names = pd.factorize(table["path"].str.strip(), sort=True)
    else:
        path_R, names = np.zeros(len(table), np.int64), pd.Index(["0"])
    table = table.assign(path=path_R).rename_axis("line").reset_index()
    table = table.sort_values(["path", "t"], kind="stable", ignore_index=True)
    _check_steps(file, table, names)
    return _scored(file, table)


def _scored(file: Path, table: pd.DataFrame) -> Predictions:
    """Return the rows that are scored, given all of them in their order."""
    begins = ~table["path"].duplicated()
    t_P, x_P = (table.loc[begins, name].to_numpy() for name in ("t", "x"))
    notes = []
    if t_P.any() and not x_P[t_P > 0].any():
        notes.append("x is 0 in the first row of each path: that is taken as x_0.")
        unknown_P = np.zeros(len(t_P), bool)
    else:
        unknown_P = t_P == 1
        if later := np.unique(t_P[t_P > 1]).tolist():
            span = f"t = {later[0]}" + f" to {later[-1]}" * (len(later) > 1)
            notes.append(
                f"Paths begin at {span}, and the x before that is not in the file: so the first "
                "row of each is an input only, and counts as t = 0 here."
            )
    t = table["t"] - np.where(unknown_P, 0, t_P)[table["path"]]
    rows = table[t >= 1]
    if rows.empty:
        raise InvalidInput(
            f"`{file}`: there is nothing but t = {t_P[0]}; the first row of a path is an input "
            "only, and predictions are scored from the next one on."
        )
    before = table.groupby("path")["x"].shift(fill_value=0.0)
    return Predictions(
        pd.factorize(rows["path"])[0].astype(np.int64),
        t[rows.index].to_numpy(np.int64),
        rows["x"].to_numpy(float),
        before[rows.index].to_numpy(float),
        rows["prediction"].to_numpy(float),
        not x_P[t_P == 0].any(),
        begins=not x_P[~unknown_P].any(),
        assumed_R=begins[rows.index].to_numpy() if unknown_P.any() else None,
        notes=tuple(notes),
    )


def _numbers(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Turn all columns but `path` into numbers; at t = 0 no prediction is needed."""
    text = _with_points(file, table)
    numbers = {name: pd.to_numeric(text[name], errors="coerce") for name in NUMBERS}
    t, x, prediction = numbers.values()
    bad = {
        "t": ~t.between(0, _LARGEST_T) | (t % 1 != 0),
        "x": ~(x.abs() <= _LARGEST),
        "prediction": ~(prediction.abs() <= _LARGEST) & (t != 0),
    }
    if "path" in table:
        bad = {"path": table["path"].str.strip() == "", **bad}
    problems = [_bad_values(table[name], rows) for name, rows in bad.items() if rows.any()]
    if problems:
        raise InvalidInput(*(f"`{file}`, {problem}" for problem in problems))
    return table.assign(**numbers).astype({"t": np.int64})


def _with_points(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of numbers with a point in the place of a decimal comma.

    Raises `InvalidInput` if commas may as well separate thousands.
    """
    text = table[list(NUMBERS)]
    commas = text.apply(lambda column: column.str.contains(",", regex=False))
    if not commas.any(axis=None):
        return text
    points = text.apply(lambda column: column.str.contains(".", regex=False)).any(axis=None)
    thousands = text.apply(lambda column: column.str.strip().str.fullmatch(_THOUSANDS))
    if points or (thousands | ~commas).all(axis=None):
        row, column = np.argwhere(commas.to_numpy())[0]
        line, name = text.index[row], NUMBERS[column]
        raise InvalidInput(
            f"`{file}`, line {line}: `{name}` is `{text[name].loc[line]}`, where the comma may "
            "separate decimals or thousands; write numbers with a decimal point."
        )
    with_points: pd.DataFrame = text.apply(lambda c: c.str.replace(",", ".", regex=False))
    return with_points


def _bad_values(column: pd.Series[str], bad: pd.Series[bool]) -> str:
    """Say what the first bad value of a column is, and what it must be."""
    line = bad.index[bad][0]
    text = str(column[line]).strip()
    got = f"is `{text}`" if text else "is empty"
    wanted = {"t": "a whole number, 0 or more", "path": "a name"}.get(
        str(column.name), f"a finite number, up to {_LARGEST:g} in size"
    )
    if column.name == "prediction" and not text:
        wanted += ", at every step from t = 1 on"
    more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
    if re.search(r"\d", text) and pd.isna(pd.to_numeric(text, errors="coerce")):
        more += "; write plain numbers, as 0.0075"
    return f"line {line}: `{column.name}` {got}, and must be {wanted}{more}."


def _check_steps(file: Path, table: pd.DataFrame, names: pd.Index) -> None:
    """Raise `InvalidInput` unless t rises by 1 in each path, given rows in their order."""
    rise = table.groupby("path")["t"].diff().fillna(1)
    wrong = table[rise != 1]
    if wrong.empty:
        return
    row, before = wrong.iloc[0], table.loc[wrong.index[0] - 1]
    line, t, t_before = (int(each) for each in (row["line"], row["t"], before["t"]))
    path = f"path `{names[int(row['path'])]}`"
    what = f"{path} has t = {t} where t = {t_before + 1} should be, in line {line}"
    if t == t_before:
        what = f"{path} has t = {t} twice, in lines {int(before['line'])} and {line}"
    bad, paths = wrong["path"].nunique(), len(names)
    raise InvalidInput(
        f"`{file}`: {what}; number the steps of each path one by one, each once "
        f"({bad} of {paths} path{'s' * (paths > 1)} {'is' if bad == 1 else 'are'} not)."
        + " If there are several paths, name them in a column `path`."
        * (paths == 1)
    )
