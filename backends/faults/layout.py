"""Faults of how the parameters are read: transposed, negated, in another order, as other gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations

import numpy as np

from backends.faults.variation import Change, Misread, listed
from harness.backend.evidence import Suspect
from harness.backend.model import GATES, Model
from harness.backend.protocol import Array, Params

_GATES = {"gru": "rzn", "lstm": "ifgo"}
_FRAMEWORKS = {"zrn": ", as in Keras", "igfo": ", as in Haiku", "iofg": ", as in ONNX"}


def suspects(model: Model) -> Iterator[Suspect]:
    """Yield the reference with its parameters read in another way."""
    squares = square(model)
    recurrent = [name for name in squares if name.endswith("W_hh")]
    for names in {tuple(n) for n in ([[name] for name in squares] + [recurrent, squares])} - {()}:
        each = " gate by gate" if model.cell != "rnn" else ""
        change = partial(_transpose, names=names)
        yield Suspect(
            "transposed",
            f"it uses {listed(names)} transposed{each}",
            partial(Misread, change=change, back=change),
        )
    yield Suspect(
        "column-major",
        "it reads the matrices in column-major order; they come in row-major (C) order",
        partial(Misread, change=_from_column_major, back=_to_column_major),
    )
    for name in model.shapes:
        negate = partial(_negate, name=name)
        yield Suspect(
            "wrong sign",
            f"it takes `{name}` with the wrong sign",
            partial(Misread, change=negate, back=negate),
        )
    if model.cell != "rnn":
        yield from _other_gates(model)


def square(model: Model) -> list[str]:
    """Return the matrices made of square blocks, one per gate: transposed they still fit."""
    gates = GATES[model.cell]
    recurrent = [n for n in model.shapes if n.endswith(("W_hh", "W_xh"))]
    sides = {name: (model.shapes[name], gates) for name in recurrent}
    sides["W_1"] = model.shapes["W_1"], 1
    return [name for name, ((rows, columns), g) in sides.items() if rows == g * columns > g]


def transpose(value: Array) -> Array:
    """Transpose each square block."""
    size = value.shape[1]
    return value.reshape(-1, size, size).swapaxes(1, 2).reshape(value.shape)


def _transpose(params: Params, names: tuple[str, ...]) -> Params:
    return {**params, **{name: transpose(params[name]) for name in names}}


def _negate(params: Params, name: str) -> Params:
    return {**params, name: -params[name]}


def _from_column_major(params: Params) -> Params:
    return {n: v.ravel().reshape(v.shape[::-1]).T for n, v in params.items()}


def _to_column_major(params: Params) -> Params:
    return {n: v.T.ravel().reshape(v.shape) for n, v in params.items()}


def _other_gates(model: Model) -> Iterator[Suspect]:
    """Yield those that take the blocks of a layer for other gates than they are."""
    gates = _GATES[model.cell]
    blocks = partial(_by_gate, GATES[model.cell])
    for order in permutations(gates):
        if (stands := "".join(order)) == gates:
            continue
        inside = [order.index(gate) for gate in gates]
        outside = [gates.index(gate) for gate in order]
        yield Suspect(
            "gate order",
            f"it takes the gates for {', '.join(stands)}{_FRAMEWORKS.get(stands, '')}; "
            f"they stand in the order {', '.join(gates)}",
            partial(Misread, change=blocks(_taken(inside)), back=blocks(_taken(outside))),
        )
    if model.cell == "gru":
        turned = blocks(lambda b: np.stack([b[0], -b[1], b[2]]))
        yield Suspect(
            "update gate",
            "its update gate is the other way round: it computes z * n + (1 - z) * h, "
            "and the gru here is (1 - z) * n + z * h",
            partial(Misread, change=turned, back=turned),
        )
    if model.cell == "lstm":
        more, less = (blocks(_forget(by), only="b_h") for by in (1, -1))
        yield Suspect(
            "forget bias",
            "it adds 1 to the bias of the forget gate",
            partial(Misread, change=more, back=less),
        )


def _taken(order: list[int]) -> Callable[[Array], Array]:
    return lambda blocks: blocks[order]


def _forget(by: int) -> Callable[[Array], Array]:
    return lambda blocks: np.concatenate([blocks[:1], blocks[1:2] + by, blocks[2:]])


def _by_gate(gates: int, change: Callable[[Array], Array], only: str = "") -> Change:
    """Return a change of every parameter that has a block per gate, [G, H, ...] each."""
    stacked = (only,) if only else ("W_xh", "W_hh", "b_h")

    def apply(params: Params) -> Params:
        return {
            name: change(value.reshape(gates, -1, *value.shape[1:])).reshape(value.shape)
            if name.endswith(stacked)
            else value
            for name, value in params.items()
        }

    return apply
