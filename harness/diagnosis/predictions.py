"""What predictions of any framework show, compared with the task.

The inputs are known here, so more can be said than by the yardsticks: what multiple of each term
the predictions contain, and which target they are nearest to. Shape suffix: R rows, one for each
time step t >= 1 of each path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from harness.diagnosis.predictions_file import Predictions
from harness.diagnosis.types import SEVERITIES, Finding, Id, Severity
from harness.diagnosis.wording import lag_term, target
from harness.task.task import Task
from harness.task.yardsticks import yardsticks

_CLUSTERS = 20
"""From this many paths on, each counts as one independent value; of fewer, each row does."""
_NEAR = 0.25
"""Two coefficients of the lag term are the same if they differ by less than this share of w."""
_NEAR_ZERO = 0.02
"""Without a lag term, a coefficient below this is none."""
_SURE = 4.0
"""Two values differ if they are more than this many standard errors apart."""
_FEW_ROWS = 20
_PRESENT = 0.1
"""x_t^2 is in the predictions about once if its coefficient is within this of 1."""
_WORSE = 1.1
"""A constant is better than the predictions if their error is this many times its own."""


class Coefficient(NamedTuple):
    """A coefficient and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def near(self, value: float, within: float) -> bool:
        """Whether it differs by less than `within` from a value."""
        return abs(self.value - value) < within


class Terms(NamedTuple):
    """What multiple of 1, x_t^2 and x_{t-1}^2 predictions contain."""

    constant: Coefficient
    now: Coefficient
    before: Coefficient


def coefficients(predictions: Predictions) -> Terms | None:
    """Return the terms of the predictions, by least squares; None if rows cannot tell them apart.

    The intervals allow for residuals that go together on one path, and whose size depends on x
    (Liang and Zeger 1986, with Student's t). From few paths, each row counts as independent (White
    1980).
    """
    x_R, before_R = predictions.x_R, predictions.before_R
    design = np.stack([np.ones_like(x_R), x_R**2, before_R**2], axis=1)
    rows, terms = design.shape
    if rows <= 2 * terms or np.linalg.matrix_rank(design) < terms:
        return None
    inverse = np.linalg.inv(design.T @ design)
    values = inverse @ (design.T @ predictions.prediction_R)
    scores = design * (predictions.prediction_R - design @ values)[:, None]
    n = rows
    if predictions.paths >= _CLUSTERS:
        n = predictions.paths
        scores = np.stack([np.bincount(predictions.path_R, column) for column in scores.T], axis=1)
    variance = inverse @ (scores.T @ scores) @ inverse * n / (n - 1)
    halves = float(stdtrit(n - 1, 0.975)) * np.sqrt(np.diag(variance))
    ends = zip(values, values - halves, values + halves, strict=True)
    return Terms(*(Coefficient(*map(float, each)) for each in ends))


