"""What the trainings of one backend at one point of a sweep show: a rule for each thing.

A rule compares the errors of the trials that ended ok with the yardsticks. It says something only
where nothing else explains the errors. docs/diagnosis.md has the thresholds, the reasons for them,
and how often they are wrong. Shape suffixes: S seeds, K evaluations, T time steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.special import stdtr

from harness.backend.protocol import Array
from harness.diagnosis import wording
from harness.diagnosis.trainings import (
    FOURTH_MOMENT,
    LEARNED_R2,
    SURE,
    TARGET_LAG_SKILL,
    TARGET_R2,
    Trainings,
    Which,
)
from harness.diagnosis.types import Evidence, Id, Rule, Severity
from harness.diagnosis.wording import count, lag_term, span
from harness.stats.forecast import Forecast, forecast
from harness.tables.numbers import short

Look: TypeAlias = Callable[[Trainings], Evidence | None]


class TrainingRule(NamedTuple):
    """A rule, and how to look whether some trainings show it."""

    rule: Rule
    look: Look


def _rule(name: Id, severity: Severity, headline: str) -> Callable[[Look], TrainingRule]:
    return lambda look: TrainingRule(Rule(name, severity, headline), look)


def observe(trainings: Trainings) -> Iterator[tuple[Rule, Evidence]]:
    """Yield the rules that apply to some trainings.

    If the task trains towards the wrong sign, only that: the network cannot learn anything else.
    """
    for one in [_wrong_sign] if trainings.wrong_on_purpose else RULES:
        evidence = one.look(trainings)
        if evidence is not None:
            yield one.rule, evidence


@_rule(
    "wrong-sign",
    "fault",
    "The training target and the evaluation target differ in the sign of the lag term, so the "
    "network learns something else than it is scored on.",
)
def _wrong_sign(trainings: Trainings) -> Evidence:
    """See the task itself. The errors show it later: first the gap, then the single steps."""
    task, w = trainings.task, trainings.task.lag_weight
    mse, loss = float(trainings.mse_SK[:, -1].mean()), float(trainings.loss_SK[:, -1].mean())
    cost = float(trainings.exact.wrong_sign.mean())
    gap_shows = loss < 0.5 * mse and abs((mse - loss) / cost - 1) < 0.25
    if gap_shows:
        gap = (
            f"The training loss has fallen to {short(loss)} while the error on held-out paths "
            f"stays at {short(mse)}: the gap of {short(mse - loss)} is what the sign costs "
            f"({short(cost)}, the mean of the wrong-sign yardstick)."
        )
    else:
        gap = (
            f"The figures do not show it clearly yet: the training is not far enough (loss "
            f"{short(loss)}, error {short(mse)}). However long it goes on, the error cannot come "
            f"far below {short(cost)}, the wrong-sign yardstick."
        )
    steps_show, steps = _wrong_sign_steps(trainings)
    return Evidence(
        f"The task says so itself: train_sign = -1 with lag_weight = {w:g}. The loss is taken "
        f"against {wording.target(-w)}, the error against {wording.target(w)}: the sign of the lag "
        f"term differs. {gap}{f' {steps}' if steps_show or gap_shows else ''}",
        f"Fix the loss: python -m harness run --preset corrected{wording.settings(task)} (the same "
        "task with train_sign = 1). In a program of your own, compute the target of the loss with "
        f"{lag_term(w)}, as the evaluation does; if the other sign is meant, fix the evaluation.",
        f"loss {short(loss)}, error {short(mse)}",
        weight=steps_show + gap_shows,
    )


def _wrong_sign_steps(trainings: Trainings) -> tuple[bool, str]:
    """Return whether the errors at single steps are those of the wrong sign, and how near."""
    level, mse_T = trainings.exact.wrong_sign, trainings.step_mse_ST.mean(axis=0)
    first, later, ideal = mse_T[0], float(trainings.later_S.mean()), float(level[1:].mean())
    near = abs(later / ideal - 1) < 0.15 + SURE * trainings.noise
    near_each = np.abs(np.log(mse_T[1:] / level[1:])) < np.log(2)
    if not (near and first < 0.1 * level.mean() and near_each.all()):
        return False, (
            f"Per step it is not on the yardstick yet: {short(later)} against {short(ideal)} at "
            f"t >= 2, and {short(first)} at t = 1, where the lag term vanishes and the error will "
            "go to zero."
        )
    paths, seeds = trainings.task.eval_paths, len(trainings.seeds)
    known = 2 * float(np.sqrt(FOURTH_MOMENT / (paths * seeds)))
    return True, (
        f"The error sits on the wrong-sign yardstick, {short(level[-1])}, at every t >= 2 (on "
        f"average {later / ideal:.2f} of it; {paths} held-out paths and {seeds} "
        f"seed{'s' * (seeds > 1)} tell the error at one step to ±{known:.0%}) and is near zero at "
        f"t = 1 ({short(first)}), where the lag term vanishes."
    )


@_rule(
    "memoryless",
    "fault",
    "The network uses only the present value and has not learned to use the one before.",
)
def _memoryless(trainings: Trainings) -> Evidence | None:
    some_S = trainings.memoryless_S
    if not _most(some_S):
        return None
    level = trainings.exact.memoryless[1:].mean()
    later, first = trainings.later_S[some_S].mean(), trainings.step_mse_ST[some_S, 0].mean()
    return Evidence(
        f"In {count(some_S)} seeds the error at t >= 2 is {short(later)}, {later / level:.2f} "
        f"times the memoryless yardstick ({short(level)}, the least error of anything that sees "
        f"x_t only; 1.5 times is x_t^2 alone), it is lower at t = 1 ({short(first)}), where there "
        "is nothing to remember, and over the last half of the training it has not moved "
        f"({_half(trainings, some_S)}, {_end(trainings, some_S)} at the end).",
        "Check that the hidden state is carried from each step to the next, that the gradient goes "
        "back through it, and that the recurrent weights are among the trained parameters. If they "
        "are, train longer: a network can rest there for a while before it finds the lag.",
        f"error {short(later)}, {count(some_S)} seeds",
        weight=float(some_S.sum()),
    )


@_rule(
    "worse-than-constant", "fault", "After training, the network is worse than a constant would be."
)
def _worse_than_constant(trainings: Trainings) -> Evidence | None:
    """Find an error above that of the best constant, which does not come down."""
    if not trainings.has_curve:
        return None
    level = trainings.exact.variance.mean()
    best_S = trainings.mse_SK[:, trainings.after(0.5)].min(axis=1)
    some_S = (best_S > level * (1 + SURE * trainings.noise)) & ~trainings.falling_S
    if not _most(some_S):
        return None
    final = trainings.final_S[some_S].mean()
    return Evidence(
        f"In {count(some_S)} seeds the error is {short(final)}; the best constant has "
        f"{short(level)}. It did not come down over the last half of the training: "
        f"{_half(trainings, some_S)}, {_end(trainings, some_S)} at the end.",
        "Check that the optimiser moves the parameters at all. If the error leaps about, lower the "
        f"learning rate: --set learning_rate={trainings.task.learning_rate / 10:.1g}",
        f"error {short(final)}",
        weight=float(final / level),
    )


@_rule("got-worse", "warning", "Training lost again what it had learned.")
def _got_worse(trainings: Trainings) -> Evidence | None:
    """Find curves whose last quarter is all far above what had been reached before."""
    some_S = trainings.risen_S & ~trainings.learned_S
    if not _most(some_S) or _worse_than_constant.look(trainings):
        return None
    best_S, last_S = trainings.mse_SK.min(axis=1), trainings.mse_SK[:, -1]
    return Evidence(
        f"In {count(some_S)} seeds the error had been down to {span(best_S[some_S])} and is "
        f"{span(last_S[some_S])} at the end, and as high throughout the last quarter.",
        f"Lower the learning rate: --set learning_rate={trainings.task.learning_rate / 3:.1g}",
        f"{span(best_S[some_S])}, then {span(last_S[some_S])}",
        weight=float((last_S / best_S).max()),
    )


_LEAST_STEPS, _GROWS_P, _GROWS_BY = 20, 1e-5, 2.0


@_rule("error-grows", "fault", "The error grows with the time step: the later, the worse.")
def _error_grows(trainings: Trainings) -> Evidence | None:
    """Find an error that at late steps is a multiple of that at early ones, beyond luck.

    Only steps count at which the path has its full variance: before, the network sees smaller
    inputs, and the first ones have no, or little, past.
    """
    variance_T = trainings.exact.variance
    t = np.flatnonzero(variance_T > 0.95 * variance_T[-1])
    t = t[t >= 2]  # From t = 3 on.
    # Neighbouring steps have much of their luck in common: squares correlate by rho^2.
    alike = trainings.task.rho**2
    independent = len(t) * (1 - alike) / (1 + alike)
    if independent < _LEAST_STEPS:
        return None
    mse_ST = trainings.step_mse_ST[:, t]
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
        f"{correlation:.2f}, p = {p:.0e}).",
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


@_rule("stuck-seed", "warning", "Some starts got stuck while the others learned.")
def _stuck_seed(trainings: Trainings) -> Evidence | None:
    """Find seeds at rest above the memoryless yardstick, while most are far below it."""
    if len(trainings.seeds) < 3:
        return None
    final_S = trainings.final_S
    if trainings.has_lag:
        level = trainings.exact.memoryless.mean()
        well_S, ill_S = final_S < level / 3, final_S > 0.9 * level
    else:
        level = (1 - LEARNED_R2) * trainings.exact.variance.mean()
        well_S, ill_S = final_S < level, final_S > 10 * level
    rest_S = trainings.flat_S & (trainings.memoryless_S | ~trainings.falling_S)
    stuck_S = ill_S & rest_S & (final_S > 10 * np.median(final_S))
    if not stuck_S.any() or well_S.sum() < 2 * stuck_S.sum():
        return None
    where = ""
    if (final_S[stuck_S] > trainings.exact.variance.mean()).all():
        where = ", above the best constant"
    elif trainings.memoryless_S[stuck_S].all():
        where = ", where a network is that uses the present value only"
    named = wording.seeds(trainings.seeds, stuck_S)
    return Evidence(
        f"{named.capitalize()} came to rest at {span(final_S[stuck_S])}{where}: the error has not "
        f"moved over the last half of the training. The {int(well_S.sum())} that learned are at "
        f"{span(final_S[well_S])}.",
        "Do not average over them, look at each seed: python -m harness show RUN --table trials. "
        "Such starts get fewer with a lower learning rate, "
        f"--set learning_rate={trainings.task.learning_rate / 3:.1g}, or a wider network, "
        f"--set hidden={2 * trainings.task.hidden}",
        named,
        weight=float(stuck_S.sum()),
    )


@_rule(
    "not-converged",
    "warning",
    "Training stopped before it was finished: the error is still falling.",
)
def _not_converged(trainings: Trainings) -> Evidence | None:
    """Forecast when a target that is not reached yet will be."""
    if trainings.memoryless_S.any():
        return None
    # A seed that is at rest above its target does not tell when the others will reach it.
    moving_SK = trainings.mse_SK[~trainings.flat_S | trainings.learned_S]
    ahead = None
    if not trainings.flat_S.all():
        ahead = forecast(trainings.epochs_K, moving_SK, trainings.target)
    if ahead is None:
        return _falling_slowly(trainings)
    task, now = trainings.task, float(np.exp(np.log(moving_SK[:, -1]).mean()))
    text = (
        f"The error is {short(now)} after {task.epochs} epochs and falls as the power "
        f"{ahead.power:.1f} of the epochs. {_forecast_words(trainings, ahead)}"
    )
    memoryless = trainings.exact.memoryless.mean()
    if trainings.has_lag and now > memoryless:
        text += (
            f" So far it is above the memoryless yardstick ({short(memoryless)}): nothing shows "
            "yet that the network will use the past."
        )
    known = trainings.typical and not ahead.beyond
    longer = ahead.next_try(task.curve_points) if known else 4 * task.epochs
    return Evidence(
        text,
        f"Train longer: --set epochs={task.nearest_epochs(longer)}",
        f"error {short(now)}" + f", about {wording.epochs(ahead.epochs)} epochs in all" * known,
        weight=ahead.epochs,
    )


def _falling_slowly(trainings: Trainings) -> Evidence | None:
    """Find an error that falls steadily, but too slowly or too recently for a forecast."""
    some_S = trainings.falling_S
    if not _most(some_S) or trainings.final_S[some_S].mean() < trainings.target:
        return None
    return Evidence(
        f"In {count(some_S)} seeds the error falls steadily, from {_half(trainings, some_S)} to "
        f"{_end(trainings, some_S)} at the end. For how long that will go on cannot be told.",
        "Train four times as long and look again: --set "
        f"epochs={trainings.task.nearest_epochs(4 * trainings.task.epochs)}",
        f"error {short(trainings.final_S[some_S].mean())}",
    )


def _forecast_words(trainings: Trainings, ahead: Forecast) -> str:
    name = f"lag_skill {TARGET_LAG_SKILL}" if trainings.has_lag else f"r2 {TARGET_R2}"
    target = f"{name} (error {short(trainings.target)})"
    low, middle, high = map(wording.epochs, (ahead.low, ahead.epochs, ahead.high))
    if not trainings.typical:
        return (
            f"How long it takes to {target} cannot be told: that was measured for tanh networks "
            "trained by Adam only. Train four times as long and look again."
        )
    if ahead.beyond:
        return (
            f"To reach {target}, it takes more than {low} epochs in all, if it can be reached; "
            "train four times as long and look again."
        )
    return (
        f"To reach {target}, it takes about {middle} epochs in all, by a rule of thumb (between "
        f"{low} and {high})."
    )


@_rule("learned", "good", "The network learned to use the previous value.")
def _learned_lag(trainings: Trainings) -> Evidence | None:
    level = float(trainings.exact.memoryless.mean())
    what = "the least error of anything that sees the present value only"
    what = f"the memoryless yardstick ({short(level)}, {what})"
    return _learned(trainings, level, what) if trainings.has_lag else None


@_rule("learned", "good", "The network learned the function.")
def _learned_function(trainings: Trainings) -> Evidence | None:
    level = float((1 - LEARNED_R2) * trainings.exact.variance.mean())
    what = f"{1 - LEARNED_R2:.0%} of the variance of the target ({short(level)})"
    return None if trainings.has_lag else _learned(trainings, level, what)


def _learned(trainings: Trainings, level: float, what: str) -> Evidence | None:
    """Find that most seeds ended below a level, and when they fell below it."""
    below_SK = trainings.mse_SK < level
    some_S = below_SK.any(axis=1) & trainings.learned_S
    # Trials that did not end ok have learned nothing: the survivors alone are not most.
    if trainings.learned_S.sum() * 2 <= trainings.asked or not some_S.any():
        return None
    first_S = below_SK.argmax(axis=1)[some_S]
    epochs, time = trainings.epochs_K[first_S], ""
    if trainings.seconds_SK is not None:
        time = f"{np.median(trainings.seconds_SK[some_S, first_S]):.3g} s"
    spread = f" ({epochs.min():.0f} to {epochs.max():.0f})" if np.ptp(epochs) else ""
    seeds = f"{int(some_S.sum())} of {trainings.asked}"
    return Evidence(
        f"In {seeds} seeds the error fell below {what}: at epoch {np.median(epochs):.0f}{spread}"
        f"{f', after {time} of training' if time else ''}"
        f"{' (medians)' if some_S.sum() > 1 else ''}; at the end it is "
        f"{span(trainings.final_S[some_S])}.",
        brief=f"{seeds} seeds, epoch {np.median(epochs):.0f}" + f", {time}" * bool(time),
    )


RULES = (
    _memoryless,
    _worse_than_constant,
    _got_worse,
    _error_grows,
    _stuck_seed,
    _not_converged,
    _learned_lag,
    _learned_function,
)


def _most(some_S: Which) -> bool:
    return bool(some_S.sum() * 2 > len(some_S))


def _half(trainings: Trainings, some_S: Which) -> str:
    """Return the error of some seeds halfway: `0.2 at epoch 500`."""
    half = len(trainings.epochs_K) // 2
    error = trainings.mse_SK[some_S, half].mean()
    return f"{short(error)} at epoch {int(trainings.epochs_K[half])}"


def _end(trainings: Trainings, some_S: Which) -> str:
    return short(trainings.mse_SK[some_S, -1].mean())
