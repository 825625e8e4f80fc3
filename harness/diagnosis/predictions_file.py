"""Reads predictions of any framework from a CSV file, a row for each path and time step.

Shape suffix: R rows, one for each time step t >= 1 of each path.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.backend.protocol import Array
from harness.errors import InvalidInput

COLUMNS = ("path", "t", "x", "prediction")
_WANTED = f"a row of names ({', '.join(COLUMNS)}) and a row for each path and time step"
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class Predictions:
    """The rows of a file with t >= 1: x_0 is an input, but is not scored."""

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

    def mse(self, weight: float, constant: float = 0.0) -> float:
        """Return the mean squared error against that target plus a constant."""
        return float(np.mean((self.prediction_R - self.target_R(weight) - constant) ** 2))


def read(file: Path) -> Predictions:
    """Read a CSV file with the columns `COLUMNS`; others are ignored.

    Raises `InvalidInput` with a sentence for everything that is wrong with the file.
    """
    table = _numbers(file, _columns(file, _parse(file)))
    table = table.sort_values(["path", "t"], kind="stable")
    _check_steps(file, table)
    before = table.groupby("path")["x"].shift(fill_value=0.0)
    numbers, _ = pd.factorize(table["path"])
    scored = table["t"] >= 1
    rows = table[scored]
    return Predictions(
        numbers[scored].astype(np.int64),
        rows["t"].to_numpy(dtype=np.int64),
        rows["x"].to_numpy(dtype=float),
        before[scored].to_numpy(dtype=float),
        rows["prediction"].to_numpy(dtype=float),
        bool((table.loc[table["t"] == 0, "x"] == 0).all()),
    )


def _parse(file: Path) -> pd.DataFrame:
    try:
        _check_fields(file)
        return pd.read_csv(
            file,
            dtype=str,
            encoding="utf-8-sig",
            skipinitialspace=True,
            keep_default_na=False,
            na_values=[""],
        )
    except OSError as error:
        raise InvalidInput(f"`{file}` cannot be read: {error.strerror or error}.") from error
    except (ValueError, csv.Error) as error:  # Whether it is empty, no text in UTF-8, or no CSV.
        why = " ".join(str(error).split()).rstrip(".")
        raise InvalidInput(
            f"`{file}` cannot be read as CSV in UTF-8: {why}; it needs {_WANTED}."
        ) from error


def _check_fields(file: Path) -> None:
    """Raise `InvalidInput` if commas do not separate the fields, or a row has too many."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, skipinitialspace=True)
        names = next(filter(None, rows), [])
        for separator, called in _OTHER_SEPARATORS.items():
            if len(names) < len(COLUMNS) <= len(",".join(names).split(separator)):
                raise InvalidInput(
                    f"`{file}`: the fields are separated by {called}; separate them by commas, and "
                    "write numbers with a decimal point."
                )
        for row in rows:
            if len(row) > len(names):
                raise InvalidInput(
                    f"`{file}`, line {rows.line_num}: there are {len(row)} fields, and the row of "
                    f"names has {len(names)}; it needs {_WANTED}."
                )


def _columns(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns `COLUMNS` as text; names may be in capitals."""
    table = table.rename(columns=lambda name: str(name).strip().lower())
    missing = [f"`{name}`" for name in COLUMNS if name not in table.columns]
    if missing:
        first = ", ".join(f"`{name}`" for name in table.columns[:8])
        raise InvalidInput(
            f"`{file}`: there is no column {' and no '.join(missing)}. It begins with {first}; it "
            f"needs {_WANTED}, separated by commas."
        )
    if table.empty:
        raise InvalidInput(f"`{file}` has no rows; it needs {_WANTED}.")
    return table.loc[:, ~table.columns.duplicated()][list(COLUMNS)]


def _numbers(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Turn all columns but `path` into numbers; at t = 0 no prediction is needed."""
    parsed = table.assign(
        **{name: pd.to_numeric(table[name], errors="coerce") for name in COLUMNS[1:]}
    )
    t, x, prediction = (parsed[name] for name in COLUMNS[1:])
    bad = {
        "path": table["path"].isna(),
        "t": ~np.isfinite(t) | (t % 1 != 0) | (t < 0),
        "x": ~np.isfinite(x),
        "prediction": ~np.isfinite(prediction) & ~((t == 0) & prediction.isna()),
    }
    problems = [_bad_values(table[name], rows) for name, rows in bad.items() if rows.any()]
    if problems:
        raise InvalidInput(*(f"`{file}`, {problem}" for problem in problems))
    return parsed.astype({"t": np.int64})


def _bad_values(column: pd.Series[str], bad: pd.Series[bool]) -> str:
    """Say what the first bad value of a column is, and what it must be."""
    row = int(np.flatnonzero(bad)[0])
    got = "nothing" if pd.isna(column.iloc[row]) else f"`{column.iloc[row]}`"
    wanted = "a whole number, 0 or more" if column.name == "t" else "a finite number"
    more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
    return f"line {row + 2}: `{column.name}` is {got}, and must be {wanted}{more}."


def _check_steps(file: Path, table: pd.DataFrame) -> None:
    """Raise `InvalidInput` unless each path has all t from 0 or 1 on, given rows in their order."""
    paths = table.groupby("path")["t"]
    expected = paths.cumcount() + paths.transform("min").clip(upper=1)
    wrong = table[table["t"] != expected]
    if len(wrong):
        path, t = wrong.iloc[0][["path", "t"]]
        raise InvalidInput(
            f"`{file}`: path {path} has t = {t} where t = {expected[wrong.index[0]]} should be: "
            "number the steps of each path from 0 or 1, each once and without gaps "
            f"({wrong['path'].nunique()} of {table['path'].nunique()} paths are not)."
        )
    if not (table["t"] >= 1).any():
        raise InvalidInput(
            f"`{file}`: there is nothing but t = 0; predictions are scored from t = 1 on."
        )
