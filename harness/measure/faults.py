"""Names the fault of a backend that failed parity, by trying those that people make.

Each suspect is the reference with one fault. The backend and the suspects compute the same small
sample; a suspect that agrees with the backend in all of it is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from harness.backend import registry
from harness.backend.evidence import (
    EPOCHS,
    STAGES,
    Evidence,
    Make,
    Sample,
    Stage,
    Suspect,
    difference,
)
from harness.backend.model import Model
from harness.measure.rounding import name_rounding

CATALOGUE = "backends.faults:suspects"
# An agreement this many times worse than the best one is a coincidence.
_AS_GOOD = 10.0
# In float32 a small step is lost in the rounding of its parameter, so a suspect may be this much
# further off than a backend may. But it must explain nearly all of what is wrong.
_LENIENT = {"float32": 10.0, "float64": 1.0}
_LEFT = 0.05
# Faults that give way to any other that agrees: a mere number explains little, and a gradient that
# is cut where nothing is left of it is the whole one.
_WEAK: tuple[set[str], ...] = ({"multiple"}, {"truncated", "cut"})
_MOST_NAMED = 3


class Found(NamedTuple):
    """A suspect that agrees, and how well: the largest relative difference."""

    suspect: Suspect
    error: float


@dataclass
class Case:
    """A backend that failed, and what it computes on a sample."""

    make: Make
    sample: Sample
    tolerance: float
    got: Evidence = field(default_factory=dict)
    right: Evidence = field(default_factory=dict)
    stages: tuple[Stage, ...] = tuple(STAGES)

    def first_difference(self) -> Stage | None:
        """Observe stage after stage; return the first in which the backend differs."""
        for stage in self.stages:
            self.observe(stage)
            if difference(self.got, self.right) > self.tolerance:
                return stage
        return None

    def observe(self, stage: Stage) -> None:
        """Add what the backend and the reference compute at a stage."""
        self.right |= STAGES[stage](reference, self.sample)
        self.got |= STAGES[stage](self.make, self.sample)

    def agreement(self, suspect: Suspect, first: Stage, allowed: float) -> float:
        """Return the largest difference to a suspect, from the stage that tells most about it on.

        It stops at the first stage in which it is larger than allowed.
        """
        worst = 0.0
        for stage in sorted(self.stages, key=lambda stage: stage != first):
            want = STAGES[stage](suspect.make, self.sample)
            if not all(quantity in self.got for quantity in want):
                self.got |= STAGES[stage](self.make, self.sample)
            worst = max(worst, difference(self.got, want))
            if worst > allowed:
                break
        return worst


def reference(model: Model) -> Any:
    """Make the reference."""
    return registry.load("reference")(model, "cpu")


def suspects(sample: Sample, stage: Stage, got: Evidence, right: Evidence) -> Iterator[Suspect]:
    """Return the suspects of the catalogue for a difference that shows first at a stage."""
    catalogue = cast("Callable[..., Iterator[Suspect]]", registry.load(CATALOGUE))
    return catalogue(sample, stage, got, right)


def finite(evidence: Evidence) -> bool:
    """Return whether all is finite."""
    return all(np.isfinite(v).all() for arrays in evidence.values() for v in arrays.values())


def near(got: Evidence, right: Evidence, dtype: str, tolerance: float) -> float:
    """Return how far a suspect may be from what was computed."""
    return min(_LENIENT[dtype] * tolerance, _LEFT * difference(got, right))


def best(found: list[Found]) -> list[Found]:
    """Return those that agree as well as any; the weak ones only if there is no other."""
    if not found:
        return []
    least = max(min(one.error for one in found), np.finfo(float).eps)
    found = [one for one in found if one.error <= _AS_GOOD * least]
    for weak in _WEAK:
        found = [one for one in found if one.suspect.fault not in weak] or found
    return found


def identify(case: Case) -> tuple[Stage | None, list[Found]]:
    """Return at which stage a backend differs first, and the suspects that agree with it."""
    with np.errstate(all="ignore"):
        stage = case.first_difference()
        if stage is None or not finite(case.got):
            return stage, []
        allowed = near(case.got, case.right, case.sample.model.dtype, case.tolerance)
        tried = (
            Found(suspect, case.agreement(suspect, stage, allowed))
            for suspect in suspects(case.sample, stage, case.got, case.right)
        )
        return stage, best([one for one in tried if one.error <= allowed])


def name_fault(make: Make, sample: Sample, tolerance: float) -> str:
    """Return what is wrong with a backend that failed parity, as a sentence.

    `make` makes it. If what it computes is that of no known fault, the sentence says so.
    """
    case = Case(make, sample, tolerance)
    stage, found = identify(case)
    if found:
        return sentence(found)
    if stage is None:
        small = f"{case.sample.model.hidden} hidden units, {case.sample.x_ETB.shape[2]} paths"
        return (
            f"it agrees on a small sample ({small}): what is wrong depends on the size, or shows "
            f"only after more than {EPOCHS} steps"
        )
    for left in case.stages:
        case.observe(left)
    if not finite(case.got):
        return not_finite(case.got)
    return random(case) or name_rounding(make, case.sample, case.got, case.right) or unknown(stage)


def sentence(found: list[Found]) -> str:
    """Return what the suspects do, with how well they agree; of many, the first ones."""
    words = list(dict.fromkeys(one.suspect.sentence for one in found))
    more = len(words) - _MOST_NAMED
    named = ", or ".join([*words[:_MOST_NAMED], *[f"{more} more"] * (more > 0)])
    return f"{named} (agrees to {max(one.error for one in found):.0e})"


def not_finite(got: Evidence) -> str:
    """Say which of what a backend computed is not finite."""
    first = next(q for q, arrays in got.items() if not finite({q: arrays}))
    named = [name for name, array in got[first].items() if not np.isfinite(array).all()]
    if first == "gradient" and len(named) < len(got[first]):
        return f"its gradient of {', '.join(f'`{name}`' for name in named)} is not finite"
    if not first.startswith("loss"):
        return "it computes numbers that are not finite"
    right = all(finite({q: arrays}) for q, arrays in got.items() if not q.startswith("loss"))
    return "the losses that it returns are not finite" + "; what it trains is" * right


def random(case: Case) -> str:
    """Say so if the same question gets different answers."""
    for stage in (s for s in case.stages if s != "training"):
        again = STAGES[stage](case.make, case.sample)
        before = {quantity: case.got[quantity] for quantity in again if quantity in case.got}
        if before and difference(again, before) > case.tolerance:
            return (
                "it answers the same question differently each time: something random is in it, "
                "such as dropout"
            )
        repeated = {q: again[q.removesuffix(" again")] for q in again if q.endswith(" again")}
        if difference(again, repeated) > case.tolerance:
            return (
                "it answers the same question differently the second time: it draws random "
                "numbers, as for dropout, or keeps something from the call before"
            )
    return ""


def unknown(stage: Stage) -> str:
    """Say that nothing known explains it."""
    where = {
        "outputs": "in the outputs",
        "gradient": "in the loss or the gradient",
        "training": "in the optimiser or in what is kept between the steps",
    }
    return f"no known fault explains it; it is {where[stage]}"