def explain(predictions: Predictions, task: Task) -> list[Finding]:
    """Return what the predictions show, faults first; of the task, rho and lag_weight count."""
    compared = _Compared(predictions, task)
    rules = (_inputs, _lag, _present, _constant)
    found = [finding for rule in rules for finding in rule(compared)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


class _Process(NamedTuple):
    """Inputs as an AR(1) process."""

    rho: float
    rho_error: float
    """Standard error of rho."""
    variance: float
    """Variance of the noise."""


@dataclass(frozen=True)
class _Compared:
    """Predictions, and the task that they are compared with."""

    predictions: Predictions
    task: Task

    @cached_property
    def terms(self) -> Terms | None:
        return coefficients(self.predictions)

    @property
    def w(self) -> float:
        return self.task.lag_weight

    @cached_property
    def process(self) -> _Process:
        """The process of the inputs, by least squares."""
        x_R, before_R = self.predictions.x_R, self.predictions.before_R
        weight = float(np.sum(before_R**2))
        if not weight or len(x_R) < _FEW_ROWS:
            return _Process(self.task.rho, np.inf, 1.0)
        rho = float(np.sum(x_R * before_R)) / weight
        variance = float(np.mean((x_R - rho * before_R) ** 2))
        return _Process(rho, float(np.sqrt(variance / weight)), variance)

    @property
    def other_rho(self) -> bool:
        """Whether the inputs cannot have the coefficient of the task."""
        return abs(self.process.rho - self.task.rho) > _SURE * self.process.rho_error

    @property
    def other_noise(self) -> bool:
        """Whether the noise of the inputs cannot have the variance 1."""
        off = abs(self.process.variance - 1)
        return bool(off > max(0.05, _SURE * np.sqrt(2 / len(self.predictions.x_R))))

    @cached_property
    def yardstick(self) -> dict[str, float]:
        """The yardsticks of these inputs, averaged over the rows as the errors are."""
        t_R = self.predictions.t_R
        rho = float(np.clip(self.process.rho, -0.999, 0.999)) if self.other_rho else self.task.rho
        # All yardsticks are proportional to the square of a variance.
        scale = self.process.variance**2 if self.other_noise else 1.0
        exact = yardsticks(self.task.changed(n_steps=int(t_R.max()), rho=rho))
        return {name: scale * float(value[t_R - 1].mean()) for name, value in vars(exact).items()}

    @property
    def follows_present(self) -> bool:
        """Whether the coefficient of x_t^2 may be about 1."""
        if self.terms is None:
            return True
        now = self.terms.now
        return now.near(1, _PRESENT) or now.low <= 1 <= now.high

    @property
    def wrong_sign(self) -> bool:
        """Whether the lag term is in the predictions with the other sign."""
        within = _NEAR * abs(self.w)
        return self.terms is not None and self.terms.before.near(-self.w, within)

    @property
    def errors(self) -> str:
        """The errors against each target, in words."""
        mse, w = self.predictions.mse, self.w
        if not w:
            return f"The error against x_t^2 is {mse(0):.3g}"
        return (
            f"The error is {mse(w):.3g} against {target(w)}, {mse(-w):.3g} against {target(-w)} "
            f"and {mse(0):.3g} against x_t^2"
        )

    @property
    def size(self) -> str:
        paths, rows = self.predictions.paths, len(self.predictions.t_R)
        return f"{paths} path{'s' * (paths > 1)}, {rows:,} steps"


def _finding(name: Id, severity: Severity, headline: str, text: str, remedy: str = "") -> Finding:
    return Finding(name, severity, headline, text, remedy, ("your predictions",), "")


def _inputs(compared: _Compared) -> Iterator[Finding]:
    """Find inputs that are not those of the task."""
    process, rho = compared.process, compared.task.rho
    differences = []
    if compared.other_rho:
        differences.append(
            f"x_t depends on x_(t-1) with a coefficient of {process.rho:.3f} ± "
            f"{2 * process.rho_error:.3f}, the task has rho = {rho:g}"
        )
    if compared.other_noise:
        differences.append(
            f"their noise has the variance {process.variance:.3g}, that of the task 1"
        )
    if not compared.predictions.starts_at_zero:
        differences.append("x_0 is not 0 in all paths")
    if not differences:
        return
    only_rho = compared.other_rho and len(differences) == 1 and abs(process.rho) < 0.995
    yield _finding(
        "other-inputs",
        "warning",
        "The inputs are not those of the task.",
        f"Of x, {'; '.join(differences)} ({compared.size}). What is said here is computed for the "
        "inputs as they are, but predictions of a network that was trained on others may be poor "
        "for it.",
        f"If these inputs are meant, name their coefficient: --set rho={process.rho:.2f}"
        if only_rho
        else "Make the inputs as x_0 = 0, x_t = rho*x_(t-1) + N(0, 1).",
    )


class _LagRule(NamedTuple):
    """What may have become of the lag term; the texts have places for numbers."""

    name: Id
    severity: Severity
    headline: str
    evidence: str
    """It follows the errors."""
    remedy: str = ""


_LEAST = "the least error of anything that sees the present only"
_FEW_PATHS = _LagRule(
    "unsure",
    "warning",
    "There are too few paths to tell whether the predictions use the previous value.",
    ".",
    "Give more paths: the interval shrinks with the square root of their number.",
)
_UNWANTED = _LagRule(
    "other-lag",
    "fault",
    "The predictions contain a lag term, and the target has none.",
    ".",
    "If the target is meant to have one, say so: --set lag_weight={value:.2g}",
)
_WRONG_SIGN = _LagRule(
    "wrong-sign",
    "fault",
    "The lag term of the predictions has the wrong sign.",
    ": what is learned perfectly with the wrong sign has an error of {wrong_sign:.3g}.",
    "Compute the target of the loss with {lag_term}, as the evaluation does; if the other sign is "
    "meant, fix the evaluation.",
)
_MEMORYLESS = _LagRule(
    "memoryless",
    "fault",
    "The predictions use only the present value and not the one before.",
    f": {_LEAST} is {{memoryless:.3g}}.",
    "Train longer; if that does not help, check that the hidden state is carried from each step to "
    "the next (in Flux, Flux.reset! comes between sequences, not between steps).",
)
_OTHER_WEIGHT = _LagRule(
    "other-lag",
    "warning",
    "The predictions contain the lag term, but with another weight than the target.",
    ".",
    "Train longer if its weight is between 0 and that of the target; otherwise check the target of "
    "the loss, and name the weight that is meant: --set lag_weight=...",
)
_LEARNED = _LagRule(
    "learned",
    "good",
    "The predictions use the previous value as they should.",
    f", below {{memoryless:.3g}}, {_LEAST}.",
)
_IMPRECISE = _LagRule(
    "imprecise",
    "warning",
    "The predictions contain the lag term, but other errors are larger than it.",
    f"; {_LEAST} is {{memoryless:.3g}}.",
    "Train longer, or with a wider network.",
)


def _lag_rule(compared: _Compared, lag: Coefficient) -> _LagRule | None:
    """Return what became of the lag term, given its coefficient; None if rightly there is none."""
    w, near = compared.w, _NEAR * abs(compared.w)
    if (lag.high - lag.low) / 2 > (abs(w) / 2 or _NEAR_ZERO):
        return _FEW_PATHS
    if not w:
        return None if lag.near(0, _NEAR_ZERO) else _UNWANTED
    if compared.wrong_sign:
        return _WRONG_SIGN
    if lag.near(0, near) and (lag.low <= 0 <= lag.high or abs(lag.value) < abs(w) / 20):
        return _MEMORYLESS
    if not lag.near(w, near):
        return _OTHER_WEIGHT
    precise = compared.predictions.mse(w) < compared.yardstick["memoryless"]
    return _LEARNED if precise else _IMPRECISE


def _lag(compared: _Compared) -> Iterator[Finding]:
    """Say what became of the lag term."""
    if compared.terms is None:
        yield _finding(
            "unsure",
            "warning",
            "There is too little in the file to tell what the predictions are made of.",
            f"It holds {compared.size}, which do not tell x_t^2, x_(t-1)^2 and a constant apart.",
            "Give more paths: 100 will do.",
        )
        return
    w, lag = compared.w, compared.terms.before
    found = _lag_rule(compared, lag) if compared.follows_present else None
    if found is not None:
        numbers = compared.yardstick | {"value": lag.value}
        yield _finding(
            found.name,
            found.severity,
            found.headline,
            f"Your predictions contain {lag} times x_(t-1)^2 (95 % interval, {compared.size}); "
            f"the target has {w:+g}. {compared.errors}{found.evidence.format(**numbers)}",
            found.remedy.format(**numbers, lag_term=lag_term(w)),
        )


def _present(compared: _Compared) -> Iterator[Finding]:
    """Find predictions that do not contain x_t^2 once."""
    if compared.terms is None or compared.follows_present:
        return
    now = compared.terms.now
    yield _finding(
        "other-present",
        "warning" if now.near(1, 0.5) else "fault",
        "The predictions do not follow the square of the present value.",
        f"They contain {now} times x_t^2; the target has it once. {compared.errors}.",
        "Check that prediction and x of a row belong to the same time step and path, and that "
        "nothing is scaled; then train longer.",
    )


def _constant(compared: _Compared) -> Iterator[Finding]:
    """Find predictions worse than a constant; without a lag term, also those where all is well."""
    predictions, w = compared.predictions, compared.w
    if len(predictions.x_R) < _FEW_ROWS:
        return
    mse, variance = predictions.mse(w), float(np.var(predictions.target_R(w)))
    if mse > _WORSE * variance and not compared.wrong_sign:
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
