"""Compares a gradient from a file with the reference, and names its fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from harness.backend.evidence import Evidence, Make, Sample, Stage, difference
from harness.backend.model import Model
from harness.measure.faults import Found, best, near, reference, sentence, suspects
from harness.measure.gradient_file import GradientFile
from harness.measure.parity import TOLERANCE, worst
from harness.trial.events import Check

# A power of two, so large that a gradient is not lost beside its parameter.
_RATE = 2.0**30
_CHECKED: Mapping[str, Literal["outputs", "losses", "gradient"]] = {
    "outputs": "outputs",
    "loss": "losses",
    "gradient": "gradient",
}
# What can be seen only in a step, or in more than one.
_UNSEEN = {"learning rate", "optimiser ignored", "late loss", "carried state"}


@np.errstate(all="ignore")
def compare(file: GradientFile) -> tuple[list[Check], str]:
    """Return the worst element of each array, and what is wrong; empty if nothing is."""
    tolerance = TOLERANCE[file.model.dtype]
    sample = Sample(
        replace(file.model, dtype="float64"), file.params, file.x_TB[None], file.y_TB[None]
    )
    got: Evidence = {"loss": {"loss": np.array([file.loss])}, "gradient": file.gradient}
    if file.output_TB is not None:
        got = {"outputs": {"output": file.output_TB}} | got
    right = _observe(reference, sample, got)
    checks = [
        worst(
            *(_CHECKED[quantity], {name: value[None]}, {name: right[quantity][name][None]}),
            *(file.model.dtype, tolerance),
        )
        for quantity, arrays in got.items()
        for name, value in arrays.items()
    ]
    if all(check.passed for check in checks):
        return checks, ""
    allowed = near(got, right, file.model.dtype, tolerance)
    tried = _tried(sample, file.model, got, right)
    found = best([one for one in tried if one.error <= allowed])
    return checks, sentence(found) if found else _unknown(checks)


def _unknown(checks: list[Check]) -> str:
    """Say that nothing known explains it, and how far all agrees."""
    failed = {check.quantity for check in checks if not check.passed}
    if "outputs" in failed:
        where = (
            "the outputs differ already: it is in the forward pass, or the parameters in the file "
            "are not those that it computed with"
        )
    elif "losses" not in failed:
        names = [c.element.partition("[")[0] for c in checks if not c.passed]
        some = len(names) < sum(check.quantity == "gradient" for check in checks)
        of = ", ".join(f"`{name}`" for name in names) if some else "every parameter"
        where = f"the loss agrees, and the gradient of {of} differs"
    elif any(check.quantity == "outputs" for check in checks):
        where = "the outputs agree, and the loss differs"
    else:
        where = (
            "the loss differs: it is in the forward pass, the loss or the parameters in the file; "
            "write `output` into the file, too, to tell these apart"
        )
    return f"no known fault explains it; {where}"


def _tried(sample: Sample, model: Model, got: Evidence, right: Evidence) -> Iterator[Found]:
    shown = replace(sample, model=model)
    # A right loss comes from right outputs.
    forward = difference(got, {"loss": right["loss"]}) <= TOLERANCE[model.dtype]
    stages: tuple[Stage, ...] = ("gradient",) if forward else ("gradient", "outputs")
    for stage in stages:
        for suspect in suspects(shown, stage, got, right):
            if suspect.fault not in _UNSEEN:
                yield Found(suspect, difference(got, _observe(suspect.make, sample, got)))


def _observe(make: Make, sample: Sample, got: Evidence) -> Evidence:
    """Return loss and gradient of the one batch, and the outputs if they are in `got`."""
    backend = make(replace(sample.model, optimiser="sgd", learning_rate=_RATE))
    evidence: Evidence = {}
    if "outputs" in got:
        evidence["outputs"] = sample.predict(backend, backend.init(sample.params))
    _, loss_E, moved = sample.train(backend, backend.init(sample.params), slice(0, 1))
    gradient = {name: value / _RATE for name, value in moved.items()}
    return evidence | {"loss": {"loss": loss_E}, "gradient": gradient}
