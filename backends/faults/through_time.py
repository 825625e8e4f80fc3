"""Faults of the way back through time: its order, and where it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from backends.faults.variation import Variation
from backends.reference import Layer
from harness.backend.evidence import Suspect
from harness.backend.model import Gradient, Model
from harness.backend.protocol import Array

# Every length up to here is tried, beyond it only those that people choose.
_EVERY, _ROUND = 40, (50, 60, 64, 80, 100, 128)


def suspects(model: Model, steps: int) -> Iterator[Suspect]:
    """Yield the reference with another way back through `steps` inputs."""
    if model.gradient == "exact":
        yield Suspect(
            "forward order",
            "its gradient is that of backward steps in forward order of time, as a broadcast or "
            "map over a stateful network gives it",
            partial(_ordered, gradient="stateful-broadcast"),
        )
    else:
        yield Suspect(
            "exact gradient",
            "its gradient is the exact one; the task asks for `gradient` = stateful-broadcast",
            partial(_ordered, gradient="exact"),
        )
    lengths = [n for n in (*range(1, _EVERY + 1), *_ROUND) if n < steps]
    for length in lengths if model.gradient == "exact" else [1]:
        # A cut at every step is the same both ways.
        yield Suspect("truncated", _follows(length), partial(_Within, steps=length))
        if length > 1:
            yield Suspect(
                "cut",
                f"its gradient is cut after every {length} steps (the state is detached there)",
                partial(_Cut, length=length),
            )
    if model.gradient != "exact":
        return  # Cut later, the exact gradient is too near to itself to be told apart.
    for length in (n for n in lengths if n < (steps + 1) // 2):
        yield Suspect(
            "cut",
            f"its gradient is cut once, {length} steps after the start",
            partial(_Cut, length=length, once=True),
        )


def _follows(steps: int) -> str:
    if steps == 1:
        return "its gradient does not go back through time: the state is detached at every step"
    return f"its gradient is truncated: each loss is followed back through {steps} steps only"


def _ordered(model: Model, gradient: Gradient) -> Variation:
    return Variation(replace(model, gradient=gradient))


class _Cut(Variation):
    """The state is detached after every so many steps, or once."""

    def __init__(self, model: Model, length: int, once: bool = False) -> None:
        super().__init__(model)
        self.length, self.once = length, once

    def _backward(self, layers: list[Layer], g_h_TBH: Array) -> dict[str, Array]:
        steps = len(g_h_TBH)
        starts = range(0, steps, self.length)[: 2 if self.once else None]
        gradient: dict[str, Array] = {}
        for first, last in zip(starts, [*starts[1:], steps], strict=True):
            pieces = [
                replace(
                    layer,
                    inputs_TBI=layer.inputs_TBI[first:last],
                    carries=layer.carries[first : last + 1],
                    tapes=layer.tapes[first:last],
                )
                for layer in layers
            ]
            part = super()._backward(pieces, g_h_TBH[first:last])
            if first:  # The state that it starts from is a constant.
                part = {n: v for n, v in part.items() if not n.endswith(("h0", "c0"))}
            gradient |= {name: gradient.get(name, 0) + value for name, value in part.items()}
        return gradient


class _Within(Variation):
    """No loss is followed back through more than so many steps.

    The way back is taken from all losses at once, one lag after the other.
    """

    def __init__(self, model: Model, steps: int) -> None:
        super().__init__(model)
        self.steps = steps

    def _backward(self, layers: list[Layer], g_h_TBH: Array) -> dict[str, Array]:
        sums: dict[str, Array] = {}
        carried = {
            layer.prefix: tuple(np.zeros_like(g_h_TBH) for _ in layer.carries[0])
            for layer in layers
        }
        g_inputs_TBI = g_h_TBH
        for _ in range(self.steps):
            for layer in reversed(layers):
                g_h, *g_rest = carried[layer.prefix]
                own, g_inputs_TBI, befores = self._one_step(layer, (g_h + g_inputs_TBI, *g_rest))
                carried[layer.prefix] = tuple(
                    np.concatenate([before[1:], np.zeros_like(before[:1])]) for before in befores
                )
                for name, value in own.items():
                    sums[layer.prefix + name] = sums.get(layer.prefix + name, 0) + value
            g_inputs_TBI = np.zeros_like(g_h_TBH)
        return sums

    def _one_step(
        self, layer: Layer, g_carry: tuple[Array, ...]
    ) -> tuple[dict[str, Array], Array, list[Array]]:
        """Step back once from every time step; the last result is by the carry before each."""
        tape = tuple(np.concatenate(kept) for kept in zip(*layer.tapes, strict=True))
        delta, past, kept = self.cell.back(tape, tuple(np.concatenate(g) for g in g_carry))
        befores = [
            value.reshape(g_carry[0].shape)
            for value in (kept[0] + past @ layer.params["W_hh"], *kept[1:])
        ]
        delta_TBG, past_TBG = (v.reshape(*g_carry[0].shape[:2], -1) for v in (delta, past))
        own, g_inputs_TBI = layer.by_parameter(
            delta_TBG, past_TBG, tuple(before[0] for before in befores)
        )
        return own, g_inputs_TBI, befores
