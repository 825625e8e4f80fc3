"""Rules on how the error came to be what it is: whether it still falls, rose again, or got stuck.

They need the curve of a training, except that predictions may be worse than a constant, too. Shape
suffixes: S seeds, K evaluations.
"""

from __future__ import annotations

import numpy as np

from harness.backend.protocol import Array
from harness.diagnosis import wording
from harness.diagnosis.observed import (
    FARTHEST_FORECAST,
    LEARNED_R2,
    SURE,
    TARGET_LAG_SKILL,
    TARGET_R2,
    Observed,
    rule,
)
from harness.diagnosis.types import Evidence
from harness.diagnosis.wording import end, halfway, in_seeds, most, span
from harness.inputs.commands import command
from harness.stats.forecast import Forecast, forecast
from harness.tables.numbers import short

_WORSE = 1.1
"""A constant is better than predictions if their error is this many times its own."""


@rule(
    "worse-than-constant", "fault", "After training, the network is worse than a constant would be."
)
def worse_than_constant(observed: Observed) -> Evidence | None:
    """Find an error above that of the best constant, which does not come down."""
    level = observed.level("variance")
    limit = level * (1 + SURE * observed.noise)
    some_S, curve = observed.final_S > max(limit, _WORSE * level), observed.curve
    if curve is not None:
        some_S = (curve.best_later_S() > limit) & ~curve.falling_S & curve.long_enough
    if not most(some_S):
        return None
    history = ""
    if curve is not None:
        history = (
            " It did not come down over the last half of the training: "
            f"{halfway(curve, some_S)}, {end(curve, some_S)} at the end."
        )
    final = observed.final_S[some_S].mean()
    return Evidence(
        f"{in_seeds(observed, some_S)} error is {short(final)}; the best constant has "
        f"{short(level)}.{history}",
        "Check that the optimiser moves the parameters at all. If the error leaps about, lower the "
        f"learning rate: --set learning_rate={observed.task.learning_rate / 10:.1g}"
        if curve is not None
        else "Check that prediction and x of a row belong to the same time step and path.",
        f"error {short(final)}",
        weight=float(final / level) if level else np.inf,
    )


@rule("got-worse", "warning", "Training lost again what it had learned.")
def got_worse(observed: Observed) -> Evidence | None:
    """Find curves whose last quarter is all far above what had been reached before."""
    if (curve := observed.curve) is None:
        return None
    some_S = curve.risen_S & ~observed.learned_S
    if not most(some_S) or worse_than_constant.look(observed):
        return None
    best_S, last_S = curve.mse_SK.min(axis=1), curve.mse_SK[:, -1]
    return Evidence(
        f"{in_seeds(observed, some_S)} error had been down to {span(best_S[some_S])} and is "
        f"{span(last_S[some_S])} at the end, and as high throughout the last quarter.",
        f"Lower the learning rate: --set learning_rate={observed.task.learning_rate / 3:.1g}",
        f"{span(best_S[some_S])}, then {span(last_S[some_S])}",
        weight=float((last_S / best_S).max()),
    )


@rule("stuck-seed", "warning", "Some starts got stuck while the others learned.")
def stuck_seed(observed: Observed) -> Evidence | None:
    """Find seeds at rest above the yardstick without the lag, while most are far below it."""
    if (curve := observed.curve) is None or len(observed.seeds) < 3:
        return None
    final_S = observed.final_S
    if observed.has_lag:
        level = observed.level("without_lag")
        well_S, ill_S = final_S < level / 3, final_S > 0.9 * level
    else:
        level = (1 - LEARNED_R2) * observed.level("variance")
        well_S, ill_S = final_S < level, final_S > 10 * level
    rest_S = curve.flat_S & (observed.memoryless_S | ~curve.falling_S)
    stuck_S = ill_S & rest_S & (final_S > 10 * np.median(final_S))
    if not stuck_S.any() or well_S.sum() < 2 * stuck_S.sum():
        return None
    where = ""
    if (final_S[stuck_S] > observed.level("variance")).all():
        where = ", above the best constant"
    elif observed.memoryless_S[stuck_S].all():
        where = ", where a network is that uses the present value only"
    named = wording.seeds(observed.seeds, stuck_S)
    trials = command("show", wording.RUN, "--table", "trials")
    return Evidence(
        f"{named.capitalize()} came to rest at {span(final_S[stuck_S])}{where}: the error has not "
        f"moved over the last half of the training. The {int(well_S.sum())} that learned are at "
        f"{span(final_S[well_S])}.",
        f"Do not average over them, look at each seed: `{trials}`. "
        "Such starts get fewer with a lower learning rate, "
        f"--set learning_rate={observed.task.learning_rate / 3:.1g}, or a wider network, "
        f"--set hidden={2 * observed.task.hidden}",
        named,
        weight=float(stuck_S.sum()),
    )


