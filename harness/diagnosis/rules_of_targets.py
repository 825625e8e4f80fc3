"""Rules on what the network follows: the function, a part of it, or another one.

Of trainings it is known by the yardsticks, of predictions by the terms that they contain. Shape
suffixes: S seeds, T time steps.
"""

from __future__ import annotations

import numpy as np

from harness.diagnosis import wording
from harness.diagnosis.observed import FOURTH_MOMENT, LEARNED_R2, SURE, Observed, rule
from harness.diagnosis.outputs import FEW_ROWS, Outputs
from harness.diagnosis.rules_of_lags import elsewhere, present_only, said_of, seeds_with
from harness.diagnosis.types import Evidence
from harness.diagnosis.wording import most, span
from harness.tables.numbers import short


@rule("other-inputs", "warning", "The inputs are not those of the task.")
def other_inputs(observed: Observed) -> Evidence | None:
    """Find predictions for another process."""
    if (outputs := observed.outputs) is None:
        return None
    process, rho = outputs.process, outputs.task.rho
    differences = []
    if outputs.other_rho:
        differences.append(
            f"x_t depends on x_(t-1) with a coefficient of {process.rho:.3f} ± "
            f"{2 * process.rho_error:.3f}, the task has rho = {rho:g}"
        )
    if outputs.other_noise:
        differences.append(
            f"their noise has the variance {process.variance:.3g}, that of the task 1"
        )
    if not outputs.predictions.starts_at_zero:
        differences.append("x_0 is not 0 in all paths")
    if not differences:
        return None
    only_rho = outputs.other_rho and len(differences) == 1 and abs(process.rho) < 0.995
    rounded = round(process.rho, 2) + 0.0  # Never -0.
    return Evidence(
        f"Of x, {'; '.join(differences)} ({outputs.size}). What is said here is computed for the "
        "inputs as they are, but predictions of a network that was trained on others may be poor "
        "for it.",
        f"If these inputs are meant, name their coefficient: --set rho={rounded:g}"
        if only_rho
        else "Make the inputs as x_0 = 0, x_t = rho*x_(t-1) + N(0, 1).",
    )


@rule("no-input", "fault", "The predictions do not depend on the inputs.")
def no_input(observed: Observed) -> Evidence | None:
    """Find the same prediction in all rows, or in all rows of each time step."""
    outputs = observed.outputs
    if outputs is None or not (same := outputs.same_for_any_input):
        return None
    return Evidence(
        f"{same}. {outputs.errors}.",
        "Check that the file holds the outputs of each step; then that the inputs reach the "
        "network, and that its units are not dead or saturated. If they are, train anew from "
        "another start, or with a lower learning rate.",
    )


@rule(
    "wrong-sign",
    "fault",
    "The training target and the evaluation target differ in the sign of the lag term, so the "
    "network learns something else than it is scored on.",
)
def wrong_sign(observed: Observed) -> Evidence | None:
    """See the task itself, or the coefficient of the lag term."""
    w, lag, outputs = observed.task.lag_weight, observed.task.lag, observed.outputs
    followed, wanted = wording.target(-w, lag), wording.target(w, lag)
    program = (
        f"compute the target of the loss as {wanted}, as the evaluation does; if the other sign is "
        "meant, fix the evaluation."
    )
    if outputs is not None and outputs.wrong_sign:
        level = short(observed.level("wrong_sign"))
        return Evidence(
            f"{outputs.contained}: what is learned perfectly with the wrong sign has an error of "
            f"{level}.",
            f"In your program, {program}",
        )
    if not observed.sign_on_purpose:
        return None
    gap_shows, gap = _gap(observed)
    steps_show, steps = _wrong_sign_steps(observed)
    turned_S = seeds_with(observed, "turned")
    terms = f" {said_of(observed, turned_S)}." if most(turned_S) else ""
    return Evidence(
        f"The task says so itself: train_sign = -1 with lag_weight = {w:g}. The loss is taken "
        f"against {followed}, the error against {wanted}: the sign of the lag term differs. "
        f"{gap}{f' {steps}' if steps_show or gap_shows else ''}{terms}",
        f"Fix the loss: {wording.run_without(observed.task, train_sign=1)} (the same task with "
        f"train_sign = 1). In a program of your own, {program}",
        f"error {short(observed.final_S.mean())}",
        weight=steps_show + gap_shows,
    )


def _gap(observed: Observed) -> tuple[bool, str]:
    """Return whether the gap between loss and error is what the sign costs, in words."""
    cost, curve = observed.level("wrong_sign"), observed.curve
    if curve is None:
        return False, ""
    mse, loss = float(curve.mse_SK[:, -1].mean()), float(curve.loss_SK[:, -1].mean())
    if loss < 0.5 * mse and abs((mse - loss) / cost - 1) < 0.25:
        return True, (
            f"The training loss has fallen to {short(loss)} while the error on held-out paths "
            f"stays at {short(mse)}: the gap of {short(mse - loss)} is what the sign costs "
            f"({short(cost)}, the mean of the wrong-sign yardstick 12 w^2 s^2)."
        )
    return False, (
        f"The figures do not show it clearly yet: the training is not far enough (loss "
        f"{short(loss)}, error {short(mse)}). However long it goes on, the error cannot come "
        f"far below {short(cost)}, the wrong-sign yardstick."
    )


