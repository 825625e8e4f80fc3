"""What is wrong, or right, with one backend at one point of a sweep: a rule each.

A rule looks at the errors of the trials that ended ok and holds them against the yardsticks. It
says something only where nothing else explains the figures; docs/diagnosis.md has the thresholds,
their reasons, and how often they err. Shape suffixes: S seeds, K evaluations, T time steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import stdtr

from harness.backend.protocol import Array
from harness.diagnosis.trainings import FOURTH_MOMENT, LEARNED_R2, SURE, Case, Which
from harness.stats.forecast import Forecast, forecast
from harness.task.task import Task

Severity: TypeAlias = Literal["fault", "warning", "good"]


@dataclass(frozen=True)
class Symptom:
    """What a rule says of a backend at a point of a sweep; see
    `harness.diagnosis.findings.Finding`.
    """

    rule: str
    severity: Severity
    headline: str
    """The same wherever the same is wrong: what has one headline is one finding."""
    evidence: str
    remedy: str = ""
    brief: str = ""
    """The evidence in a few words."""
    weight: float = 0.0
    """Of several that have one headline, the evidence of the heaviest is shown."""


def symptoms(case: Case) -> Iterator[Symptom]:
    """Yield what is to be said of a case.

    Trained towards something else, a network cannot be told to be anything else: that comes alone.
    """
    if case.wrong_on_purpose:
        yield _wrong_sign(case)
        return
    for rule in RULES:
        found = rule(case)
        if found is not None:
            yield found


def _wrong_sign(case: Case) -> Symptom:
    task, level = case.task, case.exact.wrong_sign
    mean = float(level.mean())
    mse, loss = float(np.mean(case.mse_SK[:, -1])), float(np.mean(case.loss_SK[:, -1]))
    later, first = float(case.later_S.mean()), float(case.step_mse_ST[:, 0].mean())
    ratio = later / float(level[1:].mean())
    steps_T = case.step_mse_ST.mean(axis=0)[1:]
    near_T = np.abs(np.log(steps_T / level[1:])) < np.log(2)  # Of t = 2, ..., each by itself.
    sits = abs(ratio - 1) < 0.15 + SURE * case.noise and first < 0.1 * mean and near_T.all()
    gap = mse - loss
    shows = loss < 0.5 * mse and abs(gap / mean - 1) < 0.25
    parts = [
        f"The task says so itself: train_sign = -1 with lag_weight = {task.lag_weight:g}. The loss "
        f"is taken against x_t^2 {signed(-task.lag_weight)}*x_(t-1)^2, the error against x_t^2 "
        f"{signed(task.lag_weight)}*x_(t-1)^2: the sign of the lag term differs."
    ]
    if shows:
        parts.append(
            f"The training loss has fallen to {_show(loss)} while the error on held-out paths stays"
            f" at {_show(mse)}: the gap of {_show(gap)} is what the sign costs ({_show(mean)}, the "
            "mean of the wrong-sign yardstick)."
        )
    else:
        parts.append(
            f"The figures do not show it clearly yet: the training is not far enough (loss "
            f"{_show(loss)}, error {_show(mse)}). However long it goes on, the error cannot come "
            f"far below {_show(mean)}, the wrong-sign yardstick."
        )
    if sits:
        parts.append(
            f"The error sits on the wrong-sign yardstick, {_show(level[-1])}, at every t >= 2 (on "
            f"average {ratio:.2f} of it; {task.eval_paths} held-out paths and "
            f"{len(case.seeds)} seed{'s' * (len(case.seeds) > 1)} tell the error at one step to "
            f"±{_per_step(case):.0%}) and is near zero at t = 1 ({_show(first)}), where the lag "
            "term vanishes."
        )
    elif shows:
        parts.append(
            f"Per step it is not on the yardstick yet: {_show(later)} against "
            f"{_show(level[1:].mean())} at t >= 2, and {_show(first)} at t = 1, where the lag term "
            "vanishes and the error will go to zero."
        )
    return Symptom(
        "wrong-sign",
        "fault",
        "The training target and the evaluation target differ in the sign of the lag term, so the "
        "network learns something else than it is scored on.",
        " ".join(parts),
        f"Fix the loss: python -m harness run --preset corrected{_settings(task)} (the same task "
        "with train_sign = 1). In a program of your own, compute the target of the loss with "
        f"{signed(task.lag_weight)}*x_(t-1)^2, as the evaluation does; if the other sign is meant, "
        "fix the evaluation.",
        f"loss {_show(loss)}, error {_show(mse)}",
        weight=sits + shows,
    )


def _settings(task: Task) -> str:
    """Return the options that make this task out of the default one, but for the sign."""
    default = Task().model_dump() | {"train_sign": task.train_sign}
    changed = {name: v for name, v in task.model_dump().items() if v != default[name]}
    return "".join(f" --set {name}={value}" for name, value in changed.items())


def _memoryless(case: Case) -> Symptom | None:
    found_S = case.memoryless_S
    if not found_S.any() or not _most(found_S):
        return None
    level = case.exact.memoryless[1:].mean()
    later, first = case.later_S[found_S].mean(), case.step_mse_ST[found_S, 0].mean()
    return Symptom(
        "memoryless",
        "fault",
        "The network uses only the present value and has not learned to use the one before.",
        f"In {_of(found_S)} seeds the error at t >= 2 is {_show(later)}, {later / level:.2f} times "
        f"the memoryless yardstick ({_show(level)}, the least error of anything that sees x_t "
        "only; 1.5 times is x_t^2 alone), it is lower at t = 1 "
        f"({_show(first)}), where there is nothing to remember, and over the last half of the "
        f"training it has not moved ({_show(_half(case, found_S))} at epoch "
        f"{_half_epoch(case)}, {_show(case.mse_SK[found_S, -1].mean())} at the end).",
        "Check that the hidden state is carried from each step to the next, that the gradient goes "
        "back through it, and that the recurrent weights are among the trained parameters. If they "
        "are, train longer: a network can rest there for a while before it finds the lag.",
        f"error {_show(later)}, {_of(found_S)} seeds",
        weight=float(found_S.sum()),
    )


def _stuck_seed(case: Case) -> Symptom | None:
    """Find seeds at rest above the memoryless yardstick, while most are far below it."""
    if len(case.seeds) < 3:
        return None
    final_S = case.final_S
    if case.has_lag:
        level = case.exact.memoryless.mean()
        well_S, ill_S = final_S < level / 3, final_S > 0.9 * level
    else:
        level = (1 - LEARNED_R2) * case.exact.variance.mean()
        well_S, ill_S = final_S < level, final_S > 10 * level
    rest_S = case.flat_S & (case.memoryless_S | ~case.falling_S)
    stuck_S = ill_S & rest_S & (final_S > 10 * np.median(final_S))
    if not stuck_S.any() or well_S.sum() < 2 * stuck_S.sum():
        return None
    at = final_S[stuck_S]
    where = ""
    if (at > case.exact.variance.mean()).all():
        where = ", above the best constant"
    elif case.memoryless_S[stuck_S].all():
        where = ", where a network is that uses the present value only"
    return Symptom(
        "stuck-seed",
        "warning",
        "Some starts got stuck while the others learned.",
        f"{case.named(stuck_S).capitalize()} came to rest at {_range(at)}{where}: the error has "
        "not moved over the last half of the training. "
        f"The {int(well_S.sum())} that learned are at {_range(final_S[well_S])}.",
        "Do not average over them, look at each seed: python -m harness show RUN --table trials. "
        "Such starts get fewer with a lower learning rate, "
        f"--set learning_rate={case.task.learning_rate / 3:.1g}, or a wider network, "
        f"--set hidden={2 * case.task.hidden}",
        case.named(stuck_S),
        weight=float(stuck_S.sum()),
    )


def _not_converged(case: Case) -> Symptom | None:
    # What is at rest above its goal says nothing of when the others will be there.
    going_S = ~case.flat_S | case.learned_S
    if case.memoryless_S.any():
        return None
    told = None if case.flat_S.all() else forecast(case.epochs_K, case.mse_SK[going_S], case.target)
    if told is None:
        return _creeping(case)
    now = float(np.exp(np.log(case.mse_SK[going_S, -1]).mean()))
    parts = [
        f"The error is {_show(now)} after {case.task.epochs} epochs and falls as the power "
        f"{told.power:.1f} of the epochs.",
        _forecast_words(case, told),
    ]
    if case.has_lag and now > case.exact.memoryless.mean():
        parts.append(
            "So far it is above the memoryless yardstick "
            f"({_show(case.exact.memoryless.mean())}): nothing shows yet that the network will "
            "use the past."
        )
    known = case.typical and not told.beyond
    longer = told.next_try(case.task.curve_points) if known else 4 * case.task.epochs
    longer = case.task.nearest_epochs(longer)
    return Symptom(
        "not-converged",
        "warning",
        "Training stopped before it was finished: the error is still falling.",
        " ".join(parts),
        f"Train longer: --set epochs={longer}",
        f"error {_show(now)}" + f", about {_round(told.epochs)} epochs in all" * known,
        weight=told.epochs,
    )


def _creeping(case: Case) -> Symptom | None:
    """Say that an error falls steadily, but too slowly, or since too recently, for a forecast."""
    if not _most(case.falling_S) or case.final_S[case.falling_S].mean() < case.target:
        return None
    longer = case.task.nearest_epochs(4 * case.task.epochs)
    return Symptom(
        "not-converged",
        "warning",
        "Training stopped before it was finished: the error is still falling.",
        f"In {_of(case.falling_S)} seeds the error falls steadily, from "
        f"{_show(_half(case, case.falling_S))} at epoch {_half_epoch(case)} to "
        f"{_show(case.mse_SK[case.falling_S, -1].mean())} at the end. For how long that will go "
        "on cannot be told.",
        f"Train four times as long and look again: --set epochs={longer}",
        f"error {_show(case.final_S[case.falling_S].mean())}",
    )


def _forecast_words(case: Case, told: Forecast) -> str:
    goal = f"{case.target_words} (error {_show(case.target)})"
    if not case.typical:
        return (
            f"How long it takes to {goal} cannot be told: that was measured for tanh networks "
            "trained by Adam only. Train four times as long and look again."
        )
    if told.beyond:
        return (
            f"To reach {goal}, it takes more than {_round(told.low)} epochs in all, if it can be "
            "reached; train four times as long and look again."
        )
    return (
        f"To reach {goal}, it takes about {_round(told.epochs)} epochs in all, by a rule of thumb "
        f"(between {_round(told.low)} and {_round(told.high)})."
    )


def _round(epochs: float) -> str:
    return f"{float(f'{epochs:.2g}'):,.0f}"


def _worse_than_constant(case: Case) -> Symptom | None:
    """Find an error that is above that of the best constant, and does not come down."""
    if not case.has_curve:
        return None
    level = case.exact.variance.mean()
    best_S = case.mse_SK[:, case.epochs_K > 0.5 * case.epochs_K[-1]].min(axis=1)
    bad_S = (best_S > level * (1 + SURE * case.noise)) & ~case.falling_S
    if not bad_S.any() or not _most(bad_S):
        return None
    final = case.final_S[bad_S].mean()
    return Symptom(
        "worse-than-constant",
        "fault",
        "After training, the network is worse than a constant would be.",
        f"In {_of(bad_S)} seeds the error is {_show(final)}; the best constant has "
        f"{_show(level)}. It did not come down over the last half of the training: "
        f"{_show(_half(case, bad_S))} at epoch {_half_epoch(case)}, "
        f"{_show(case.mse_SK[bad_S, -1].mean())} at the end.",
        "Check that the optimiser moves the parameters at all. If the error leaps about, lower the "
        f"learning rate: --set learning_rate={case.task.learning_rate / 10:.1g}",
        f"error {_show(final)}",
        weight=float(final / level),
    )


def _got_worse(case: Case) -> Symptom | None:
    """Find a curve all of whose last quarter is far above what had been reached before."""
    bad_S = case.risen_S & ~case.learned_S
    if not bad_S.any() or not _most(bad_S) or _worse_than_constant(case):
        return None
    best_S = case.mse_SK.min(axis=1)
    return Symptom(
        "got-worse",
        "warning",
        "Training lost again what it had learned.",
        f"In {_of(bad_S)} seeds the error had been down to {_range(best_S[bad_S])} and is "
        f"{_range(case.mse_SK[bad_S, -1])} at the end, and as high throughout the last quarter.",
        f"Lower the learning rate: --set learning_rate={case.task.learning_rate / 3:.1g}",
        f"{_range(best_S[bad_S])}, then {_range(case.mse_SK[bad_S, -1])}",
        weight=float((case.mse_SK[:, -1] / best_S).max()),
    )


_LEAST_STEPS, _GROWS_P, _GROWS_BY = 20, 1e-5, 2.0


def _error_grows(case: Case) -> Symptom | None:
    """Find an error that at late steps is a multiple of that at early ones, beyond luck.

    Only steps count at which the path has its full variance: before, the network sees smaller
    inputs, and the first ones have no, or little, past.
    """
    variance_T = case.exact.variance
    t = np.flatnonzero(variance_T > 0.95 * variance_T[-1])
    t = t[t >= 2]  # From t = 3 on.
    # Neighbouring steps have much of their luck in common: squares correlate by rho^2.
    alike = case.task.rho**2
    independent = len(t) * (1 - alike) / (1 + alike)
    if independent < _LEAST_STEPS:
        return None
    log_ST = np.log(np.maximum(case.step_mse_ST[:, t], 1e-300) / variance_T[t])
    third = len(t) // 3
    rise_S = np.median(log_ST[:, -third:], axis=1) - np.median(log_ST[:, :third], axis=1)
    correlation, p = _spearman(log_ST.mean(axis=0), independent)
    by = float(np.exp(np.median(rise_S)))
    sure = correlation > 0.6 and p < _GROWS_P and by > _GROWS_BY
    if not sure or np.mean(rise_S > np.log(1.5)) < 0.8:
        return None
    early = float(np.median(case.step_mse_ST[:, t[:third]]))
    late = float(np.median(case.step_mse_ST[:, t[-third:]]))
    return Symptom(
        "error-grows",
        "fault",
        "The error grows with the time step: the later, the worse.",
        f"The error is {_show(early)} over t = {t[0] + 1} to {t[third - 1] + 1} and {_show(late)} "
        f"over t = {t[-third] + 1} to {t[-1] + 1} (medians), {by:.1f} times as much, while the "
        f"variance of the target stays the same (rank correlation with t "
        f"{correlation:.2f}, p = {p:.0e}).",
        "Something adds up from step to step that should not: check that the hidden state starts "
        "anew with each path, that it is the same code that trains and that predicts, and that "
        "training sees paths as long as the evaluation does.",
        f"{by:.1f} times as much",
        weight=by,
    )


def _spearman(values: Array, independent: float) -> tuple[float, float]:
    """Return the rank correlation of values with their order, and its two-sided p-value.

    So many of them count as independent.
    """
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    r = float(np.corrcoef(np.arange(len(values)), ranks)[0, 1])
    student = abs(r) * np.sqrt((independent - 2) / max(1 - r**2, 1e-12))
    return r, float(2 * stdtr(independent - 2, -student))


def _learned(case: Case) -> Symptom | None:
    # Those that did not end ok have learned nothing: survivors alone are not most.
    if case.learned_S.sum() * 2 <= case.asked:
        return None
    if case.has_lag:
        level = float(case.exact.memoryless.mean())
        headline = "The network learned to use the previous value."
        what = (
            f"the memoryless yardstick ({_show(level)}, the least error of anything that sees the "
            "present value only)"
        )
    else:
        level = float((1 - LEARNED_R2) * case.exact.variance.mean())
        headline = "The network learned the function."
        what = f"{1 - LEARNED_R2:.0%} of the variance of the target ({_show(level)})"
    below_SK = case.mse_SK < level
    got_S = below_SK.any(axis=1) & case.learned_S
    if not got_S.any():
        return None
    first_S = below_SK.argmax(axis=1)[got_S]
    epochs, time = case.epochs_K[first_S], ""
    if case.seconds_SK is not None:
        time = f"{np.median(case.seconds_SK[got_S, first_S]):.3g} s"
    count = f"{int(got_S.sum())} of {case.asked}"
    return Symptom(
        "learned",
        "good",
        headline,
        f"In {count} seeds the error fell below {what}: at epoch "
        f"{np.median(epochs):.0f}{_spread(epochs)}{f', after {time} of training' if time else ''}"
        f"{' (medians)' if got_S.sum() > 1 else ''}; at the end it is "
        f"{_range(case.final_S[got_S])}.",
        brief=f"{count} seeds, epoch {np.median(epochs):.0f}" + f", {time}" * bool(time),
    )


RULES: tuple[Callable[[Case], Symptom | None], ...] = (
    _memoryless,
    _worse_than_constant,
    _got_worse,
    _error_grows,
    _stuck_seed,
    _not_converged,
    _learned,
)


def _most(found_S: Which) -> bool:
    return bool(found_S.sum() * 2 > len(found_S))


def _of(found_S: Which) -> str:
    return f"{int(found_S.sum())} of {len(found_S)}"


def _half(case: Case, chosen_S: Which) -> float:
    return float(case.mse_SK[chosen_S, len(case.epochs_K) // 2].mean())


def _half_epoch(case: Case) -> int:
    return int(case.epochs_K[len(case.epochs_K) // 2])


def _per_step(case: Case) -> float:
    """Return the relative half width of the interval of the error at one step, over the seeds."""
    return 2 * float(np.sqrt(FOURTH_MOMENT / (case.task.eval_paths * len(case.seeds))))


def signed(weight: float) -> str:
    """Return a weight as it follows another term: `+ 0.1`."""
    return f"{'+' if weight >= 0 else '-'} {abs(weight):g}"


def _spread(values: Array) -> str:
    return f" ({values.min():.0f} to {values.max():.0f})" if values.min() < values.max() else ""


def _range(values: Array) -> str:
    low, high = _show(values.min()), _show(values.max())
    return low if low == high else f"{low} to {high}"


def _show(value: float) -> str:
    return f"{value:.3g}"
