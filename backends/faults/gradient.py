"""Faults that show in the gradient or the loss, and not in the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from backends.faults import layout, losses, outputs, through_time
from backends.faults.estimate import CLOSE, rounded
from backends.faults.variation import Regraded, Variation, listed
from backends.reference import State
from harness.backend.evidence import Evidence, Sample, Suspect, difference
from harness.backend.model import Model
from harness.backend.protocol import Array, Params

# So close to a number of three digits is one that somebody chose.
_ROUND = {"float64": 1e-8, "float32": 2e-6}


def suspects(sample: Sample, got: Evidence, right: Evidence) -> Iterator[Suspect]:
    """Yield every variation that changes the gradient, and the loss."""
    if "loss" in got:
        yield from _other_losses(sample, got, right)
    yield from _multiples(sample, got["gradient"], right["gradient"])
    yield from _two_biases()
    for names in ([n] for n in layout.square(sample.model)):
        yield Suspect(
            "transposed gradient",
            f"its gradient of {listed(names)} is transposed",
            partial(Regraded, change=partial(_transposed, names=names)),
        )
    yield from outputs.carried()
    if _right_up_to_the_layers(sample, got, right):
        yield from through_time.suspects(sample.model, sample.x_ETB.shape[1])
        return
    yield from losses.suspects()
    yield from _penalties(sample, got["gradient"], right["gradient"])
    yield from _clipped(sample, got["gradient"], right["gradient"])
    yield from _other_updates(sample, got["gradient"], right["gradient"])


def _right_up_to_the_layers(sample: Sample, got: Evidence, right: Evidence) -> bool:
    """Return whether loss and head are right, as they are if time is gone through wrongly."""
    head = {name: right["gradient"][name] for name in ("W_1", "b_1", "W_2", "b_2")}
    want: Evidence = {"gradient": head}
    if "loss" in got:
        want["loss"] = right["loss"]
    return difference(got, want) < CLOSE[sample.model.dtype]


def _multiples(sample: Sample, got: Params, right: Params) -> Iterator[Suspect]:
    """Yield gradients that are the right one times a number, in some parameters or in all."""
    ratios: dict[float, list[str]] = {}
    for name, want in right.items():
        square = float(np.sum(want**2))
        ratio = float(np.sum(want * got[name])) / square if square else 1.0
        if not np.isfinite(ratio):
            return
        near = [r for r in ratios if abs(r - ratio) <= CLOSE[sample.model.dtype] * abs(ratio)]
        ratios.setdefault(near[0] if near else ratio, []).append(name)
    close = CLOSE[sample.model.dtype]
    others = {r: names for r, names in ratios.items() if abs(r - 1) > close}
    if len(others) != 1:
        return
    ((ratio, names),) = others.items()
    if abs(ratio) < close:
        ratio = 0.0
    fault, words = _multiple(sample, ratio, names, len(names) == len(right))
    yield Suspect(fault, words, partial(Regraded, change=partial(_times, names=names, by=ratio)))


def _multiple(sample: Sample, ratio: float, names: list[str], everything: bool) -> tuple[str, str]:
    of = "" if everything else f" of {listed(names)}"
    if ratio == 0:
        if everything:
            return "not trained", "it does not train: no parameter moves"
        verb = "is" if len(names) == 1 else "are"
        return "not trained", f"{listed(names)} {verb} not trained: the gradient is zero"
    close = CLOSE[sample.model.dtype]
    if abs(ratio + 1) < close:
        return "wrong sign", f"its gradient{of} has the wrong sign"
    steps, paths = sample.y_ETB.shape[1:]
    counts = {steps: "time steps", paths: "paths", steps * paths: "time steps times paths"}
    why = [f": the number of {words}" for n, words in counts.items() if abs(ratio / n - 1) < close]
    number = rounded(ratio, sample.model.dtype)
    return "multiple", f"its gradient{of} is {number} times the right one{''.join(why[:1])}"


def _times(gradient: Params, _: Params, names: list[str], by: float) -> Params:
    return {name: by * gradient[name] for name in names}


def _transposed(gradient: Params, _: Params, names: list[str]) -> Params:
    return {name: layout.transpose(gradient[name]) for name in names}


class _TwoBiases(Variation):
    """Keeps `b_h` as a sum of two parameters, and trains both."""

    def _update(self, state: State, gradient: Params) -> None:
        before = dict(state.params)
        super()._update(state, gradient)
        for name in (n for n in before if n.endswith("b_h")):
            # The last gate of a gru does have two, which are parameters of their own.
            both = before[name].size // 3 * 2 if self.model.cell == "gru" else None
            state.params[name][:both] += (state.params[name] - before[name])[:both]


def _two_biases() -> Iterator[Suspect]:
    yield Suspect(
        "two biases",
        "it has two biases in the place of `b_h` and trains both, so their sum moves twice as far",
        _TwoBiases,
    )


class _Penalised(Regraded):
    """Adds a multiple of the sum of squares of some parameters to the loss."""

    def __init__(self, model: Model, names: list[str], weight: float, told: bool) -> None:
        super().__init__(model, self._more)
        self.names, self.weight, self.told = names, weight, told

    def _more(self, gradient: Params, params: Params) -> Params:
        return {name: gradient[name] + self.weight * params[name] for name in self.names}

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        loss, gradient = super().loss_and_gradient(params, x_TB, y_TB)
        squares = sum(float(np.sum(params[name] ** 2)) for name in self.names)
        return loss + self.told * self.weight / 2 * squares, gradient


def _penalties(sample: Sample, got: Params, right: Params) -> Iterator[Suspect]:
    matrices = [name for name, shape in sample.model.shapes.items() if len(shape) == 2]
    for names, of in ((list(right), "all parameters"), (matrices, "the matrices")):
        up = sum(float(np.sum((got[n] - right[n]) * sample.params[n])) for n in names)
        square = sum(float(np.sum(np.square(sample.params[n], dtype=float))) for n in names)
        weight = up / square if square else 0.0
        for told in (False, True):
            where = "in its loss and its gradient" if told else "in its gradient"
            yield Suspect(
                "weight decay",
                f"it has weight decay of {rounded(weight, sample.model.dtype)} on {of}, {where}",
                partial(_Penalised, names=names, weight=weight, told=told),
            )


def _clipped(sample: Sample, got: Params, right: Params) -> Iterator[Suspect]:
    """Yield the right gradient, clipped at what the largest of the observed one shows."""
    dtype = sample.model.dtype
    norm = float(np.sqrt(sum(np.sum(g**2) for g in got.values())))
    most = max(float(np.max(np.abs(g))) for g in got.values())
    whole = float(np.sqrt(sum(np.sum(g**2) for g in right.values())))
    if not 0 < norm < np.inf or not whole:
        return
    for epsilon in (0.0, 1e-6):  # PyTorch adds 1e-6 to the norm.
        at = norm * (whole + epsilon) / whole
        if abs(float(f"{at:.2e}") - at) > _ROUND[dtype] * at:
            continue  # Nobody clips at such a number; it is another multiple.
        yield Suspect(
            "clipped by norm",
            f"it clips the gradient at a norm of {rounded(at, dtype)}",
            partial(ClippedByNorm, at=at, epsilon=epsilon),
        )
    yield Suspect(
        "clipped by value",
        f"it clips each element of the gradient at {rounded(most, dtype)}",
        partial(ClippedByValue, at=most),
    )


class ClippedByNorm(Variation):
    """Shortens the whole gradient to a norm, before the step."""

    def __init__(self, model: Model, at: float, epsilon: float = 0.0) -> None:
        super().__init__(model)
        self.at, self.epsilon = at, epsilon

    def _update(self, state: State, gradient: Params) -> None:
        norm = float(np.sqrt(sum(np.sum(g**2) for g in gradient.values())))
        by = min(1.0, self.at / (norm + self.epsilon)) if norm else 1.0
        super()._update(state, {name: by * g for name, g in gradient.items()})


class ClippedByValue(Variation):
    """Bounds each element of the gradient, before the step."""

    def __init__(self, model: Model, at: float) -> None:
        super().__init__(model)
        self.at = at

    def _update(self, state: State, gradient: Params) -> None:
        super()._update(state, {n: np.clip(g, -self.at, self.at) for n, g in gradient.items()})


def _other_updates(sample: Sample, got: Params, right: Params) -> Iterator[Suspect]:
    """Yield steps of another size, or of another optimiser, than plain gradient descent."""
    yield Suspect(
        "optimiser ignored",
        "it trains with adam, whatever `optimiser` says",
        lambda model: Variation(replace(model, optimiser="adam")),
    )
    dtype = sample.model.dtype
    square = sum(float(np.sum(want**2)) for want in right.values())
    along = sum(float(np.sum(want * got[name])) for name, want in right.items())
    rate = along / square if square else 0.0
    if np.isfinite(rate) and rate > 0:
        yield Suspect(
            "learning rate",
            f"its learning rate is {rounded(rate, dtype)}, whatever `learning_rate` says",
            lambda model: Variation(replace(model, learning_rate=rate)),
        )
        yield Suspect(
            "learning rate",
            f"its learning rate is {rounded(rate, dtype)} times `learning_rate`",
            lambda model: Variation(replace(model, learning_rate=rate * model.learning_rate)),
        )


class Told(Variation):
    """Reports another loss than the one it trains on."""

    def __init__(self, model: Model, change: Callable[[Array], Array]) -> None:
        super().__init__(model)
        self.change = change

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        """Train, and change the losses."""
        state, loss_E = super().train(state, x_ETB, y_ETB)
        return state, self.change(loss_E)


class _Late(Variation):
    """Takes the loss after the step."""

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        losses = []
        for x_TB, y_TB in zip(x_ETB, y_ETB, strict=True):
            state, _ = super().train(state, x_TB[None], y_TB[None])
            losses.append(np.mean((self.predict(state, x_TB)[1:] - y_TB) ** 2))
        return state, np.array(losses)


def _other_losses(sample: Sample, got: Evidence, right: Evidence) -> Iterator[Suspect]:
    """Yield other losses beside a right gradient."""
    yield Suspect("late loss", "it takes the loss after the step in place of before it", _Late)
    dtype = sample.model.dtype
    ratio = float(got["loss"]["loss"][0] / right["loss"]["loss"][0])
    changes: tuple[tuple[str, Callable[[Array], Array]], ...] = (
        (
            f"the loss it reports is {rounded(ratio, dtype)} times the right one",
            partial(np.multiply, ratio),
        ),
        ("the loss it reports is the root of the mean squared error", lambda e: e**0.5),
        ("it rounds the losses it reports to float32", lambda e: e.astype(np.float32)),
        ("it rounds the losses it reports to half precision", lambda e: e.astype(np.float16)),
    )
    for sentence, change in changes:
        yield Suspect("reported loss", sentence, partial(Told, change=change))
