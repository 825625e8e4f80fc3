"""The faults that people make, each as a variation of the reference.

`suspects` has those that may explain what a backend computed. To add one: a subclass of `Variation`
that replaces what is wrong, and a `Suspect` with its sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.faults import gradient, outputs, training
from harness.backend.evidence import Evidence, Sample, Stage, Suspect


def suspects(sample: Sample, stage: Stage, got: Evidence, right: Evidence) -> Iterator[Suspect]:
    """Yield the faults that show first at a stage.

    `got` and `right` are what the backend and the reference computed up to then: numbers in a
    fault, such as the norm at which gradients are clipped, are estimated from them.
    """
    match stage:
        case "outputs":
            yield from outputs.suspects(sample)
        case "gradient":
            yield from gradient.suspects(sample, got, right)
        case "training":
            yield from training.suspects(sample, got)
