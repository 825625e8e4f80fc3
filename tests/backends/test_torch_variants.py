"""The PyTorch variants: cells, layers, activations, many seeds at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness import Task
from harness.backend import registry
from harness.errors import Unavailable
from harness.measure import parity
from harness.task.data import initial_params, training_chunks

slow = pytest.mark.slow
SMALL: dict[str, Any] = {"n_steps": 8, "hidden": 6}
BROADCAST: dict[str, Any] = {"gradient": "stateful-broadcast"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("torch", {"activation": "relu", "layers": 3}, id="torch-relu-3"),
        pytest.param("torch", {"cell": "gru"}, id="torch-gru-1"),
        pytest.param("torch", {"cell": "gru", "layers": 2}, id="torch-gru-2"),
        pytest.param("torch", {"cell": "lstm", "layers": 2}, id="torch-lstm-2"),
        pytest.param("torch", BROADCAST, id="torch-broadcast"),
        pytest.param("torch", BROADCAST | {"cell": "gru", "layers": 2}, id="torch-broadcast-gru"),
        pytest.param("torch", BROADCAST | {"cell": "lstm", "layers": 2}, id="torch-broadcast-lstm"),
        pytest.param("torch-tuned", {"activation": "relu"}, id="tuned-relu"),
        pytest.param("torch-tuned", {"hidden": 1}, id="tuned-smallest"),
        pytest.param("torch-compile", {}, id="compile", marks=slow),
        pytest.param("torch-compile", {"activation": "relu"}, id="relu", marks=slow),
    ],
)
def test_parity_of_every_network(name: str, changes: dict[str, Any]) -> None:
    checks = list(parity.compare(registry.load(name), "cpu", Task(**{**SMALL, **changes})))
    assert {c.dtype for c in checks} == {"float32", "float64"}
    assert not [str(c) for c in checks if not c.passed]


@pytest.mark.parametrize("activation", ["tanh", pytest.param("relu", marks=slow)])
def test_parity_of_many_seeds(activation: str) -> None:
    task = Task(**SMALL, activation=activation)
    checks = list(parity.compare(registry.load("torch-tuned"), "cpu", task, at_once=9))
    assert {c.at_once for c in checks} == {1, 9}
    assert not [str(c) for c in checks if not c.passed]


def test_a_diverging_seed_leaves_the_others_alone() -> None:
    task = Task(**SMALL, epochs=4)
    backend: Any = registry.load("torch-tuned")(task.model, "cpu")
    starts = [initial_params(task.model, seed) for seed in range(20)]  # More than a group.
    params = {name: np.stack([start[name] for start in starts]) for name in starts[0]}
    x_ERTB, y_ERTB = training_chunks(task, range(20), 0, 4)
    state, expected_ER = backend.train_many(backend.init_many(params), x_ERTB, y_ERTB)
    predicted_RTN = backend.predict_many(state, x_ERTB[0])
    y_ERTB[1, 3] = np.nan
    state, losses_ER = backend.train_many(backend.init_many(params), x_ERTB, y_ERTB)
    assert np.isnan(losses_ER[1:, 3]).all()
    others = np.arange(20) != 3
    np.testing.assert_array_equal(losses_ER[:, others], expected_ER[:, others])
    np.testing.assert_array_equal(
        backend.predict_many(state, x_ERTB[0])[others], predicted_RTN[others]
    )


@pytest.mark.parametrize("name", ["torch-tuned", "torch-compile"])
@pytest.mark.parametrize(("field", "value"), [("cell", "gru"), ("layers", 2), *BROADCAST.items()])
def test_what_a_variant_does_not_train_is_a_sentence(name: str, field: str, value: object) -> None:
    with pytest.raises(Unavailable, match=f"`{name}` does not train .* `{field}` = {value}"):
        registry.load(name)(Task(**{field: value}).model, "cpu")


@pytest.mark.parametrize(("device", "language"), [("cpu", r"C\+\+"), ("gpu", "C")])
def test_a_missing_compiler_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, device: str, language: str
) -> None:
    for name in ("PATH", "CC", "CXX"):
        monkeypatch.setenv(name, "")
    message = f"`torch-compile` on the {device.upper()} needs a {language} compiler, such as g"
    with pytest.raises(Unavailable, match=message):
        registry.load("torch-compile")(Task().model, device)


def test_a_missing_gpu_is_a_sentence() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Unavailable, match="`torch-tuned`: PyTorch finds no usable GPU"):
        registry.load("torch-tuned")(Task().model, "gpu")


def test_a_gpu_trains_as_the_reference_does() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU for PyTorch")
    checks = list(parity.compare(registry.load("torch-tuned"), "gpu", Task(), at_once=9))
    assert not [str(c) for c in checks if not c.passed]
