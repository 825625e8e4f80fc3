"""Faults of the optimiser: another rule in the place of Adam, or another number in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from backends.faults.estimate import Vary, estimated, rounded
from backends.faults.gradient import ClippedByNorm, ClippedByValue
from backends.faults.variation import Variation
from backends.reference import State
from harness.backend.evidence import ADAM_RATE, Evidence, Sample, Suspect
from harness.backend.model import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, Model
from harness.backend.protocol import Array, Params


def suspects(sample: Sample, got: Evidence) -> Iterator[Suspect]:
    """Yield the reference with another optimiser."""
    yield from _other_rules()
    for fault, sentence, vary, starts in _NUMBERS:
        value = estimated(sample, got["steps"], vary, starts)
        if value is not None:
            number, rate = (rounded(v, sample.model.dtype) for v in (value, value * ADAM_RATE))
            yield Suspect(fault, sentence.format(number, rate=rate), vary(value))


@dataclass(frozen=True)
class Rule:
    """Adam, its constants and its form."""

    beta1: float = ADAM_BETA1
    beta2: float = ADAM_BETA2
    eps: float = ADAM_EPS
    inside: bool = False
    """Whether eps stands inside the square root."""
    corrected: bool = True
    """Whether the moments are corrected for their start at zero."""
    late: int = 0
    """Added to the number of the step in that correction."""
    rate: float = 1.0
    """Times the learning rate."""
    decay: float = 0.0
    """Decoupled weight decay."""
    matrices_decay: float = 0.0
    """The same, but not of biases and initial states."""
    penalty: float = 0.0
    """Weight decay in the gradient."""
    largest: bool = False
    """Whether the second moment is the largest so far (AMSGrad)."""
    nesterov: bool = False


_ADAM = Rule()


class Adam(Variation):
    """Another rule in the place of Adam."""

    def __init__(self, model: Model, rule: Rule) -> None:
        super().__init__(model)
        self.rule = rule
        self.most: dict[str, Array] = {}

    def init(self, params: Params) -> State:
        """Start anew."""
        self.most = {}
        return super().init(params)

    def _update(self, state: State, gradient: Params) -> None:
        if self.model.optimiser == "sgd":
            return super()._update(state, gradient)
        rule, state.step = self.rule, state.step + 1
        for name, value in {name: state.params[name] for name in gradient}.items():
            g = gradient[name] + rule.penalty * value
            mean = rule.beta1 * state.mean[name] + (1 - rule.beta1) * g
            square = rule.beta2 * state.square[name] + (1 - rule.beta2) * g**2
            state.mean[name], state.square[name] = mean, square
            if rule.nesterov:
                mean = rule.beta1 * mean + (1 - rule.beta1) * g
            if rule.largest:
                square = self.most[name] = np.maximum(self.most.get(name, 0), square)
            if rule.corrected:
                count = state.step + rule.late
                mean = mean / (1 - rule.beta1**count)
                square = square / (1 - rule.beta2**count)
            root = np.sqrt(square + rule.eps) if rule.inside else np.sqrt(square) + rule.eps
            decay = rule.decay + rule.matrices_decay * (value.ndim > 1)
            step = mean / root + decay * value
            state.params[name] = value - self.model.learning_rate * rule.rate * step
        return None


def _other_rules() -> Iterator[Suspect]:
    beta1, beta2, eps = (float(np.float32(c)) for c in (ADAM_BETA1, ADAM_BETA2, ADAM_EPS))
    for fault, sentence, rule in (
        ("no bias correction", "its Adam is without bias correction", Rule(corrected=False)),
        (
            "no bias correction",
            "its Adam has eps inside the root and no bias correction",
            Rule(corrected=False, inside=True),
        ),
        ("step number", "its Adam counts the steps from 2 in the bias correction", Rule(late=1)),
        ("amsgrad", "its optimiser is AMSGrad in place of Adam", Rule(largest=True)),
        ("nadam", "its optimiser is Adam with Nesterov momentum (NAdam)", Rule(nesterov=True)),
        ("rounded constants", "its Adam has its constants in float32", Rule(beta1, beta2, eps)),
    ):
        yield Suspect(fault, sentence, partial(Adam, rule=rule))
    yield Suspect(
        "optimiser ignored",
        "it trains with plain gradient descent, whatever `optimiser` says",
        lambda model: Variation(replace(model, optimiser="sgd")),
    )


def _with(field: str, rule: Rule = _ADAM) -> Vary:
    def vary(value: float) -> Callable[[Model], Adam]:
        number: dict[str, Any] = {field: value}
        return partial(Adam, rule=replace(rule, **number))

    return vary


_RATES = (0.01, 0.1, 1 / 3, 1.0, 3.0, 10.0)
_EPS = (1e-16, 1e-12, 1e-10, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1.0)
_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
_NORMS = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0)

_NUMBERS: tuple[tuple[str, str, Vary, tuple[float, ...]], ...] = (
    (
        "learning rate",
        f"its learning rate is {{rate}} where it is told {ADAM_RATE:g}",
        _with("rate"),
        _RATES,
    ),
    ("epsilon", "its Adam has an eps of {} in place of 1e-08", _with("eps"), _EPS),
    (
        "epsilon inside",
        "its Adam has an eps of {} inside the square root",
        _with("eps", Rule(inside=True)),
        _EPS,
    ),
    (
        "beta",
        "its Adam has a beta1 of {} in place of 0.9",
        _with("beta1"),
        (1e-3, 0.5, 0.8, 0.95, 0.99),
    ),
    (
        "beta",
        "its Adam has a beta2 of {} in place of 0.999",
        _with("beta2"),
        (0.5, 0.9, 0.95, 0.98, 0.99, 0.9999),
    ),
    (
        "weight decay",
        "it decays the parameters as AdamW does, by {} times the rate",
        _with("decay"),
        _DECAYS,
    ),
    (
        "weight decay",
        "it decays the matrices as AdamW does, by {} times the rate",
        _with("matrices_decay"),
        _DECAYS,
    ),
    (
        "weight decay",
        "it adds a weight decay of {} to the gradient in Adam",
        _with("penalty"),
        _DECAYS,
    ),
    (
        "clipped by norm",
        "it clips the gradient at a norm of {} in Adam",
        lambda at: partial(ClippedByNorm, at=at),
        _NORMS,
    ),
    (
        "clipped by norm",
        "it clips the gradient at a norm of {} in Adam",
        lambda at: partial(ClippedByNorm, at=at, epsilon=1e-6),
        _NORMS,
    ),
    (
        "clipped by value",
        "it clips each element of the gradient at {} in Adam",
        lambda at: partial(ClippedByValue, at=at),
        _NORMS,
    ),
)
