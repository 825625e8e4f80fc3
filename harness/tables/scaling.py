"""How times grow with the size of a task, and where one backend overtakes another.

Of a sweep: its trials table has a column for each swept field of the task. Only times of trials
that ended ok, with nothing beside them, count; on the logarithm, per epoch. The formulas, and what
they assume, are in `docs/scaling.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import fdtrc

from harness.backend.protocol import Array
from harness.stats import estimates
from harness.stats.estimates import Estimate
from harness.tables.metrics import METRICS
from harness.tables.pairs import ARM, KIND, SIGNIFICANT, pair
from harness.tables.points import points

TIME = METRICS["train_s"]
GROWTH = {
    "backend": "string",
    "device": "string",
    "node_kind": "string",
    "field": "string",
    "exponent": "float64",
    "low": "float64",
    "high": "float64",
    "trials": "int64",
    "sizes": "int64",
    "local": "string",
    "p_bent": "float64",
    "p_bent_holm": "float64",
    "words": "string",
}
CROSSOVERS = {
    "device": "string",
    "node_kind": "string",
    "field": "string",
    "faster_below": "string",
    "faster_above": "string",
    "at": "float64",
    "surely_below": "float64",
    "surely_above": "float64",
    "p_holm": "float64",
    "words": "string",
}
_NEEDED = (*ARM, KIND, "node", "block", "seed", "status", "contended", "train_s", "epochs_per_s")
# Exponents nearer than this are called one: with little noise, no law is ever quite a power law.
# Where it is exceeded, a size ten times as large takes a factor of 1.6 that the law does not say.
_BENT = 0.2
# A sum of squares below this (for each trial) is rounding: no clock knows a time to ten digits.
_ROUNDING = 1e-20


def growth(trials: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Return a row for each backend, device and kind of node, and each field with two sizes.

    The time of an epoch is taken to grow as size^`exponent`, whatever the other swept fields, the
    seed and the node are: each of their values has a factor of its own. `low` to `high` is the 95 %
    interval, missing where there are no more trials than unknowns; the exponent is missing too if
    its sizes cannot be told from what was varied with them. `trials` and `sizes` say how many it
    rests on. With three sizes or more, `local` has the exponents between neighbours, and `p_bent`
    is the p-value of the claim that they are not all one, `p_bent_holm` that corrected for the
    rows. `words` says so if that is below 0.05 and they are at least 0.2 apart.
    """
    timed = _timed(trials)
    fits = []
    for (*arm, kind), mine in timed.groupby([*ARM, KIND], sort=False):
        for field in _numeric(trials, swept):
            sized = mine[mine[field] > 0]
            if sized[field].nunique() > 1:
                fits.append(_Fit.of(sized, field, swept, [*map(str, arm), str(kind)]))
    corrected = estimates.holm([fit.p_bent for fit in fits])
    rows = [
        fit.row(p_holm, _place(timed, *fit.arm[1:]))
        for fit, p_holm in zip(fits, corrected, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(GROWTH)).astype(GROWTH)


def crossovers(trials: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Return a row for each size of the task at which one backend overtakes another.

    Looked at are all pairs of backends on the same device and kind of node, along each field that
    is a number, at each combination of the others, whose values the columns of the `swept` fields
    have. One is `faster_below` and the other `faster_above`, and both are shown to be: at
    `surely_below` and `surely_above`, the nearest sizes on either side at which the ratio of their
    times, paired in blocks, differs from 1 (p-value below 0.05, corrected by Holm for all pairs
    and points; `p_holm` is the larger of the two). `at` is interpolated on logarithms between the
    sizes at which the mean ratio passes 1. There is no row for what is shown on one side only.
    """
    compared = _compared(trials, swept)
    found: list[tuple[_Line, _Crossover]] = [
        (line, crossover)
        for field in _numeric(trials, swept)
        for line in _lines(compared, field)
        for crossover in _along(line)
    ]
    rows = [
        crossover.row(line, _place(trials, line.device, line.kind)) for line, crossover in found
    ]
    table = pd.DataFrame(rows, columns=list(CROSSOVERS)).astype(CROSSOVERS)
    for position, name in enumerate(swept):
        values = pd.Series([line.others.get(name) for line, _ in found], dtype=object)
        table.insert(position, name, values)
    return table


def _numeric(trials: pd.DataFrame, swept: Sequence[str]) -> list[str]:
    return [name for name in swept if pd.api.types.is_numeric_dtype(trials[name])]


def _timed(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row per trial of which a time is known; seeds trained at once are one."""
    usable = trials[(trials["status"] == "ok") & ~trials["contended"]]
    usable = usable.assign(value=TIME.values(usable)).dropna(subset="value")
    return usable.drop_duplicates("trial")


def _place(trials: pd.DataFrame, device: str, kind: str) -> str:
    """Say where a time was measured, as far as there are several such places."""
    several = [name for name in ("device", KIND) if trials[name].nunique() > 1]
    told = {"device": device, KIND: kind}
    return "".join(f" on {told[name]}" for name in several)


class _Fit(NamedTuple):
    """The times of one backend as a law of one field."""

    arm: list[str]
    """Backend, device and kind of node."""
    field: str
    sizes: Array
    exponent: Estimate
    local: Array
    """The exponents between neighbouring sizes; empty if there are not three."""
    p_bent: float

    @classmethod
    def of(cls, timed: pd.DataFrame, field: str, swept: Sequence[str], arm: list[str]) -> _Fit:
        size, y = (timed[name].to_numpy(dtype=float) for name in (field, "value"))
        sizes, level = np.unique(size, return_inverse=True)
        others = [name for name in swept if name != field]
        fixed = _effects(timed, [*others, "seed", "node"])
        spent = int(np.linalg.matrix_rank(fixed))
        # Freed of all other effects, the rest is a regression on the sizes alone (Frisch, Waugh).
        y, x = _free(y, fixed), _free(np.log(size), fixed)
        levels = _free(np.eye(len(sizes))[level], fixed)
        exponent, misfit = _slope(x, y, spent)
        if len(sizes) < 3 or np.linalg.matrix_rank(levels, tol=1e-9) < len(sizes) - 1:
            return cls(arm, field, sizes, exponent, np.empty(0), float("nan"))
        means = np.linalg.lstsq(levels, y, rcond=1e-9)[0]
        scatter = _squares(y - levels @ means)
        df = len(y) - spent - len(sizes) + 1
        p_bent = _lack_of_fit(misfit, scatter, len(sizes) - 2, df)
        local: Array = np.diff(means) / np.diff(np.log(sizes))
        return cls(arm, field, sizes, exponent, local, p_bent)

    def row(self, p_holm: float, place: str) -> dict[str, Any]:
        low, high = self.exponent.interval()
        return {
            **dict(zip([*ARM, KIND], self.arm, strict=True)),
            "field": self.field,
            "exponent": self.exponent.value,
            "low": low,
            "high": high,
            "trials": self.exponent.n,
            "sizes": len(self.sizes),
            "local": self._neighbours(),
            "p_bent": self.p_bent,
            "p_bent_holm": p_holm,
            "words": self._words(p_holm, place),
        }

    def _words(self, p_holm: float, place: str) -> str:
        time, (low, high) = f"the time of {self.arm[0]}{place}", self.exponent.interval()
        if np.isnan(self.exponent.value):
            return f"how {time} grows with {self.field} cannot be told from what else was varied"
        if p_holm < SIGNIFICANT and np.ptp(self.local) >= _BENT:
            return f"{time} is not a power law of {self.field}: {self._neighbours()}"
        law = f"{self.field}^{_two(self.exponent.value)}"
        if np.isnan(low):
            return f"{time} goes as {law}, without an interval"
        interval = f"[{_two(low)}, {_two(high)}]"
        if low <= 0 <= high:
            return f"no change of {time} with {self.field} shown ({law} {interval})"
        return f"{time} goes as {law} {interval}"

    def _neighbours(self) -> str:
        return ", ".join(
            f"{_two(exponent)} from {small:g} to {large:g}"
            for exponent, (small, large) in zip(self.local, pairwise(self.sizes), strict=False)
        )


def _effects(timed: pd.DataFrame, names: Sequence[str]) -> Array:
    """Return a column of ones, and one for each value of each of the named columns."""
    parts = [np.ones((len(timed), 1))]
    parts += [pd.get_dummies(timed[name].astype(str)).to_numpy(dtype=float) for name in names]
    return np.hstack(parts)


def _free(values: Array, effects: Array) -> Array:
    """Return what the effects leave of the values, by least squares."""
    left: Array = values - effects @ np.linalg.lstsq(effects, values, rcond=None)[0]
    return left


def _squares(residuals: Array) -> float:
    squares = float((residuals**2).sum())
    return squares if squares > len(residuals) * _ROUNDING else 0.0


def _slope(x: Array, y: Array, spent: int) -> tuple[Estimate, float]:
    """Return the slope of y over x, and the sum of squares that it leaves.

    Both are free of effects that took `spent` degrees of freedom.
    """
    spread, n = float(x @ x), len(x)
    if spread < 1e-9 * n:
        return Estimate(float("nan"), float("nan"), 0, n), float("nan")
    slope, df = float(x @ y) / spread, n - spent - 1
    misfit = _squares(y - slope * x)
    error = float(np.sqrt(misfit / df / spread)) if df else float("nan")
    return Estimate(slope, error, df, n), misfit


def _lack_of_fit(misfit: float, scatter: float, df_between: int, df_within: int) -> float:
    """Return the p-value of the claim that a law leaves more than the scatter does (F test)."""
    if not df_within:
        return float("nan")
    if not scatter:
        return 0.0 if misfit else 1.0
    f = max(0.0, misfit - scatter) / df_between / (scatter / df_within)
    return float(fdtrc(df_between, df_within, f))


def _two(value: float) -> str:
    """Return a number to two decimals, a zero without a sign."""
    return f"{round(value, 2) + 0:.2f}"


class _Ratio(NamedTuple):
    """The time of a backend over that of another at one point of a sweep, on the logarithm."""

    backend: str
    against: str
    device: str
    kind: str
    point: dict[str, Any]
    estimate: Estimate
    p_holm: float = float("nan")

    @property
    def shown(self) -> bool:
        return self.p_holm < SIGNIFICANT


class _Line(NamedTuple):
    """The ratios of two backends from size to size, the smallest first."""

    field: str
    device: str
    kind: str
    others: dict[str, Any]
    """The values of the other swept fields."""
    ratios: list[_Ratio]

    def size(self, n: int) -> float:
        return float(self.ratios[n].point[self.field])


class _Crossover(NamedTuple):
    """From `below` to `above`, ratios of a line, one backend overtakes the other at size `at`."""

    below: int
    above: int
    at: float

    def row(self, line: _Line, place: str) -> dict[str, Any]:
        below, above = line.ratios[self.below], line.ratios[self.above]
        names = (below.backend, below.against)
        first, then = names if below.estimate.value < 0 else names[::-1]
        sizes = line.size(self.below), line.size(self.above)
        others = ", ".join(f"{name} = {value}" for name, value in line.others.items())
        return {
            "device": line.device,
            "node_kind": line.kind,
            "field": line.field,
            "faster_below": first,
            "faster_above": then,
            "at": self.at,
            "surely_below": sizes[0],
            "surely_above": sizes[1],
            "p_holm": max(below.p_holm, above.p_holm),
            "words": f"{then} overtakes {first}{place} between {line.field} = {sizes[0]:g} and "
            f"{sizes[1]:g} (at about {float(f'{self.at:.2g}'):g})" + f", {others}" * bool(others),
        }


def _compared(trials: pd.DataFrame, swept: Sequence[str]) -> list[_Ratio]:
    """Compare all pairs of backends, on like devices and kinds of node, at each point."""
    trials = trials[[*swept, *_NEEDED]]  # Fewer columns are copied faster.
    backends = [str(name) for name in dict.fromkeys(trials["backend"])]
    ratios = []
    for point, there in points(trials, swept):
        for place, here in there.groupby(["device", KIND], sort=False):
            device, kind = map(str, place)
            present = [name for name in backends if (here["backend"] == name).any()]
            for one, other in combinations(present, 2):
                estimate = pair(here, (one, device), (other, device), TIME).estimate(0)
                if estimate.n:
                    ratios.append(_Ratio(one, other, device, kind, point, estimate))
    corrected = estimates.holm([ratio.estimate.p_different() for ratio in ratios])
    return [ratio._replace(p_holm=p) for ratio, p in zip(ratios, corrected, strict=True)]


def _lines(ratios: Sequence[_Ratio], field: str) -> Iterator[_Line]:
    """Yield the ratios that differ in nothing but a field, in its order."""
    lines: dict[tuple[Any, ...], list[_Ratio]] = {}
    for ratio in ratios:
        if ratio.point[field] > 0:
            others = {name: value for name, value in ratio.point.items() if name != field}
            lines.setdefault((*ratio[:4], *others.values()), []).append(ratio)
    for (_, _, device, kind, *values), line in lines.items():
        names = [name for name in line[0].point if name != field]
        in_order = sorted(line, key=lambda ratio: float(ratio.point[field]))
        yield _Line(field, device, kind, dict(zip(names, values, strict=True)), in_order)


def _along(line: _Line) -> Iterator[_Crossover]:
    """Yield the crossovers of a line: from a difference shown to the next, of the other sign."""
    shown = [n for n, ratio in enumerate(line.ratios) if ratio.shown]
    for below, above in pairwise(shown):
        values = np.array([r.estimate.value for r in line.ratios[below : above + 1]])
        if (values[0] < 0) != (values[-1] < 0):
            sizes = [line.size(n) for n in range(below, above + 1)]
            yield _Crossover(below, above, _passes_zero(np.log(sizes), values))


def _passes_zero(log_sizes: Array, values: Array) -> float:
    """Return the size at which the values pass zero; of several such, the middle one."""
    # Noise may turn the sign between the ends more than once, but an odd number of times.
    turns = [n for n, (a, b) in enumerate(pairwise(values < 0)) if a != b]
    n = turns[len(turns) // 2]
    share = values[n] / (values[n] - values[n + 1])
    return float(np.exp(log_sizes[n] + share * (log_sizes[n + 1] - log_sizes[n])))
