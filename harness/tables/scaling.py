"""How times grow with the size of a task in a sweep, and where one backend overtakes another.

Only trials that ended ok with no other trials beside them count. Their times are per epoch, on a
logarithmic scale. The formulas and their assumptions are in `docs/scaling.md`.
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
from harness.tables.columns import columns
from harness.tables.metrics import METRICS
from harness.tables.pairs import ARM, KIND, SIGNIFICANT, pair
from harness.tables.points import points

TIME = METRICS["train_s"]
GROWTH = columns(
    "backend device node_kind field exponent low high trials sizes local p_bent p_bent_holm words"
)
CROSSOVERS = columns(
    "device node_kind field faster_below faster_above at surely_below surely_above p_holm words"
)
_NEEDED = (
    *ARM,
    KIND,
    "node",
    "block",
    "seed",
    "contended",
    "train_s",
    "epochs_per_s",
    "correction_error",
)
# Exponents nearer than this count as one: with little noise, nothing is quite a power law. An
# exponent that is 0.2 larger means 1.6 times as much at ten times the size.
_BENT = 0.2
# A sum of squares below this, for each trial, is rounding: no clock is exact to ten digits.
_ROUNDING = 1e-20


def growth(trials: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Return a row for each backend, device and kind of node, and each field with two sizes.

    The model: the time of an epoch grows as size^`exponent`, and each value of another swept field,
    of the seed and of the node has a factor of its own. `low` to `high` is the 95 % interval,
    missing without more trials than unknowns; the exponent is missing, too, if the sizes were
    varied together with something else. `trials` and `sizes` count what it rests on.

    With three sizes or more, `local` holds the exponents between neighbouring sizes, and `p_bent`
    is the p-value of the claim that they differ (`p_bent_holm`: corrected for all rows). `words`
    says that they do if it is below 0.05 and they are at least 0.2 apart.
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

    All pairs of backends on the same device and kind of node are compared, along each field that is
    a number, at each combination of the other `swept` fields, whose values are columns.

    - `surely_below`, `surely_above`: the nearest sizes on either side at which the ratio of the
      times, paired in blocks, is shown to differ from 1: p-value below 0.05, corrected by Holm for
      all pairs and points. `p_holm` is the larger of the two.
    - `faster_below`, `faster_above`: which backend is faster there.
    - `at`: where the mean ratio passes 1, interpolated on logarithms.

    A difference that is shown on one side only has no row.
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
    """Return a row per trial with a known time; seeds trained at once are one trial."""
    usable = trials[(trials["status"] == "ok") & ~trials["contended"]]
    usable = usable.assign(value=TIME.values(usable)).dropna(subset="value")
    return usable.drop_duplicates("trial")


def _place(trials: pd.DataFrame, device: str, kind: str) -> str:
    """Return where a time was measured as text, if there are several such places."""
    places = {"device": device, KIND: kind}
    return "".join(f" on {at}" for name, at in places.items() if trials[name].nunique() > 1)


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
        # Without all other effects, this is a regression on the sizes alone (Frisch and Waugh).
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
    """Return the residuals of the values after the effects, by least squares."""
    left: Array = values - effects @ np.linalg.lstsq(effects, values, rcond=None)[0]
    return left


def _squares(residuals: Array) -> float:
    squares = float((residuals**2).sum())
    return squares if squares > len(residuals) * _ROUNDING else 0.0


def _slope(x: Array, y: Array, spent: int) -> tuple[Estimate, float]:
    """Return the slope of y over x, and the sum of squared residuals.

    The effects taken out of both before took `spent` degrees of freedom.
    """
    spread, n = float(x @ x), len(x)
    if spread < 1e-9 * n:
        return Estimate(float("nan"), float("nan"), 0, n), float("nan")
    slope, df = float(x @ y) / spread, n - spent - 1
    misfit = _squares(y - slope * x)
    if not df or not misfit:
        return Estimate(slope, float("nan"), 0, n), misfit
    return Estimate(slope, float(np.sqrt(misfit / df / spread)), df, n), misfit


def _lack_of_fit(misfit: float, scatter: float, df_between: int, df_within: int) -> float:
    """Return the p-value of an F test; a small one shows that the law does not fit."""
    if not df_within or not scatter:  # All equal at each size, as by a clock that ticks.
        return float("nan")
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
    trials = trials.loc[trials["status"] == "ok", [*swept, *_NEEDED]]  # Fewer are copied faster.
    backends = [str(name) for name in dict.fromkeys(trials["backend"])]
    ratios = []
    for point, rows in points(trials, swept):
        for place, alike in rows.groupby(["device", KIND], sort=False):
            device, kind = map(str, place)
            present = [name for name in backends if (alike["backend"] == name).any()]
            for one, other in combinations(present, 2):
                estimate = pair(alike, (one, device), (other, device), TIME).estimate(0)
                if estimate.n:
                    ratios.append(_Ratio(one, other, device, kind, point, estimate))
    corrected = estimates.holm([ratio.estimate.p_different() for ratio in ratios])
    return [ratio._replace(p_holm=p) for ratio, p in zip(ratios, corrected, strict=True)]


def _lines(ratios: Sequence[_Ratio], field: str) -> Iterator[_Line]:
    """Yield the ratios that differ only in a field, ordered by it."""
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
    """Yield the crossovers of a line: a shown difference, then the next one of the other sign."""
    shown = [n for n, ratio in enumerate(line.ratios) if ratio.shown]
    for below, above in pairwise(shown):
        values = np.array([r.estimate.value for r in line.ratios[below : above + 1]])
        if (values[0] < 0) != (values[-1] < 0):
            sizes = [line.size(n) for n in range(below, above + 1)]
            yield _Crossover(below, above, _passes_zero(np.log(sizes), values))


def _passes_zero(log_sizes: Array, values: Array) -> float:
    """Return the size at which the values pass zero; the middle one if there are several."""
    # The ends differ in sign, so the number of changes of sign is odd.
    turns = [n for n, (a, b) in enumerate(pairwise(values < 0)) if a != b]
    n = turns[len(turns) // 2]
    share = values[n] / (values[n] - values[n + 1])
    return float(np.exp(log_sizes[n] + share * (log_sizes[n + 1] - log_sizes[n])))
