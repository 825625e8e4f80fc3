"""Rules on how far back the network remembers, and on which step back it learned.

They go by the coefficients of x_{t-k}^2 in the outputs, and by how far back the errors prove that
it looks. Of a run they speak where it is at rest: on the way to the lag term, a healthy network has
it spread over several steps, or lives on a nearer value that is correlated with it. Shape suffix: S
seeds.
"""

from __future__ import annotations

import numpy as np

from harness.diagnosis import wording
from harness.diagnosis.lag_terms import NEAR, LagTerms, Verdict, contained
from harness.diagnosis.observed import Observed, rule
from harness.diagnosis.outputs import Outputs
from harness.diagnosis.types import Evidence, Which
from harness.diagnosis.wording import count, end, halfway, most, past
from harness.inputs.commands import command
from harness.tables.numbers import short

_CORRELATED = 0.25
"""A nearer value is of use if its square is correlated with that of the lag by more."""


def seeds_with(observed: Observed, verdict: Verdict) -> Which:
    """Return the seeds whose predictions have such a lag term."""
    if not observed.lag_terms:
        return observed.none_S
    return np.array([t is not None and t.verdict == verdict for t in observed.lag_terms])


def at_rest(observed: Observed, verdict: Verdict) -> Which:
    """Return the seeds that stay with such a lag term; of predictions, whether they have it.

    Their errors may rise: that of a network which learns something else better and better does.
    """
    rest_S = observed.curve.stays_S if observed.curve is not None else ~observed.none_S
    at_rest_S: Which = seeds_with(observed, verdict) & rest_S
    return at_rest_S


def said_of(observed: Observed, some_S: Which) -> str:
    """Say what outputs of some seeds contain, and what the target has."""
    w, lag = observed.task.lag_weight, observed.task.lag
    begin = f"In {count(some_S)} seeds the" if observed.seeds else "Your"
    held = contained(_of(observed, some_S))
    return f"{begin} predictions contain {held}; the target has {w:+g} times {past(lag)}^2"


def _of(observed: Observed, some_S: Which) -> list[LagTerms]:
    pairs = zip(observed.lag_terms, some_S, strict=True)
    return [terms for terms, some in pairs if some and terms is not None]


@rule(
    "wrong-sign",
    "fault",
    "The network learned the lag term with the wrong sign, though the task asks for the right one.",
)
def turned(observed: Observed) -> Evidence | None:
    """Find a backend that turns the sign of the lag term."""
    if observed.outputs is not None or observed.sign_on_purpose:
        return None
    some_S = at_rest(observed, "turned")
    if not most(some_S):
        return None
    return Evidence(
        f"{said_of(observed, some_S)}. The task has train_sign = 1, so it is the backend that "
        "turns it: it trains towards another target than it is given.",
        "Look for what the backend does to its targets: "
        f"`{command('parity', '--backends', 'NAME')}` compares 20 steps; what passes it goes wrong "
        "later.",
        f"{count(some_S)} seeds",
        weight=float(some_S.sum()),
    )


@rule(
    "memoryless",
    "fault",
    "The network uses only the present value and has not learned to use the one before.",
)
def memoryless(observed: Observed) -> Evidence | None:
    """Find no lag term, or an error at rest where it is without one."""
    return present_only(observed) if observed.task.lag == 1 else None


@rule(
    "memoryless",
    "warning",
    "The network uses only the present value and has not found the earlier one yet.",
)
def memoryless_yet(observed: Observed) -> Evidence | None:
    """Find the same at a longer lag, where a healthy network rests for long, too."""
    return present_only(observed) if observed.task.lag > 1 else None


def present_only(observed: Observed) -> Evidence | None:
    """Find no lag term, or an error at rest where it is without one; at any lag."""
    if (outputs := observed.outputs) is not None:
        return _without_lag_term(observed, outputs)
    some_S, curve = observed.memoryless_S, observed.curve
    if curve is None or not most(some_S):
        return None
    lag = observed.task.lag
    level = observed.exact.memoryless[lag:].mean()
    later, first = observed.later_S[some_S].mean(), observed.first_S[some_S].mean()
    return Evidence(
        f"In {count(some_S)} seeds the error at t >= {lag + 1} is {short(later)}, "
        f"{later / level:.2f} times the memoryless yardstick ({short(level)}, the least error of "
        f"anything that sees x_t only; 1.5 times is x_t^2 alone), it is lower at "
        f"{wording.without_past(lag)} ({short(first)}), where there is nothing to remember, and "
        "over the last half of the training it has not moved "
        f"({halfway(curve, some_S)}, {end(curve, some_S)} at the end).",
        _WITHOUT_PAST if lag == 1 else f"{_FAR} {_WITHOUT_PAST}",
        f"error {short(later)}, {count(some_S)} seeds",
        weight=float(some_S.sum()),
    )


_WITHOUT_PAST = (
    "Check that the hidden state is carried from each step to the next, that the gradient goes "
    "back through it, and that the recurrent weights are among the trained parameters. If they "
    "are, train longer: a network can rest there for a while before it finds the lag."
)
_FAR = (
    "The farther the lag, the longer a healthy network rests here: try a smaller one first "
    "(--set lag=1)."
)