@rule(
    "not-converged",
    "warning",
    "Training stopped before it was finished: the error is still falling.",
)
def not_converged(observed: Observed) -> Evidence | None:
    """Forecast when a target that is not reached yet will be."""
    if (curve := observed.curve) is None or observed.memoryless_S.any():
        return None
    if observed.task.gradient != "exact":
        return None  # To train longer is no remedy for that.
    # A seed that is at rest above its target does not tell when the others will reach it.
    moving_SK = curve.mse_SK[~curve.flat_S | observed.learned_S]
    ahead = None
    if not curve.flat_S.all():
        ahead = forecast(curve.epochs_K, moving_SK, observed.target)
    if ahead is None:
        return _falling_slowly(observed)
    task, now = observed.task, float(np.exp(np.log(moving_SK[:, -1]).mean()))
    known = observed.typical and not ahead.beyond
    longer = task.nearest_epochs(ahead.next_try if known else 4 * task.epochs)
    text = (
        f"The error is {short(now)}{_of_seeds(moving_SK)} "
        f"after {task.epochs} epochs and falls as the power "
        f"{ahead.power:.1f} of the epochs. {_forecast_words(observed, ahead, longer)}"
    )
    level = observed.level("without_lag")
    if observed.has_lag and now > level:
        past = "the past" if task.lag == 1 else wording.past(task.lag)
        text += (
            f" So far it is above {observed.yardstick} ({short(level)}): nothing shows yet that "
            f"the network will use {past}."
        )
    in_all = f"about {longer:,}" if known else f"more than {wording.epochs(ahead.low)}"
    return Evidence(
        text,
        f"Train longer: --set epochs={longer}",
        f"error {short(now)}, "
        + (f"{in_all} epochs in all" if observed.typical else "for how long cannot be told"),
        # What tells most comes first: a number of epochs, then a bound.
        weight=ahead.epochs if known else float(observed.typical),
    )


def _of_seeds(values_SK: Array) -> str:
    return f" (geometric mean of {len(values_SK)} seeds)" if len(values_SK) > 1 else ""


def _falling_slowly(observed: Observed) -> Evidence | None:
    """Find an error that falls steadily, but too slowly or too recently for a forecast."""
    curve = observed.curve
    if curve is None or not most(curve.falling_S):
        return None
    some_S, task = curve.falling_S, observed.task
    if observed.final_S[some_S].mean() < observed.target:
        return None
    return Evidence(
        f"{in_seeds(observed, some_S)} error falls steadily, from {halfway(curve, some_S)} to "
        f"{end(curve, some_S)} at the end. For how long that will go on cannot be told.",
        "Train four times as long and look again: --set "
        f"epochs={task.nearest_epochs(4 * task.epochs)}",
        f"error {short(observed.final_S[some_S].mean())}",
    )


def _forecast_words(observed: Observed, ahead: Forecast, longer: int) -> str:
    name = f"lag_skill {TARGET_LAG_SKILL}" if observed.has_lag else f"r2 {TARGET_R2}"
    target = f"{name} (error {short(observed.target)})"
    low, high = map(wording.epochs, (ahead.low, ahead.high))
    if not observed.typical:
        far = f" to a lag up to {FARTHEST_FORECAST}" * (observed.task.lag > FARTHEST_FORECAST)
        return (
            f"How long it takes to {target} cannot be told: that was measured for tanh networks "
            f"trained by Adam{far} only. Train four times as long and look again."
        )
    if ahead.beyond:
        return (
            f"To reach {target}, it takes more than {low} epochs in all, if it can be reached; "
            "train four times as long and look again."
        )
    return (
        f"To reach {target}, it takes about {longer:,} epochs in all, by a rule of thumb (between "
        f"{low} and {high})."
    )
