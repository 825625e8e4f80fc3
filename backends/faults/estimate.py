"""Estimates a number in a fault from the steps that a backend took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from backends.faults.variation import Variation
from backends.reference import State
from harness.backend.evidence import ADAM_RATE, Sample
from harness.backend.model import Model
from harness.backend.protocol import Array, Params

Vary = Callable[[float], Callable[[Model], Variation]]
"""The fault with a number, as what makes it."""

# Closer to one ratio than this, two arrays are multiples of each other.
CLOSE = {"float64": 1e-8, "float32": 1e-4}
_ROUNDS, _STEPS = 15, 4
# How far a step may be off, in units of the rate. Only who comes near is worth a run of its own.
_NEAR = {"float64": 1e-6, "float32": 1e-2}


def estimated(sample: Sample, moved: Params, vary: Vary, starts: Sequence[float]) -> float | None:
    """Return the positive number with which a fault takes the observed steps best.

    `moved`: how far each parameter was from its start after each step, [steps, *its shape]. Each
    step is computed anew from where the backend stood before it, so that nothing adds up. The least
    squares are found by Gauss-Newton in the logarithm, from the best of `starts`. None: none fits.
    """
    replayed = _Replay(sample, moved)

    def residual(log: float) -> Array:
        off: Array = replayed.steps(vary(float(np.exp(log)))) - replayed.observed
        return off

    with np.errstate(all="ignore"):
        log = min(map(float, np.log(starts)), key=lambda s: _square(residual(s)))
        off = residual(log)
        for _ in range(_ROUNDS):
            slope = (residual(log + 1e-5) - residual(log - 1e-5)) / 2e-5
            step = -float(np.sum(slope * off) / np.sum(slope**2)) if slope.any() else 0.0
            step = float(np.clip(step, -2, 2))
            while abs(step) > 1e-10 and not _square(residual(log + step)) < _square(off):
                step /= 4
            if abs(step) <= 1e-10:
                break
            log += step
            off = residual(log)
    far = float(np.max(np.abs(off)))
    return float(np.exp(log)) if far < _NEAR[sample.model.dtype] else None


def rounded(value: float, dtype: str) -> str:
    """Return a number as text, in no more digits than are known; also one that is not finite."""
    known = {"float64": 1e-6, "float32": 1e-2}[dtype]
    # A factor of 1.0002 is not 1.
    known = min(known, max(CLOSE[dtype], abs(abs(value) - 1) / 10))
    texts = (f"{value:.{digits}g}" for digits in range(1, 17))
    near = (text for text in texts if abs(float(text) - value) <= known * abs(value))
    return next(near, str(value))


def _square(off: Array) -> float:
    square = float(np.sum(off**2))  # Not a product: that may wait for threads.
    return square if np.isfinite(square) else np.inf


class _Replay:
    """The observed steps, and the right gradient at each place between them."""

    def __init__(self, sample: Sample, moved: Params) -> None:
        self.model = replace(sample.model, optimiser="adam", learning_rate=ADAM_RATE)
        self.params = sample.params
        sample = sample.short()
        steps = min(_STEPS, len(next(iter(moved.values()))))
        start = {name: value.astype(np.float64) for name, value in sample.params.items()}
        self.places = [start] + [
            {name: start[name] - moved[name][step] for name in start} for step in range(steps)
        ]
        right = Variation(self.model)
        self.gradients = [
            right.loss_and_gradient(place, x_TB.astype(np.float64), y_TB.astype(np.float64))[1]
            for place, x_TB, y_TB in zip(self.places[:-1], sample.x_ETB, sample.y_ETB, strict=False)
        ]
        self.observed = np.concatenate(
            [
                self._flat(before, after)
                for before, after in zip(self.places, self.places[1:], strict=False)
            ]
        )

    def steps(self, make: Callable[[Model], Variation]) -> Array:
        """Return the steps that a variation takes from the same places with these gradients."""
        backend = make(self.model)
        state: State = backend.init(self.params)
        taken = []
        for place, gradient in zip(self.places, self.gradients, strict=False):
            state.params = dict(place)
            backend._update(state, gradient)
            taken.append(self._flat(place, state.params))
        return np.concatenate(taken)

    def _flat(self, before: Params, after: Params) -> Array:
        """Return a step as one vector, in units of the rate."""
        steps = [(before[name] - after[name]).ravel() for name in self.params]
        return np.concatenate(steps) / ADAM_RATE