def _without_lag_term(observed: Observed, outputs: Outputs) -> Evidence | None:
    w, lag = outputs.w, outputs.lag
    if not w or lag is None or not lag.near(0, outputs.near):
        return None
    if not (lag.holds(0) or abs(lag.value) < abs(w) / 20) or outputs.use_others:
        return None
    return Evidence(
        f"{outputs.contained}: the least error of anything that sees the present value only is "
        f"{short(observed.level('memoryless'))}.",
        "Train longer; if that does not help, check that the hidden state is carried from each "
        "step to the next (up to Flux 0.14, Flux.reset! comes between sequences, not between "
        "steps).",
    )


@rule(
    "wrong-lag",
    "fault",
    "The network learned the value at another step back than the one in the target.",
)
def elsewhere(observed: Observed) -> Evidence | None:
    """Find the weight of the lag term at one other step back."""
    some_S = at_rest(observed, "elsewhere")
    if not most(some_S):
        return None
    other, lag = _of(observed, some_S)[0].mistaken, observed.task.lag
    assert other is not None  # As the verdict says.
    off = f"{abs(lag - other)} step{'s' * (abs(lag - other) > 1)}"
    short_window = ", or a window of the past that is too short" if other < lag else ""
    return Evidence(
        f"{said_of(observed, some_S)}.",
        f"Check how {'the backend uses' if observed.seeds else 'your program computes'} the target "
        f"of the loss: the lag is off by {off}. The cause may be an index{short_window}. If "
        f"{past(other)} is meant, say so: --set lag={other}",
        f"{past(other)}",
        weight=float(some_S.sum()),
    )


@rule("wrong-lag", "warning", "The lag term is spread over several steps back.")
def spread(observed: Observed) -> Evidence | None:
    """Find the weight of the lag term in the sum over several steps back."""
    some_S = at_rest(observed, "spread")
    if not most(some_S):
        return None
    total = np.mean([terms.sum for terms in _of(observed, some_S)])
    return Evidence(
        f"{said_of(observed, some_S)}. Over all steps back they sum to {total:.2g}: the network "
        "knows about when, but not at which step.",
        f"{_LONGER} If it stays, check that the target of the loss has one earlier value, not a "
        "mean over several.",
        f"{count(some_S)} seeds" if observed.seeds else "",
        weight=float(some_S.sum()),
    )


_LONGER = (
    "Train longer, with another cell (--set cell=gru) or a wider network: the farther the lag, the "
    "longer a healthy network takes to find it."
)


@rule(
    "wrong-lag",
    "warning",
    "The network lives on a nearer value that is correlated with the one in the target.",
)
def nearer(observed: Observed) -> Evidence | None:
    """Find a memory that is proven, but does not reach the lag."""
    if elsewhere.look(observed) or spread.look(observed):
        return None
    if (outputs := observed.outputs) is not None:
        return _nearer_terms(observed, outputs)
    lag, rho, memory_S = observed.task.lag, observed.task.rho, observed.memory_S
    if memory_S is None or observed.curve is None:
        return None
    some_S = (memory_S > 0) & (memory_S < lag) & observed.curve.flat_S
    if observed.lag_terms:
        some_S &= [terms is None or not terms.has_lag for terms in observed.lag_terms]
    if not most(some_S):
        return None
    reached = int(np.median(memory_S[some_S]))
    return Evidence(
        f"In {count(some_S)} seeds it provably uses {past(reached)} or something before it, but "
        f"nothing shows that it uses {past(lag)}. With rho = {rho:g} the two are correlated by "
        f"{rho ** (lag - reached):.2g}.",
        _LONGER,
        f"{past(reached)}, {count(some_S)} seeds",
        weight=float(some_S.sum()),
    )


def _nearer_terms(observed: Observed, outputs: Outputs) -> Evidence | None:
    """Find no lag term, but nearer values whose squares are correlated with it."""
    terms, lag, w, rho = outputs.lag_terms, outputs.task.lag, outputs.w, observed.task.rho
    if terms is None or outputs.lag is None or not outputs.lag.near(0, outputs.near):
        return None
    of_use = [k for k in terms.elsewhere if k < lag and rho ** (2 * (lag - k)) > _CORRELATED]
    if terms.has_lag or not of_use or sum(terms.terms[k].value for k in of_use) / w < NEAR:
        return None
    near = max(of_use)
    return Evidence(
        f"{said_of(observed, ~observed.none_S)}. {outputs.errors}. With rho = {rho:.2g}, "
        f"{past(near)} is correlated with {past(lag)} by {rho ** (lag - near):.2g}.",
        _LONGER,
    )


@rule("other-lag", "warning", "The network learned a part of the lag term, and rests there.")
def part(observed: Observed) -> Evidence | None:
    """Find trainings that rest with less of the lag term than the target has."""
    some_S = at_rest(observed, "part")
    if observed.outputs is not None or not most(some_S):
        return None
    lag, w = observed.task.lag, observed.task.lag_weight
    shares = np.array([terms.terms[lag].value / w for terms in _of(observed, some_S)])
    low, high = (f"{share:.0%}" for share in (shares.min(), shares.max()))
    return Evidence(
        f"{said_of(observed, some_S)}: {low if low == high else f'{low} to {high}'} of it. Over "
        "the last half of the training the error has not moved.",
        f"{_LONGER} If it stays, check the weight in the target of the loss.",
        f"{shares.mean():.0%} of it",
        weight=float(some_S.sum()),
    )
