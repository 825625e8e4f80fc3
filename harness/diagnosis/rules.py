"""The book of rules: the same for runs and for predictions that were made elsewhere.

A rule compares errors with the yardsticks. It reads what there is: errors per time step and
yardsticks always, the curve of a training, or the outputs themselves, where they are known
(`harness.diagnosis.observed`). It says something only where nothing else explains the errors.
docs/diagnosis.md has the thresholds, the reasons for them, and how often they are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.diagnosis import (
    rules_of_curves,
    rules_of_lags,
    rules_of_steps,
    rules_of_targets,
)
from harness.diagnosis.observed import Observed
from harness.diagnosis.types import Evidence, Id, Rule

RULES = (
    rules_of_targets.other_inputs,
    rules_of_targets.no_input,
    rules_of_targets.wrong_sign,
    rules_of_lags.turned,
    rules_of_steps.broken_gradient,
    rules_of_steps.untrained_start,
    rules_of_steps.first_steps,
    rules_of_targets.unsure,
    rules_of_lags.elsewhere,
    rules_of_lags.spread,
    rules_of_lags.nearer,
    rules_of_lags.memoryless,
    rules_of_lags.memoryless_yet,
    rules_of_targets.unwanted_lag,
    rules_of_targets.other_lag,
    rules_of_lags.part,
    rules_of_targets.other_present,
    rules_of_curves.worse_than_constant,
    rules_of_curves.got_worse,
    rules_of_steps.error_grows,
    rules_of_steps.few_steps,
    rules_of_targets.other_constant,
    rules_of_targets.imprecise,
    rules_of_curves.stuck_seed,
    rules_of_curves.not_converged,
    rules_of_targets.learned_lag,
    rules_of_targets.learned_function,
)

_TRUE_OF_ANY_TARGET: set[Id] = {
    "other-inputs",
    "wrong-sign",
    "broken-gradient",
    "first-steps",
    "error-grows",
    "few-steps",
}
"""All that is said of a network that follows the wrong sign: it cannot learn anything else."""
_NOT_EVEN: set[Id] = {"broken-gradient", "first-steps", "error-grows", "few-steps"}
"""With one of these, the network has not learned the function at all steps."""
_OF_ALL_STEPS: set[Id] = {"learned", "imprecise", "other-constant"}
"""What is said of all steps alike: with one of those, it is not true, or not the cause."""

_EXPLAINED: dict[Id, set[Id]] = {
    "wrong-lag": {"memoryless", "other-lag", "worse-than-constant", "not-converged"},
    "other-lag": {"not-converged"},
}
"""What is not said beside another rule, which explains it."""


def observe(observed: Observed) -> Iterator[tuple[Rule, Evidence]]:
    """Yield the rules that apply, with the evidence."""
    said: set[Id] = set()
    for rule, look in RULES:
        if "no-input" in said:  # All others speak of what the network makes of its inputs.
            return
        if "wrong-sign" in said and rule.id not in _TRUE_OF_ANY_TARGET:
            continue
        if rule.id in _OF_ALL_STEPS and said & _NOT_EVEN:
            continue
        if any(rule.id in _EXPLAINED.get(one, ()) for one in said):
            continue
        if (evidence := look(observed)) is not None:
            said.add(rule.id)
            yield rule, evidence