def _wrong_sign_steps(observed: Observed) -> tuple[bool, str]:
    """Return whether the errors at single steps are those of the wrong sign, and how near."""
    level, mse_T = observed.exact.wrong_sign, observed.step_mse_ST.mean(axis=0)
    lag, first = observed.task.lag, float(observed.first_S.mean())
    later = float(observed.later_S.mean())
    ideal = float(level[lag:].mean())
    near = abs(later / ideal - 1) < 0.15 + SURE * observed.noise
    near_each = np.abs(np.log(mse_T[lag:] / level[lag:])) < np.log(2)
    begins, without = f"t >= {lag + 1}", wording.without_past(lag)
    # With a broken gradient, the network starts from the wrong state for ever.
    small = (0.1 if observed.task.gradient == "exact" else 0.5) * level.mean()
    if not (near and first < small and near_each.all()):
        to_come = " and the error will go to zero"
        return False, (
            f"Per step it is not on the yardstick yet: {short(later)} against {short(ideal)} at "
            f"{begins}, and {short(first)} at {without}, where the lag term vanishes"
            f"{to_come if observed.task.gradient == 'exact' else ''}."
        )
    paths, seeds = observed.task.eval_paths, len(observed.seeds)
    known = 2 * float(np.sqrt(FOURTH_MOMENT / (paths * seeds)))
    return True, (
        f"The error sits on the wrong-sign yardstick, {short(level[-1])}, at every {begins} (on "
        f"average {later / ideal:.2f} of it; {paths} held-out paths and {seeds} "
        f"seed{'s' * (seeds > 1)} tell the error at one step to ±{known:.0%}) and is "
        f"{'near zero' if first < 0.1 * level.mean() else 'smaller'} at {without} "
        f"({short(first)}), where the lag term vanishes."
    )


@rule(
    "unsure", "warning", "There is too little in the file to tell what the predictions are made of."
)
def unsure(observed: Observed) -> Evidence | None:
    """Find predictions whose terms, or that of the lag, cannot be told."""
    outputs = observed.outputs
    if outputs is None or (outputs.terms is not None and not outputs.lag_unsure):
        return None
    if outputs.terms is None:
        alone = outputs.lags_alike
        same = f" {outputs.past} is {alone} in all rows that are scored." if alone else ""
        return Evidence(
            f"It holds {outputs.size}, which do not tell x_t^2, {outputs.past}^2 and a constant "
            f"apart.{same}",
            _longer_paths(outputs)
            if alone
            else "Give more or longer paths: 100 paths of 100 steps are plenty.",
        )
    return Evidence(
        f"{outputs.contained}.",
        "Give more paths: the interval shrinks with the square root of their number.",
    )


def _longer_paths(outputs: Outputs) -> str:
    lag = outputs.task.lag
    first = "the first step of a path has" if lag == 1 else f"the first {lag} steps of a path have"
    return f"Give longer paths: {first} no {outputs.past} but {'x_0' if lag == 1 else '0'}."


@rule("other-lag", "fault", "The predictions contain a lag term, and the target has none.")
def unwanted_lag(observed: Observed) -> Evidence | None:
    """Find a lag term where none should be."""
    outputs = observed.outputs
    if outputs is None or outputs.w or outputs.lag is None or outputs.lag.near(0, outputs.near):
        return None
    return Evidence(
        f"{outputs.contained}.",
        f"If the target is meant to have one, say so: --set lag_weight={outputs.lag.value:.2g}",
    )


@rule(
    "other-lag",
    "warning",
    "The predictions contain the lag term, but with another weight than the target.",
)
def other_lag(observed: Observed) -> Evidence | None:
    """Find a lag term of another weight."""
    outputs = observed.outputs
    if outputs is None or not outputs.w or outputs.lag is None:
        return None
    if outputs.lag.near(outputs.w, outputs.near) or present_only(observed):
        return None
    return Evidence(
        f"{outputs.contained}.",
        "Train longer if its weight is between 0 and that of the target; otherwise check the "
        "target of the loss, and name the weight that is meant: --set lag_weight=...",
    )


@rule("other-present", "fault", "The predictions do not follow the square of the present value.")
def other_present(observed: Observed) -> Evidence | None:
    """Find predictions that do not contain x_t^2 once."""
    outputs = observed.outputs
    if outputs is None or outputs.terms is None or outputs.follow_present:
        return None
    return Evidence(
        f"They contain {outputs.terms.now} times x_t^2; the target has it once. {outputs.errors}.",
        "Check that prediction and x of a row belong to the same time step and path, and that "
        "nothing is scaled; then train longer.",
    )


