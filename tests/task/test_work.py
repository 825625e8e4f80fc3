"""The least arithmetic of an epoch, against what PyTorch counts when it trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from backends.torch_backend import TorchBackend
from harness.backend.model import HEAD, Model
from harness.task.work import work

STEPS, BATCH = 7, 5


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_products_are_those_of_torch_but_for_the_head(cell: Any, layers: int) -> None:
    """PyTorch keeps the two linear layers of the head apart: 3 D (H + 1) instead of 3 H."""
    model = Model(hidden=6, cell=cell, layers=layers, dtype="float64")
    backend = TorchBackend(model, "cpu")
    state = backend.init({name: np.ones(shape) for name, shape in model.shapes.items()})
    with FlopCounterMode(display=False) as counter:
        backend.train(state, np.ones((1, STEPS + 1, BATCH)), np.ones((1, STEPS, BATCH)))
    head = (STEPS + 1) * BATCH * 3 * (HEAD * (model.hidden + 1) - model.hidden)
    assert counter.get_total_flops() == 2 * (head + work(model, STEPS, BATCH)["multiply_add"])


def test_activations_are_counted_by_name() -> None:
    def count(model: Model) -> dict[str, int]:
        found = work(model, n_steps=9, batch_size=2)
        del found["multiply_add"]
        return found

    assert count(Model(hidden=3)) == {"tanh": 60}
    assert count(Model(hidden=3, activation="relu", layers=2)) == {"relu": 120}
    assert count(Model(hidden=3, cell="gru")) == {"sigmoid": 120, "tanh": 60}
    assert count(Model(hidden=3, cell="lstm")) == {"sigmoid": 180, "tanh": 120}
