"""Rules on the error per time step: at the first ones, at a few, or growing with t.

Shape suffixes: S seeds, T time steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from harness.backend.protocol import Array
from harness.diagnosis import wording
from harness.diagnosis.observed import SURE, Observed, rule
from harness.diagnosis.types import Evidence, Which
from harness.diagnosis.wording import in_seeds, most
from harness.tables.numbers import short
from harness.task.task import Task

FIRST, _LATER, _LEAST_LATER = 3, 5, 5
"""The first steps are t = 1..3; later ones come after the fifth, and there are five or more."""
_SHOWS = 1.5
_LIMIT, _LIMIT_LARGE, _LARGE = 6.0, 15.0, 16
"""A healthy network has less than so many times the later error at the first steps. One that is
larger, in units, gates or layers, learns the rest sooner than its initial state."""
_SURELY = 3.0
"""That is what it must be in spite of sampling."""
_NEGLIGIBLE = 1e-4
"""An error that is this share of the variance of the target, or less, is no fault."""
_LEAST_STEPS, _GROWS_P, _GROWS_BY = 20, 1e-5, 2.0
"""An error grows that does over so many independent steps, with this p-value, by this factor."""
_LEAST_UNEVEN, _FEW, _STANDS_OUT = 10, 0.1, 3.0
"""Of so many steps or more, a few are this share; one stands out from so many times the median."""


@rule(
    "broken-gradient",
    "fault",
    "The gradient through time is wrong, and the initial state is not trained, so the network "
    "learns slowly.",
)
def broken_gradient(observed: Observed) -> Evidence | None:
    """See the task itself; add what the figures show."""
    task = observed.task
    if task.gradient == "exact":
        return None
    shown = [_unmoved(observed), _first_steps_in_words(observed)]
    return Evidence(
        f"The task says so itself: gradient = {task.gradient}, as in a program that broadcasts a "
        "stateful network over the time steps. Its backward steps run in forward order of time, so "
        "each gets the state gradient of the step before it in place of that of the step after it. "
        f"{' '.join(filter(None, [*shown, _cost(task)]))}",
        "Call the network step by step: in Flux [h_nn(x) for x in xs], or map(h_nn, xs), in place "
        f"of h_nn.(xs). Here: {wording.run_without(task, gradient='exact')} (the same task with "
        f"gradient = exact).{_both(observed)}",
        f"error {short(observed.final_S.mean())}",
        weight=float(observed.final_S.mean()),
    )


def _cost(task: Task) -> str:
    """Say what the gradient costs where that was measured; "" for other networks."""
    usual = task.model == replace(Task().model, gradient=task.gradient) and task.lag == 1
    if not usual or not task.lag_weight:
        return ""
    return (
        "What it costs by itself, with the right sign: 8 times the error of the right gradient at "
        "w = 0.1, and 49 times at w = 1 (10,000 epochs; 16 and 8 seeds)."
    )


def _both(observed: Observed) -> str:
    """Say what to run without either fault, if the sign is wrong, too."""
    if not observed.sign_on_purpose:
        return ""
    task = observed.task
    return f" Without either fault: {wording.run_without(task, gradient='exact', train_sign=1)}"


def _unmoved(observed: Observed) -> str:
    """Say that the initial state is where it began; "" if it is not, or that is unknown."""
    if observed.moved_S is None or observed.moved_S.any():
        return ""
    return (
        f"After {observed.task.epochs} epochs the initial state is exactly where it began: it got "
        "no gradient."
    )


def _first_steps_in_words(observed: Observed) -> str:
    """Return the errors at the first steps beside those at the later ones."""
    mse_T = observed.step_mse_ST.mean(axis=0)
    first, later = mse_T[:FIRST], mse_T[_LATER:]
    text = f"The error is {wording.listed(first)} at t = {wording.first_steps(len(first))}"
    if len(later) >= _LEAST_LATER:
        times = first.mean() / later.mean()
        text += f", and {short(later.mean())} on average from t = {_LATER + 1} on"
        text += f": {times:.1f} times as large" * bool(times > _SHOWS)
    return f"{text}.{_beside_the_sign(observed)}"


def _beside_the_sign(observed: Observed) -> str:
    """If the sign is wrong, too, return the error at t = 1, where that costs nothing."""
    if not observed.sign_on_purpose or observed.curve is None:
        return ""
    loss, first = observed.curve.loss_SK[:, -1].mean(), observed.step_mse_ST[:, 0].mean()
    if first < _SHOWS * loss:
        return ""
    return (
        f" At t = 1 both targets are the same: the error there, {short(first)}, is "
        f"{first / loss:.1f} times the training loss, {short(loss)}."
    )


class _First(NamedTuple):
    """The first steps beside the later ones."""

    times_S: Array
    """Geometric mean of t = 1..3 over the mean of the later steps."""
    surely_S: Array
    """The least that this is, given the sampling."""


def _first(observed: Observed) -> _First | None:
    mse_ST, noise_T = observed.steps
    if mse_ST.shape[1] < _LATER + _LEAST_LATER or np.isnan(mse_ST).any():
        return None
    later_S = np.maximum(mse_ST[:, _LATER:].mean(axis=1), 1e-300)
    log_S = np.log(np.maximum(mse_ST[:, :FIRST], 1e-300)).mean(axis=1) - np.log(later_S)
    noise = float(np.sqrt(np.sum(noise_T[:FIRST] ** 2))) / FIRST
    return _First(np.exp(log_S), np.exp(log_S - SURE * noise))


_REMEDY = (
    "Check that the initial state is trained and that the gradient goes back through time: in "
    "Flux, call the network as [m(x) for x in xs], not as a broadcast m.(xs); in PyTorch, no "
    "detach() between steps; in JAX, no stop_gradient. Check that each path starts anew, in "
    "training as in prediction (up to Flux 0.14, Flux.reset! before each path)."
)


@rule(
    "first-steps",
    "fault",
    "The initial state was not trained: it is exactly where it began.",
)
def untrained_start(observed: Observed) -> Evidence | None:
    """Find an initial state that the training has not moved."""
    # At the start every argument at t = 0 is zero, where the derivative of relu is, too.
    if observed.task.gradient != "exact" or observed.task.activation == "relu":
        return None
    if not (unmoved := _unmoved(observed)):
        return None
    return Evidence(
        f"{unmoved} The gradient through time that should reach it is lost or wrong. "
        f"{_first_steps_in_words(observed)}",
        _REMEDY,
        "the initial state has not moved",
    )


@rule(
    "first-steps",
    "fault",
    "The error is largest at the first time steps, as with an initial state that is not trained or "
    "a gradient through time that is broken.",
)
def first_steps(observed: Observed) -> Evidence | None:
    """Find errors at t = 1..3 that are many times those at later steps."""
    first = _first(observed)
    if observed.task.gradient != "exact" or first is None or _unmoved(observed):
        return None
    task = observed.task
    small = task.hidden <= _LARGE and task.cell == "rnn" and task.layers == 1
    limit = _LIMIT if small else _LIMIT_LARGE
    some_S = (first.times_S > limit) & (first.surely_S > _SURELY) & _matters(observed)[:FIRST].any()
    few = few_T(observed)
    early = few is not None and bool(np.flatnonzero(few).max() < _LATER)
    if not most(some_S) and not early:
        return None
    mse_T = np.nanmean(observed.steps.mse_ST, axis=0)
    later = float(mse_T[_LATER:].mean())
    share = float(mse_T[:_LATER].sum() / mse_T.sum())
    moved = ""
    if observed.moved_S is not None:
        moved = f" The initial state has moved by {wording.span(observed.moved_S)} (RMS)."
    return Evidence(
        f"{in_seeds(observed, some_S)} error is {wording.listed(mse_T[:FIRST])} at t = "
        f"{wording.first_steps(FIRST)}, and {short(later)} on average from t = {_LATER + 1} on; "
        f"the first {_LATER} steps hold {share:.0%} of it.{moved}{_lag_term(observed)}",
        _REMEDY,
        f"{wording.listed(mse_T[:FIRST])}, then {short(later)}",
        weight=float(np.median(first.times_S)),
    )


def _matters(observed: Observed) -> Which:
    """Return at which steps the error is more than next to nothing [T]."""
    mse_T = np.nanmean(observed.steps.mse_ST, axis=0)
    matters: Which = mse_T > _NEGLIGIBLE * observed.exact.variance[: len(mse_T)]
    return matters


def _lag_term(observed: Observed) -> str:
    """Say which lag term predictions contain; "" if that is unknown, or it is another one."""
    outputs = observed.outputs
    if outputs is None:
        return ""
    if outputs.wrong_sign:
        followed = outputs.target(-outputs.w)
        return f" These are errors against {followed}, which the predictions follow."
    return f" The lag term is there: {outputs.lag} times {outputs.past}^2." * outputs.right_lag


def few_T(observed: Observed) -> Which | None:
    """Return the few steps that hold most of the error [T]; None if it is spread over many.

    None for trainings: of their errors only means over paths are known, and one path with a very
    large x can be most of the error at a step.
    """
    mse_ST, noise_T = observed.steps
    if observed.outputs is None or mse_ST.shape[1] < _LEAST_UNEVEN:
        return None
    (mse_T,) = mse_ST
    sure_T = mse_T * (1 - SURE * noise_T)
    usual = np.median(mse_T[observed.all_but_last_easy :])
    few = (sure_T > _STANDS_OUT * usual) & _matters(observed)
    share = mse_T[few].sum() / mse_T.sum() if mse_T.any() else 0.0
    return few if 0 < few.sum() <= _FEW * len(mse_T) and share > 0.5 else None


@rule("few-steps", "warning", "A few time steps hold most of the error.")
def few_steps(observed: Observed) -> Evidence | None:
    """Find errors at a few steps that are more than all others together."""
    few = few_T(observed)
    if few is None or first_steps.look(observed) or error_grows.look(observed):
        return None
    (mse_T,) = observed.steps.mse_ST
    share = mse_T[few].sum() / mse_T.sum()
    hold = "holds" if few.sum() == 1 else "hold"
    return Evidence(
        f"t = {wording.ranges(np.flatnonzero(few) + 1)} {hold} {share:.0%} of the error: "
        f"{short(mse_T[few].mean())} on average there, {short(mse_T[~few].mean())} at the other "
        f"steps.{_lag_term(observed)}",
        "Look at these steps: check that prediction and x of a row belong to the same time step, "
        "that nothing is padded or joined there, and that the hidden state is not reset between.",
        f"t = {wording.ranges(np.flatnonzero(few) + 1)}",
        weight=float(share),
    )


@rule("error-grows", "fault", "The error grows with the time step: the later, the worse.")
def error_grows(observed: Observed) -> Evidence | None:
    """Find an error that at late steps is a multiple of that at early ones, beyond luck.

    Only steps count at which x_t and x_{t-L} have their full variance: before, the network sees
    smaller inputs, and the first ones have no, or little, past.
    """
    all_ST, _ = observed.steps
    variance_T = observed.exact.variance[: all_ST.shape[1]]
    t = np.flatnonzero(variance_T > 0.95 * variance_T[-1])
    t = t[t >= max(2, t.min()) + observed.all_but_last_easy]  # From t = 3 on, if the lag is 1.
    # Neighbouring steps have much of their luck in common: squares correlate by rho^2.
    alike = observed.task.rho**2
    independent = len(t) * (1 - alike) / (1 + alike)
    mse_ST = all_ST[:, t]
    if independent < _LEAST_STEPS or np.isnan(mse_ST).any():
        return None
    log_ST = np.log(np.maximum(mse_ST, 1e-300) / variance_T[t])
    third = len(t) // 3
    rise_S = np.median(log_ST[:, -third:], axis=1) - np.median(log_ST[:, :third], axis=1)
    correlation, p = _spearman(log_ST.mean(axis=0), independent)
    times = float(np.exp(np.median(rise_S)))
    sure = correlation > 0.6 and p < _GROWS_P and times > _GROWS_BY
    if not sure or np.mean(rise_S > np.log(1.5)) < 0.8:
        return None
    early, late = float(np.median(mse_ST[:, :third])), float(np.median(mse_ST[:, -third:]))
    return Evidence(
        f"The error is {short(early)} over t = {t[0] + 1} to {t[third - 1] + 1} and "
        f"{short(late)} over t = {t[-third] + 1} to {t[-1] + 1} (medians), {times:.1f} times as "
        "much, while the variance of the target stays the same (rank correlation with t "
        f"{correlation:.2f}, p = {p:.0e}).{_lag_term(observed)}",
        "Something adds up from step to step that should not: check that the hidden state starts "
        "anew with each path, that it is the same code that trains and that predicts, and that "
        "training sees paths as long as the evaluation does.",
        f"{times:.1f} times as much",
        weight=times,
    )


def _spearman(values: Array, independent: float) -> tuple[float, float]:
    """Return the rank correlation of values with their order, and its two-sided p-value.

    `independent` is how many of the values count as independent.
    """
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    r = float(np.corrcoef(np.arange(len(values)), ranks)[0, 1])
    student = abs(r) * np.sqrt((independent - 2) / max(1 - r**2, 1e-12))
    return r, float(2 * stdtr(independent - 2, -student))
