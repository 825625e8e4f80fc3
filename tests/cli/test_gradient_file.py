"""`parity --gradient`: a gradient that any program wrote is compared, and its fault is named."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.helpers import beginner
from harness import Model
from harness.backend.protocol import Array
from tests.helpers import docs
from tests.helpers.commands import ROOT, Cli

Arrays = dict[str, Any]


def written(
    kind: type[beginner.Right],
    model: Model,
    steps: int = 20,
    paths: int = 4,
    more: Sequence[str] = (),
) -> Arrays:
    """Return what a program in PyTorch would write; `more` may have `output`."""
    program, rng = kind(model), np.random.default_rng(1)

    def draw(*shape: int) -> Array:
        return (rng.standard_normal(shape) / 2).astype(model.dtype)

    params = {name: draw(*shape) for name, shape in model.shapes.items()}
    x_TB, y_TB = draw(steps + 1, paths), draw(steps, paths)
    weights = {n: torch.tensor(value, requires_grad=True) for n, value in params.items()}
    output_TB = program.forward(weights, torch.from_numpy(x_TB))
    loss = program.loss(output_TB, torch.from_numpy(y_TB))
    loss.backward()
    gradient = {
        f"grad_{n}": np.zeros_like(params[n]) if w.grad is None else w.grad.numpy()
        for n, w in weights.items()
    }
    data = {"x": x_TB, "y": y_TB, "output": output_TB.detach().numpy(), "loss": loss.item()}
    return {name: data[name] for name in ("x", "y", "loss", *more)} | params | gradient


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (beginner.CutEverySeven, {}, "its gradient is cut after every 7 steps"),
        (beginner.Detached, {"layers": 2}, "the state is detached at every step"),
        (beginner.FixedStart, {"cell": "lstm"}, "`h0` and `c0` are not trained"),
        (beginner.GateOrder, {"cell": "gru"}, "it takes the gates for z, r, n, as in Keras"),
        (beginner.SumLoss, {"activation": "relu"}, "its loss is a sum over time steps and paths"),
        (beginner.OneStepOff, {"dtype": "float32"}, "it scores output t - 1 against target t"),
        (beginner.Transposed, {}, "it uses `W_hh` transposed"),
    ],
)
def test_the_fault_is_named(
    kind: Any, fields: dict[str, Any], words: str, cli: Cli, tmp_path: Path
) -> None:
    model = replace(Model(hidden=6, dtype="float64"), **fields)
    file = tmp_path / "mine.npz"
    np.savez(file, **written(kind, model))
    settings = ["--set", f"activation={model.activation}"]
    done = cli("parity", "--gradient", file, *settings)
    assert done.returncode == 1
    assert f"{words}" in done.stderr
    assert ", or " not in done.stderr
    assert f"6 hidden units{', 2 layers' * (model.layers > 1)}, {model.dtype}" in done.stderr
    assert "W_hh[" in done.stdout


@pytest.mark.parametrize("suffix", ["npy", "csv"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_right_gradient_in_a_folder_agrees(
    suffix: str, dtype: Any, cli: Cli, tmp_path: Path
) -> None:
    for name, value in written(beginner.Right, Model(hidden=3, dtype=dtype)).items():
        if suffix == "npy":
            np.save(tmp_path / f"{name}.npy", value)
        else:
            digits = "%.9g" if dtype == "float32" else "%.17g"
            np.savetxt(tmp_path / f"{name}.csv", np.atleast_1d(value), digits, delimiter=",")
    done = cli("parity", "--gradient", tmp_path, "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert "agrees with the reference" in done.stderr
    assert ("1e-09" if dtype == "float64" else "0.0001") in done.stdout


@pytest.mark.parametrize(
    ("off", "more", "where"),
    [
        (["grad_W_hh"], [], "the loss agrees, and the gradient of `W_hh` differs"),
        (["grad_W_hh", "grad_b_1"], [], "the gradient of `W_hh`, `b_1` differs"),
        (["loss", "grad_W_hh"], ["output"], "the outputs agree, and the loss differs"),
        (["b_h"], ["output"], "the outputs differ already: it is in the forward pass, or the par"),
        (["b_h"], [], "the loss differs: .* write `output` into the file, too, to tell"),
    ],
)
def test_a_fault_that_is_not_known_is_called_unknown(
    off: list[str], more: list[str], where: str, cli: Cli, tmp_path: Path
) -> None:
    arrays = written(beginner.Right, Model(hidden=3, dtype="float64"), more=more)
    rng = np.random.default_rng(0)
    for name in off:
        arrays[name] = arrays[name] + 0.01 * rng.standard_normal(np.shape(arrays[name]))
    np.savez(tmp_path / "mine.npz", **arrays)
    done = cli("parity", "--gradient", tmp_path / "mine.npz")
    assert done.returncode == 1
    assert re.search(f"no known fault explains it; .*{where}", done.stderr)


def test_a_loss_of_zero_and_a_value_near_the_largest(cli: Cli, tmp_path: Path) -> None:
    right = written(beginner.Right, Model(hidden=3, dtype="float64"))
    nothing = {name: np.zeros_like(value) for name, value in right.items()}
    for arrays in (
        nothing | {"grad_b_1": right["grad_b_1"]},
        right | {"b_1": right["b_1"] + 1e308},
    ):
        np.savez(tmp_path / "mine.npz", **arrays)
        done = cli("parity", "--gradient", tmp_path / "mine.npz")
        assert done.returncode == 1
        assert "no known fault explains it" in done.stderr
        assert "Warning" not in done.stderr


def test_the_gradient_that_the_task_asks_for(cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **written(beginner.Right, Model(hidden=3, dtype="float64")))
    done = cli("parity", "--gradient", tmp_path / "mine.npz", "--preset", "posted")
    assert done.returncode == 1
    assert "the exact one; the task asks for `gradient` = stateful-broadcast" in done.stderr
    assert "reference 0: nothing else is allowed there" in done.stderr
    assert "relative error" not in done.stderr


BAD: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "missing": (lambda a: a.pop("grad_b_1"), "there is no array `grad_b_1`."),
    "no network": (lambda a: a.pop("W_hh"), "there is no array `W_hh`"),
    "no data": (lambda a: a.pop("y"), "there is no array `y`."),
    "unknown": (lambda a: a.update(grad_Whh=1.0), "`grad_Whh` (did you mean `grad_W_hh`?)"),
    "shape": (lambda a: a.update(b_1=np.ones(5)), "`b_1` has shape (5,); expected (20,)."),
    "transposed": (
        lambda a: a.update(W_1=a["W_1"].T),
        "`W_1` has shape (3, 20); expected (20, 3). It is transposed: weights are [out, in].",
    ),
    "paths first": (
        lambda a: a.update(x=a["x"].T, y=a["y"].T),
        "`x` has shape (4, 21) and `y` (4, 20): they are transposed. Time is the first axis",
    ),
    "lengths": (lambda a: a.update(x=a["x"][1:]), "expected [T+1, B] and [T, B]"),
    "network": (lambda a: a.update(W_hh=np.ones((5, 2))), "expected (H, H) of an rnn"),
    "nan": (lambda a: a["x"].fill(np.nan), "`x` has a value that is not a finite number"),
    "text": (lambda a: a.update(loss="low"), "`loss` holds <U3, and must hold numbers"),
    "objects": (lambda a: a.update(loss=np.array([{}])), "holds pickled Python objects"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_sentence(name: str, cli: Cli, tmp_path: Path) -> None:
    arrays = written(beginner.Right, Model(hidden=3, dtype="float64"))
    change, sentence = BAD[name]
    change(arrays)
    np.savez(tmp_path / "mine.npz", **arrays)
    done = cli("parity", "--gradient", tmp_path / "mine.npz")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_text("no zip")
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "x.csv").write_text("1,two\n")
    np.save(tmp_path / "one.npy", np.ones(3))
    for file, sentence in (
        ("missing.npz", "cannot be read"),
        ("mine.npz", "is none of NumPy's files"),
        ("empty", "has no arrays in it"),
        ("words", "two"),
        ("one.npy", "holds a single array"),
    ):
        done = cli("parity", "--gradient", tmp_path / file)
        assert done.returncode == 2, file
        assert sentence in done.stderr, file


def _members(file: Path, **members: bytes) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(f"{name}.npy", content)


def test_files_that_are_odd(cli: Cli, tmp_path: Path) -> None:
    arrays = written(beginner.Right, Model(hidden=3, dtype="float64"))
    for folder in ("packed", "both", "blank"):
        (tmp_path / folder).mkdir()
    with (tmp_path / "packed" / "W_hh.npy").open("wb") as stream:
        np.savez(stream, **arrays)
    np.save(tmp_path / "both" / "W_hh.npy", arrays["W_hh"])
    np.savetxt(tmp_path / "both" / "W_hh.csv", arrays["W_hh"], delimiter=",")
    (tmp_path / "blank" / "W_hh.csv").touch()
    _members(tmp_path / "text.npz", W_hh=b"no array")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }\n"
    huge = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / "W_hh.npy").write_bytes(huge)
    _members(tmp_path / "huge.npz", W_hh=huge)
    np.save(tmp_path / "cut.npy", arrays["W_hh"])
    cut = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(cut.replace(b"), }", b"(, }"))
    np.savez_compressed(tmp_path / "whole.npz", **arrays)
    whole = bytearray((tmp_path / "whole.npz").read_bytes())
    damaged = bytearray(whole)
    damaged[80:120] = bytes(40)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for at in (m.start() for m in re.finditer(rb"PK\x01\x02", whole)):
        whole[at + 8] |= 1  # The flag of an encrypted member.
    (tmp_path / "encrypted.npz").write_bytes(whole)
    arrays["layer500.W_hh"] = np.ones((3, 3))
    np.savez(tmp_path / "deep.npz", **arrays)
    for file, sentence in (
        ("packed", "`W_hh.npy` is a .npz file"),
        ("both", "has both a .npy and a .csv file of `W_hh`"),
        ("blank", "it is empty"),
        ("text.npz", "`W_hh` is not a .npy array"),
        ("huge", "cannot be read"),
        ("huge.npz", "cannot be read"),
        ("cut.npy", "cannot be read"),
        ("damaged.npz", "cannot be read"),
        ("encrypted.npz", "encrypted"),
        ("deep.npz", "more."),
    ):
        done = cli("parity", "--gradient", tmp_path / file)
        assert done.returncode == 2, (file, done.stderr)
        assert sentence in done.stderr, file
        assert "Traceback" not in done.stderr
        assert "Warning" not in done.stderr
        assert len(done.stderr) < 1000, file


def test_what_contradicts_the_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **written(beginner.Right, Model(hidden=3, dtype="float64")))
    for more, sentence in (
        (["--set", "hidden=4"], "`--set hidden=4`"),
        (["--backends", "torch"], "leave out `--backends`"),
    ):
        done = cli("parity", "--gradient", tmp_path / "mine.npz", *more)
        assert done.returncode == 2
        assert sentence in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_lines_of_the_documents_write_a_right_gradient(
    framework: str, cli: Cli, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "backends.md").read_text()
    page = page[page.index("## A gradient from any program") :]
    code = next(c for c in re.findall(r"```python\n(.*?)```", page, re.S) if framework in c)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    done = cli("parity", "--gradient", tmp_path / "mine.npz")
    assert done.returncode == 0, done.stderr


def test_the_file_of_the_documents_agrees(cli: Cli, tmp_path: Path) -> None:
    docs.write_gradient(tmp_path / "mine.npz")
    assert cli("parity", "--gradient", tmp_path / "mine.npz").returncode == 0
