"""Faults of the loss: which outputs are scored against which targets, and how they are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import numpy as np

from backends.faults.variation import Variation
from harness.backend.evidence import Suspect
from harness.backend.model import Model
from harness.backend.protocol import Array, Params

Loss: TypeAlias = Callable[[Array, Array], tuple[float, Array]]
"""Outputs [T+1, B] and targets [T, B] to the loss and its derivative by each output."""


class Scored(Variation):
    """Another loss."""

    def __init__(self, model: Model, loss: Loss) -> None:
        super().__init__(model)
        self.loss = loss

    def _loss(self, output_TB: Array, y_TB: Array) -> tuple[float, Array]:
        return self.loss(output_TB, y_TB)


def suspects() -> Iterator[Suspect]:
    """Yield the reference with another loss."""
    for fault, sentence, loss in (*_averages(), *_shifts(), *_others()):
        yield Suspect(fault, sentence, partial(Scored, loss=loss))
    yield Suspect(
        "first input not fed",
        "in training it leaves out the first input; that is fed, and its output is not scored",
        _FeedsLess,
    )


def _averages() -> Iterator[tuple[str, str, Loss]]:
    for factor, fault, what in (
        (lambda _, __: -1, "wrong sign", "its loss has the wrong sign, so it climbs"),
        (lambda _, __: 1 / 2, "half", "its loss is half the mean squared error"),
        (lambda _, __: 2, "twice", "its loss is twice the mean squared error"),
        (
            lambda t, b: t * b,
            "sum",
            "its loss is a sum over time steps and paths in place of a mean",
        ),
        (lambda t, _: t, "sum", "its loss is a sum over the time steps in place of a mean"),
        (lambda _, b: b, "sum", "its loss is a sum over the paths in place of a mean"),
        (
            lambda t, _: t / (t + 1),
            "mean over T+1",
            "its loss is divided by T + 1 time steps in place of T",
        ),
    ):
        yield fault, what, partial(_scaled, factor)
    for factor, what in (
        (lambda t, b: t * b, "time steps and paths"),
        (lambda t, _: t, "the time steps"),
        (lambda _, b: b, "the paths"),
    ):
        sentence = f"its gradient is that of a sum over {what}; the loss it reports is the mean"
        yield "sum", sentence, partial(_scaled, factor, told=True)


def _scaled(
    factor: Callable[[int, int], float], output_TB: Array, y_TB: Array, told: bool = False
) -> tuple[float, Array]:
    """Return a multiple of the mean squared error; `told`: the mean itself is reported."""
    residual_TB = output_TB[1:] - y_TB
    loss, g_output_TB = _spread(output_TB, slice(1, None), factor(*y_TB.shape), residual_TB)
    return float(np.mean(residual_TB**2)) if told else loss, g_output_TB


def _spread(output_TB: Array, at: slice, factor: float, residual_TB: Array) -> tuple[float, Array]:
    g_output_TB = np.zeros_like(output_TB)
    g_output_TB[at] = factor * 2 * residual_TB / residual_TB.size
    return factor * float(np.mean(residual_TB**2)), g_output_TB


def _shifts() -> Iterator[tuple[str, str, Loss]]:
    first_t, no_end = slice(1, None), slice(None, -1)
    for fault, what, outputs, targets in (
        ("one step off", "it scores output t - 1 against target t", no_end, slice(None)),
        (
            "one step off",
            "it scores output t - 1 against target t, from t = 2 on",
            slice(1, -1),
            first_t,
        ),
        ("one step off", "it scores output t + 1 against target t", slice(2, None), no_end),
        ("last step missing", "its loss is without the last time step", slice(1, -1), no_end),
        ("first step missing", "its loss is without the first target", slice(2, None), first_t),
        (
            "last step only",
            "its loss is that of the last time step alone",
            slice(-1, None),
            slice(-1, None),
        ),
    ):
        yield fault, what, partial(_cut, outputs, targets, False)
        if fault != "one step off" and fault != "last step only":
            divided = f"{what}, but divided by all of them"
            yield fault, divided, partial(_cut, outputs, targets, True)
    yield "mean over T+1", "it scores the first output, too, against zero", partial(_padded, 0)
    yield (
        "mean over T+1",
        "it scores the first output, too, against the first target",
        partial(_padded, 1),
    )


def _cut(
    outputs: slice, targets: slice, by_all: bool, output_TB: Array, y_TB: Array
) -> tuple[float, Array]:
    residual_TB = output_TB[outputs] - y_TB[targets]
    factor = residual_TB.size / y_TB.size if by_all else 1.0
    return _spread(output_TB, outputs, factor, residual_TB)


def _padded(weight: int, output_TB: Array, y_TB: Array) -> tuple[float, Array]:
    residual_TB = output_TB - np.concatenate([weight * y_TB[:1], y_TB])
    return _spread(output_TB, slice(None), 1.0, residual_TB)


def _others() -> Iterator[tuple[str, str, Loss]]:
    yield "wrong sign", "its loss is the mean of (output + y)^2: y has the wrong sign", _plus
    yield "root", "its loss is the root of the mean squared error", _root
    yield "absolute error", "its loss is the mean absolute error", _absolute
    yield "huber", "its loss is the Huber loss, linear beyond 1", _huber
    yield (
        "all pairs",
        "it scores the output of each path against the targets of all paths: two shapes, such as "
        "[B, 1] and [B], were broadcast to [B, B]",
        _all_pairs,
    )


def _plus(output_TB: Array, y_TB: Array) -> tuple[float, Array]:
    return _spread(output_TB, slice(1, None), 1.0, output_TB[1:] + y_TB)


def _root(output_TB: Array, y_TB: Array) -> tuple[float, Array]:
    root = np.sqrt(np.mean((output_TB[1:] - y_TB) ** 2))  # NumPy divides by 0, too.
    _, g_output_TB = _spread(output_TB, slice(1, None), 1 / (2 * root), output_TB[1:] - y_TB)
    return float(root), g_output_TB


def _absolute(output_TB: Array, y_TB: Array) -> tuple[float, Array]:
    residual_TB = output_TB[1:] - y_TB
    _, g_output_TB = _spread(output_TB, slice(1, None), 0.5, np.sign(residual_TB))
    return float(np.mean(np.abs(residual_TB))), g_output_TB


def _huber(output_TB: Array, y_TB: Array) -> tuple[float, Array]:
    residual_TB = output_TB[1:] - y_TB
    near = np.clip(residual_TB, -1, 1)
    _, g_output_TB = _spread(output_TB, slice(1, None), 0.5, near)
    return float(np.mean(near * (residual_TB - near / 2))), g_output_TB


def _all_pairs(output_TB: Array, y_TB: Array) -> tuple[float, Array]:
    residual_TBB = output_TB[1:, :, None] - y_TB[:, None, :]
    _, g_output_TB = _spread(output_TB, slice(1, None), 1.0, residual_TBB.mean(2))
    return float(np.mean(residual_TBB**2)), g_output_TB


class _FeedsLess(Variation):
    """Feeds the inputs from t = 1 on."""

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        return super().loss_and_gradient(params, x_TB[1:], y_TB)

    def _loss(self, output_TB: Array, y_TB: Array) -> tuple[float, Array]:
        loss, g_output_TB = super()._loss(np.concatenate([output_TB[:1], output_TB]), y_TB)
        return loss, g_output_TB[1:]
