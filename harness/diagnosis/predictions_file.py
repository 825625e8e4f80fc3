"""Reads predictions of any framework from a CSV file, a row for each path and time step.

Shape suffix: R rows, one for each time step t >= 1 of each path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.backend.protocol import Array
from harness.errors import InvalidInput

COLUMNS = ("path", "t", "x", "prediction")
_WANTED = f"a row of names ({', '.join(COLUMNS)}) and a row for each path and time step"


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

    def mse(self, weight: float) -> float:
        """Return the mean squared error against that target."""
        return float(np.mean((self.prediction_R - self.target_R(weight)) ** 2))


def read(file: Path) -> Predictions:
    """Read a CSV file with the columns `COLUMNS`; others are ignored.

    Raises `InvalidInput` with a sentence for everything that is wrong with the file.
    """
    table = _numbers(file, _columns(file, _parse(file)))
    if problems := list(_misnumbered(table)):
        raise InvalidInput(*(f"`{file}`: {problem}" for problem in problems))
    table = table.sort_values(["path", "t"], kind="stable")
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


def _columns(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns `COLUMNS` as text; names may be in capitals."""
    table = table.rename(columns=lambda name: str(name).strip().lower())
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        first = ", ".join(f"`{name}`" for name in table.columns[:8])
        why = f"there is no column {' and no '.join(f'`{name}`' for name in missing)}"
        if any(";" in name or "\t" in name for name in table.columns):
            why = "columns are to be separated by commas"
        elif pd.to_numeric(pd.Series(table.columns), errors="coerce").notna().all():
            why = "there is no row of names"
        raise InvalidInput(f"`{file}`: {why}. It begins with {first}; it needs {_WANTED}.")
    if table.columns.duplicated().any():
        twice = table.columns[table.columns.duplicated()][0]
        raise InvalidInput(f"`{file}`: there are two columns `{twice}`.")
    if table.empty:
        raise InvalidInput(f"`{file}` has no rows; it needs {_WANTED}.")
    return table[list(COLUMNS)]


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
        "prediction": ~np.isfinite(prediction) & ~((t == 0) & table["prediction"].isna()),
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