@rule("other-constant", "warning", "The predictions are off by the same amount everywhere.")
def other_constant(observed: Observed) -> Evidence | None:
    """Find a constant that is most of an error too large to count as learned."""
    outputs = observed.outputs
    if outputs is None or outputs.terms is None or outputs.lag is None:
        return None
    if learned_lag.look(observed) or learned_function.look(observed):
        return None
    constant, mse = outputs.terms.constant, outputs.predictions.mse(outputs.w)
    without = outputs.predictions.mse(outputs.w, constant.value)
    if not outputs.lag.near(outputs.w, outputs.near) or without > mse / 2 or constant.holds(0):
        return None
    which = "large" if constant.value > 0 else "small"
    return Evidence(
        f"{outputs.contained}. They are {abs(constant.value):.3g} too {which} everywhere: the "
        f"constant in them is {constant}, in the target 0. Without it the error is {without:.3g}.",
        "Check the bias of the last layer, and whether the targets were shifted or scaled.",
    )


@rule(
    "imprecise",
    "warning",
    "The predictions contain the lag term, but other errors are larger than it.",
)
def imprecise(observed: Observed) -> Evidence | None:
    """Find predictions with the right lag term and an error above the yardstick without it."""
    outputs = observed.outputs
    if outputs is None or not outputs.right_lag:
        return None
    level = observed.level("without_lag")
    if observed.final_S[0] < level or other_constant.look(observed):
        return None
    return Evidence(
        f"{outputs.contained}; {_least(observed)} is {short(level)}.",
        "Train longer, or with a wider network.",
    )


def _least(observed: Observed) -> str:
    """Say what the yardstick without the lag is."""
    lag = observed.task.lag
    seen = "the present value only" if lag == 1 else f"fewer than {lag} steps back"
    return f"the least error of anything that sees {seen}"


@rule("learned", "good", "The network learned to use the earlier value.")
def learned_lag(observed: Observed) -> Evidence | None:
    """Find errors that no network can have which does not see as far back as the lag."""
    if elsewhere.look(observed):
        return None  # With a large rho, something farther back does as well.
    level = observed.level("without_lag")
    if (outputs := observed.outputs) is not None:
        if not outputs.right_lag or observed.final_S[0] >= level:
            return None
        error = short(observed.final_S[0])
        return Evidence(
            f"{outputs.contained}. The first, {error}, is below {short(level)}, {_least(observed)}."
        )
    what = f"{observed.yardstick} ({short(level)}, {_least(observed)})"
    return _learned(observed, level, what) if observed.has_lag else None


@rule("learned", "good", "The network learned the function.")
def learned_function(observed: Observed) -> Evidence | None:
    """Find errors that are a small part of the variance, where there is nothing to remember."""
    variance = observed.level("variance")
    if observed.has_lag:
        return None
    if (outputs := observed.outputs) is not None:
        mse = float(observed.final_S[0])
        # Where the lag term of the predictions is not known, nothing is known to be learned.
        known = not outputs.w and outputs.lag is not None and outputs.lag.near(0, outputs.near)
        few = len(outputs.predictions.x_R) < FEW_ROWS
        if few or not known or not mse < (1 - LEARNED_R2) * variance:
            return None
        return Evidence(
            f"The error is {short(mse)}, {mse / variance:.2%} of the variance of the target."
        )
    level = (1 - LEARNED_R2) * variance
    what = f"{1 - LEARNED_R2:.0%} of the variance of the target ({short(level)})"
    return _learned(observed, level, what)


def _learned(observed: Observed, level: float, what: str) -> Evidence | None:
    """Find that most seeds ended below a level, and when they fell below it."""
    if (curve := observed.curve) is None:
        return None
    below_SK = curve.mse_SK < level
    some_S = below_SK.any(axis=1) & observed.learned_S
    # Trials that did not end ok have learned nothing: the survivors alone are not most.
    if observed.learned_S.sum() * 2 <= observed.asked or not some_S.any():
        return None
    first_S = below_SK.argmax(axis=1)[some_S]
    epochs, time = curve.epochs_K[first_S], ""
    if curve.seconds_SK is not None:
        time = f"{np.median(curve.seconds_SK[some_S, first_S]):.3g} s"
    spread = f" ({epochs.min():.0f} to {epochs.max():.0f})" if np.ptp(epochs) else ""
    seeds, lag, proven = f"{int(some_S.sum())} of {observed.asked}", observed.task.lag, ""
    if lag > 1 and observed.memory_S is not None:
        number = int(np.sum(observed.memory_S[observed.learned_S] >= lag))
        proven = (
            f" In {number} of {observed.asked} it provably uses {wording.past(lag)} or something "
            "before it."
        )
    return Evidence(
        f"In {seeds} seeds the error fell below {what}: at epoch {np.median(epochs):.0f}{spread}"
        f"{f', after {time} of training' if time else ''}"
        f"{' (medians)' if some_S.sum() > 1 else ''}; at the end it is "
        f"{span(observed.final_S[some_S])}.{proven}",
        brief=f"{seeds} seeds, epoch {np.median(epochs):.0f}" + f", {time}" * bool(time),
    )
