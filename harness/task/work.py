"""How much arithmetic an epoch needs, whoever does it: the numerator of its arithmetic limit."""

from __future__ import annotations

from collections.abc import Mapping

from harness.backend.model import GATES, Model

_ACTIVATIONS: Mapping[str, Mapping[str, int]] = {
    "gru": {"sigmoid": 2, "tanh": 1},
    "lstm": {"sigmoid": 3, "tanh": 2},
}
"""Of a unit in a step."""


def work(model: Model, n_steps: int, batch_size: int) -> dict[str, int]:
    """Return the multiply-adds, and the activations by name, of one optimiser step of one network.

    Per path and each of the T + 1 steps that are fed, a layer of H units with G gates and I inputs
    takes G*H*(I + H) forwards and as many for the gradients of its weights; backwards G*H*H to its
    past, and G*H*I to the layer below it, which the first has not. As no activation is between the
    two linear layers, they are one vector: H for the output, H back, H for the gradient. Left out
    is what takes one operation a value: gates, biases, the loss, the optimiser.
    """
    hidden, gates = model.hidden, GATES[model.cell] * model.hidden
    times = (n_steps + 1) * batch_size
    first = gates * (2 * (1 + hidden) + hidden)
    another = gates * 3 * (hidden + hidden)
    products = first + (model.layers - 1) * another + 3 * hidden
    of_a_unit = _ACTIVATIONS.get(model.cell, {model.activation: 1})
    activations = {name: times * model.layers * hidden * count for name, count in of_a_unit.items()}
    return {"multiply_add": times * products, **activations}
