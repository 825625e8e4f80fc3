from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness import InvalidInput, Task
from harness.errors import plain
from harness.runs.request import readable_id
from harness.task.names import OTHER_NAMES
from harness.trial.sweep import grid


def test_the_default_task_is_the_original_program_with_the_right_sign() -> None:
    assert Task().model_dump() == {
        "rho": 0.1,
        "lag_weight": 0.1,
        "lag": 1,
        "train_sign": 1,
        "n_steps": 100,
        "batch_size": 32,
        "epochs": 1000,
        "cell": "rnn",
        "activation": "tanh",
        "layers": 1,
        "hidden": 10,
        "learning_rate": 1e-3,
        "optimiser": "adam",
        "gradient": "exact",
        "dtype": "float32",
        "eval_paths": 2000,
        "curve_points": 20,
    }


@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        ("corrected", {}),
        ("posted", {"train_sign": -1, "gradient": "stateful-broadcast"}),
        ("posted-sign-mended", {"gradient": "stateful-broadcast"}),
        ("posted-gradient-mended", {"train_sign": -1}),
        ("no-lag", {"lag_weight": 0.0}),
        ("strong-lag", {"lag_weight": 1.0}),
        ("far-lag", {"lag_weight": 1.0, "lag": 4}),
    ],
)
def test_presets(preset: str, fields: dict[str, Any]) -> None:
    assert Task.preset(preset) == Task(**fields)
    assert readable_id(Task(**fields)).startswith(f"{preset}-2")


def test_a_preset_can_be_changed() -> None:
    assert Task.preset("strong-lag", epochs=7) == Task(lag_weight=1, epochs=7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rho", 1.0),
        ("rho", -1.0),
        ("rho", float("nan")),
        ("lag_weight", float("inf")),
        ("lag_weight", "much"),
        ("lag", 0),
        ("lag", 101),
        ("lag", 0.1),
        ("lag", "far"),
        ("train_sign", 0),
        ("train_sign", [1]),
        ("n_steps", 0),
        ("batch_size", 2.5),
        ("epochs", -1),
        ("epochs", True),
        ("hidden", None),
        ("learning_rate", 0),
        ("optimiser", "adagrad"),
        ("dtype", "bfloat16"),
        ("cell", "transformer"),
        ("gradient", "broadcast"),
        ("activation", "gelu"),
        ("layers", 0),
        ("eval_paths", 0),
        ("curve_points", 0),
        # It would be factorised until the end of days, or fill the memory.
        ("epochs", 10**18),
        ("epochs", 10**400),
        ("n_steps", 10**9),
        ("layers", 10**6),
        ("lag_weight", 1e200),
    ],
)
def test_a_bad_value_is_refused_by_name_with_the_value_got(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Task(**{field: value})
    assert str(refusal.value).startswith(f"`{field}` = {value!r}: ")


def test_an_endless_value_is_shown_in_part() -> None:
    for value in ("9" * 10**5, 10**5000):
        with pytest.raises(InvalidInput) as refusal:
            Task(epochs=value)
        assert len(str(refusal.value)) < 1100


def test_every_bad_field_is_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as refusal:
        Task(rho=2, epochs=0, lag_wieght=1)  # type: ignore[call-arg]
    assert len(refusal.value.problems) == 3
    assert "did you mean `lag_weight`?" in str(refusal.value)


def test_an_unknown_choice_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean `float32`"):
        Task(dtype="float23")
    with pytest.raises(InvalidInput, match="did you mean `posted`"):
        Task.preset("postd")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("T", "it is called `n_steps`"),
        ("LR", "it is called `learning_rate`"),
        ("batch", "it is called `batch_size`"),
        ("delay", "it is called `lag`"),
        ("hiddenSize", "it is called `hidden`"),
        ("num_epcohs", "did you mean `epochs`"),
        ("size", "did you mean `batch_size`"),
        ("weight", "did you mean `lag_weight`"),
        ("n", "did you mean `n_steps`"),
        ("steps", "`n_steps` are the time steps of a path"),
        ("loss", "the mean squared error"),
        ("seed", "`--seeds`, or `harness.run(seeds=...)`"),
    ],
)
def test_a_field_is_known_by_its_other_names(name: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Task(**{name: 1})
    assert f"unknown name `{name}`" in str(refusal.value)
    assert words in str(refusal.value)
    with pytest.raises(InvalidInput, match=re.escape(words)):
        grid(Task(), {name: [1]})


def test_other_names_mean_fields_and_are_none() -> None:
    meant = set(OTHER_NAMES.values())
    assert {*Task.model_fields} <= meant
    assert all(words in Task.model_fields or " " in words for words in meant)
    fields = {plain(name) for name in Task.model_fields}
    assert not fields & {plain(name) for name in OTHER_NAMES}


def test_only_the_plain_cell_has_a_choice_of_activation() -> None:
    assert Task(activation="relu").model.activation == "relu"
    with pytest.raises(InvalidInput, match=r"`activation` = 'relu': a gru is defined with tanh"):
        Task(activation="relu", cell="gru")


@pytest.mark.parametrize("text", ["-1", "1", "+1"])
def test_text_from_the_command_line_is_understood(text: str) -> None:
    assert Task(train_sign=text, learning_rate="1e-2") == Task(
        train_sign=int(text),
        learning_rate=0.01,
    )


def test_a_task_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Task().epochs = 5  # type: ignore[misc]


@given(epochs=st.integers(1, 10**6), points=st.integers(1, 200), steps=st.integers(1, 10**4))
def test_chunks_are_equal_and_fill_the_curve(epochs: int, points: int, steps: int) -> None:
    try:
        task = Task(epochs=epochs, curve_points=points, n_steps=steps)
    except InvalidInput as refusal:
        nearest = int(str(refusal).split("nearest that can is ")[1].split()[0])
        task = Task(epochs=nearest, curve_points=points, n_steps=steps)
    assert 2 * (task.epochs // task.epochs_per_point) >= min(points, task.epochs)
    assert task.epochs % task.epochs_per_point == 0
    assert task.epochs // task.epochs_per_point <= points
    assert task.epochs_per_point % task.chunk_epochs() == 0


def test_a_long_training_is_cut_into_chunks_that_fit_the_memory() -> None:
    task = Task(epochs=1_000_000)
    values = task.chunk_epochs() * (task.n_steps + 1) * task.batch_size
    assert values <= 2**24


def test_epochs_that_cannot_be_cut_are_refused_with_the_nearest_that_can() -> None:
    with pytest.raises(InvalidInput, match=r"`epochs` = 1009: .* nearest that can is 1010 "):
        Task(epochs=1009)
    assert Task(epochs=1009, curve_points=1).chunk_epochs() == 1009
