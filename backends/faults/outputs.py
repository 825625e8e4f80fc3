"""Faults that show in the outputs: another network, a parameter left out, a state that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np

from backends.faults import layout
from backends.faults.variation import Variation, listed, zeros
from backends.reference import State
from harness.backend.evidence import Sample, Suspect
from harness.backend.model import Model
from harness.backend.protocol import Array, Params


def suspects(sample: Sample) -> Iterator[Suspect]:
    """Yield every variation that changes the outputs."""
    yield from layout.suspects(sample.model)
    yield from _ignored(sample.model)
    yield from _another_network(sample.model)
    yield from carried()
    if sample.model.dtype == "float64":
        yield from _rounded_at_the_door()


class _Ignores(Variation):
    """Takes some parameters for zero."""

    def __init__(self, model: Model, names: tuple[str, ...]) -> None:
        super().__init__(model)
        self.names = names

    def _forward(self, params: Params, x_TB: Array) -> Any:
        return super()._forward({**params, **zeros(params, self.names)}, x_TB)

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        loss, gradient = super().loss_and_gradient(params, x_TB, y_TB)
        return loss, gradient | zeros(params, self.names)


def _ignored(model: Model) -> Iterator[Suspect]:
    vectors = [name for name, shape in model.shapes.items() if len(shape) == 1]
    groups: dict[tuple[str, ...], None] = {(name,): None for name in vectors}
    for kind in (
        ("h0",),
        ("c0",),
        ("h0", "c0"),
        ("b_h",),
        ("b_hn",),
        ("b_h", "b_hn"),
        ("b_1", "b_2"),
    ):
        groups[tuple(n for n in vectors if n.endswith(kind))] = None
    groups[tuple(n for n in vectors if "b_" in n)] = None
    for names in groups:
        if names:
            yield Suspect(
                "ignored",
                f"it ignores {listed(names)}, as if all of it were zero",
                partial(_Ignores, names=names),
            )


class _Headed(Variation):
    """Applies a function between the two linear layers; `slope` is its derivative by its value."""

    def __init__(
        self,
        model: Model,
        value: Callable[[Array], Array],
        slope: Callable[[Array], Array],
    ) -> None:
        super().__init__(model)
        self.value, self.slope = value, slope

    def _forward(self, params: Params, x_TB: Array) -> Any:
        layers, d_TBD, _ = super()._forward(params, x_TB)
        d_TBD = self.value(d_TBD)
        return layers, d_TBD, d_TBD @ params["W_2"][0] + params["b_2"]

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        layers, d_TBD, output_TB = self._forward(params, x_TB)
        loss, g_output_TB = self._loss(output_TB, y_TB)
        g_d_TBD = g_output_TB[..., None] * params["W_2"][0] * self.slope(d_TBD)
        return loss, {
            "W_1": np.einsum("tbd,tbh->dh", g_d_TBD, layers[-1].h_TBH),
            "b_1": g_d_TBD.sum((0, 1)),
            "W_2": np.einsum("tb,tbd->d", g_output_TB, d_TBD)[None],
            "b_2": g_output_TB.sum()[None],
            **self._backward(layers, g_d_TBD @ params["W_1"]),
        }


class _Relaid(Variation):
    """Feeds the paths in another shape, and brings the outputs back."""

    def __init__(
        self,
        model: Model,
        lay: Callable[[Array], Array],
        back: Callable[[Array, tuple[int, ...]], Array],
    ) -> None:
        super().__init__(model)
        self.lay, self.back = lay, back

    def _forward(self, params: Params, x_TB: Array) -> Any:
        return super()._forward(params, self.lay(x_TB))

    def _loss(self, output_TB: Array, y_TB: Array) -> tuple[float, Array]:
        steps, paths = y_TB.shape
        loss, g_output_TB = super()._loss(self.back(output_TB, (steps + 1, paths)), y_TB)
        return loss, self.lay(g_output_TB)

    def predict(self, state: State, x_TN: Array) -> Array:
        return self.back(super().predict(state, x_TN), x_TN.shape)


def _another_network(model: Model) -> Iterator[Suspect]:
    if model.cell == "rnn":
        other: Literal["tanh", "relu"] = "tanh" if model.activation == "relu" else "relu"
        yield Suspect(
            "activation",
            f"its activation is {other} in place of {model.activation}",
            lambda model: Variation(replace(model, activation=other)),
        )
    for name, value, slope in (
        ("tanh", np.tanh, lambda a: 1 - a**2),
        ("relu", lambda d: np.maximum(d, 0), lambda a: a > 0),
        ("the logistic function", lambda d: (1 + np.tanh(d / 2)) / 2, lambda a: a * (1 - a)),
    ):
        yield Suspect(
            "head activation",
            f"it applies {name} between the two linear layers, where there is nothing",
            partial(_Headed, value=value, slope=slope),
        )
    yield Suspect(
        "swapped axes",
        "it takes the axes of its data for [path, time]; they are [time, path]",
        partial(_Relaid, lay=np.transpose, back=lambda output, _: output.T),
    )
    yield Suspect(
        "no memory",
        "it starts each time step from the initial state: the state of the step before is lost",
        partial(
            _Relaid,
            lay=lambda a: a.reshape(1, -1),
            back=lambda output, shape: output.reshape(shape),
        ),
    )


Scope = Literal["train", "predict", "train and predict"]


class _Carries(Variation):
    """Starts where the last sequence ended, so that the initial state gets no gradient."""

    def __init__(self, model: Model, scope: Scope, until: str, skipped: bool) -> None:
        super().__init__(model)
        self.scope, self.until, self.skipped = scope, until, skipped
        self.kept: dict[str, Array] = {}
        self.method = ""

    def init(self, params: Params) -> State:
        if self.until != "never":
            self.kept = {}
        return super().init(params)

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        if self.until == "call":
            self.kept = {}
        self.method = "train"
        return super().train(state, x_ETB, y_ETB)

    def predict(self, state: State, x_TN: Array) -> Array:
        self.method = "predict"
        return super().predict(state, x_TN)

    def _forward(self, params: Params, x_TB: Array) -> Any:
        if self.method not in self.scope:
            return super()._forward(params, x_TB)
        start = {n: v for n, v in self.kept.items() if len(v) == x_TB.shape[1]}
        self.started = tuple(start)
        run = super()._forward({**params, **start}, x_TB)
        self.kept = {
            layer.prefix + name: value
            for layer in run[0]
            for name, value in zip(("h0", "c0"), layer.carries[-1], strict=False)
        }
        return run

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        self.started = ()
        loss, gradient = super().loss_and_gradient(params, x_TB, y_TB)
        # With some optimisers, one without a gradient stays where it is; with others, its moments
        # go on to move it.
        if self.skipped:
            return loss, {n: g for n, g in gradient.items() if n not in self.started}
        return loss, gradient | zeros(params, self.started)


def carried() -> Iterator[Suspect]:
    """Yield those that keep their recurrent state from one sequence to the next."""
    kinds: tuple[tuple[Scope, str, str], ...] = (
        ("predict", "init", "in `predict`"),
        ("train", "call", "in training, until the end of the call"),
        ("train", "init", "in training, until `init`"),
        ("train", "never", "in training, even past `init`"),
        ("train and predict", "init", "until `init`"),
        ("train and predict", "never", "even past `init`"),
    )
    for (scope, until, words), skipped in product(kinds, (False, True)):
        yield Suspect(
            "carried state",
            f"it carries the hidden state from one sequence to the next {words}; "
            "each sequence starts from `h0`",
            partial(_Carries, scope=scope, until=until, skipped=skipped),
        )


def _single(params: Params) -> Params:
    return {name: value.astype(np.float32).astype(np.float64) for name, value in params.items()}


class _Rounds(Variation):
    """Rounds what it is given to float32, and computes in float64."""

    def __init__(self, model: Model, what: tuple[str, ...]) -> None:
        super().__init__(model)
        self.what = what

    def init(self, params: Params) -> State:
        return super().init(_single(params) if "parameters" in self.what else params)

    def train(self, state: State, x_ETB: Array, y_ETB: Array) -> tuple[State, Array]:
        y_ETB = y_ETB.astype(np.float32) if "targets" in self.what else y_ETB
        return super().train(state, self._inputs(x_ETB), y_ETB)

    def predict(self, state: State, x_TN: Array) -> Array:
        return super().predict(state, self._inputs(x_TN))

    def _inputs(self, x: Array) -> Array:
        return x.astype(np.float32) if "inputs" in self.what else x


def _rounded_at_the_door() -> Iterator[Suspect]:
    for what in (
        ("parameters",),
        ("inputs",),
        ("inputs", "targets"),
        ("parameters", "inputs"),
        ("parameters", "inputs", "targets"),
    ):
        yield Suspect(
            "rounded data",
            f"it rounds {listed(what)} to float32 and computes in float64".replace("`", ""),
            partial(_Rounds, what=what),
        )
