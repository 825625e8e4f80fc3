"""Reads a gradient that any program wrote: parameters, one batch, the loss and its gradient.

A `.npz` file, or a folder with a `.npy` or `.csv` file for each array. The parameters have the
names of `Model.shapes`, their gradients `grad_` before it; `x` is [T+1, B], `y` [T, B], `loss` a
number, and `output` [T+1, B] may be left out.
"""

from __future__ import annotations

import io
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.backend.model import GATES, Cell, Model
from harness.backend.protocol import Array, Params
from harness.errors import InvalidInput, brief, did_you_mean
from harness.inputs.bounded import DATA_BYTES, read_bytes
from harness.inputs.text import read_text

GRADIENT = "grad_"
# What NumPy and zipfile raise for files that are damaged, encrypted, or say that they are huge.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
_MOST_NAMED = 5
_WANTED = "a .npz file, or a folder with a .npy or .csv file for each array"


@dataclass(frozen=True)
class GradientFile:
    """What a program computed, in float64 whatever it was written in."""

    model: Model
    params: Params
    x_TB: Array
    y_TB: Array
    loss: float
    gradient: Params
    output_TB: Array | None


def read(path: Path, model: Model, given: frozenset[str] = frozenset()) -> GradientFile:
    """Read a file or a folder.

    Cell, sizes and dtype are inferred; the rest is that of `model`. `given`: the fields of it that
    the user asked for, which the file must not contradict. Raises `InvalidInput` with a sentence
    for everything that is wrong.
    """
    arrays = _arrays(path)
    model = _infer(path, arrays, model, given)
    steps, paths = _batch(path, arrays)
    expected: dict[str, tuple[int, ...]] = {
        **model.shapes,
        **{GRADIENT + name: shape for name, shape in model.shapes.items()},
        "x": (steps + 1, paths),
        "y": (steps, paths),
        "loss": (),
        "output": (steps + 1, paths),
    }
    problems = [*_names(path, arrays, expected), *_shapes(path, arrays, expected)]
    if problems:
        raise InvalidInput(*problems)
    shaped = {
        name: value.astype(np.float64).reshape(expected[name]) for name, value in arrays.items()
    }
    infinite = [
        f"`{path}`: `{name}` has a value that is not a finite number."
        for name, value in shaped.items()
        if not np.isfinite(value).all()
    ]
    if infinite:
        raise InvalidInput(*infinite)
    return GradientFile(
        model,
        {name: shaped[name] for name in model.shapes},
        shaped["x"],
        shaped["y"],
        float(shaped["loss"]),
        {name: shaped[GRADIENT + name] for name in model.shapes},
        shaped.get("output"),
    )


def _arrays(path: Path) -> dict[str, Array]:
    """Return every array by name, as numbers."""
    if os.path.isdir(path):  # `Path.is_dir` raises for a name that is too long.
        files = sorted(f for f in path.iterdir() if f.suffix in {".npy", ".csv"} and f.is_file())
        names = [file.stem for file in files]
        if twice := [f"`{name}`" for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise InvalidInput(f"`{path}` has both a .npy and a .csv file of {_some(twice)}.")
        arrays = {file.stem: _load(file) for file in files}
        if packed := [f"`{name}.npy`" for name in names if isinstance(arrays[name], dict)]:
            raise InvalidInput(f"`{path}`: {_some(packed)} is a .npz file, not a single array.")
    else:
        arrays = _load(path)
        if not isinstance(arrays, dict):
            raise InvalidInput(f"`{path}` holds a single array; the check needs {_WANTED}.")
        if unread := [f"`{name}`" for name, a in arrays.items() if not isinstance(a, np.ndarray)]:
            raise InvalidInput(f"`{path}`: {_some(unread)} is not a .npy array.")
    if not arrays:
        raise InvalidInput(f"`{path}` has no arrays in it; the check needs {_WANTED}.")
    words = [name for name, value in arrays.items() if value.dtype.kind not in "fiu"]
    if words:
        raise InvalidInput(
            *(f"`{path}`: `{n}` holds {arrays[n].dtype}, and must hold numbers." for n in words)
        )
    return arrays


def _load(file: Path) -> Any:
    """Return the array of a file, or the arrays of a .npz file by name."""
    try:
        if file.suffix == ".csv":
            if not (text := read_text(file)).strip():
                raise ValueError("it is empty")
            return np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2)
        loaded = np.load(io.BytesIO(read_bytes(file, DATA_BYTES)))
        return _unpacked(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except _UNREADABLE as error:
        if "pickle" in str(error):
            raise InvalidInput(
                f"`{file}` holds pickled Python objects, or is none of NumPy's files. Objects are "
                "not read, because to read them can run any program: write plain arrays of numbers."
            ) from error
        raise InvalidInput(
            f"`{file}` cannot be read: {brief(error)}; the check needs {_WANTED}."
        ) from error


def _unpacked(arrays: Any) -> dict[str, Any]:
    """Return the arrays of a .npz file. Raises `ValueError` if they are much larger than it."""
    if sum(member.file_size for member in arrays.zip.infolist()) > DATA_BYTES:
        raise ValueError(f"its arrays hold more than {DATA_BYTES:,} bytes")
    return dict(arrays)


def _infer(path: Path, arrays: Mapping[str, Array], model: Model, given: frozenset[str]) -> Model:
    """Return the network that the parameters are of."""
    if "W_hh" not in arrays:
        near = did_you_mean("W_hh", arrays)
        raise InvalidInput(
            f"`{path}`: there is no array `W_hh`{near}; it says which network it is."
        )
    shape = arrays["W_hh"].shape
    cells: dict[int, Cell] = {number: cell for cell, number in GATES.items()}
    rows, hidden = shape if len(shape) == 2 else (0, 0)
    if not hidden or rows % hidden or rows // hidden not in cells:
        transposed = bool(rows) and not hidden % rows and hidden // rows in cells
        raise InvalidInput(
            f"`{path}`: `W_hh` has shape {shape}; expected (H, H) of an rnn, (3 H, H) of a gru or "
            f"(4 H, H) of an lstm{'. It is transposed: weights are [out, in]' * transposed}."
        )
    numbers = {int(m[1]) for name in arrays if (m := re.match(r"layer(\d{1,3})\.", name))}
    dtype: Literal["float32", "float64"] = "float64" if _double(arrays) else "float32"
    found = {
        "hidden": hidden,
        "cell": cells[rows // hidden],
        "layers": max(numbers, default=1),
    }
    wrong = [
        f"`--set {name}={getattr(model, name)}`: `{path}` has {name} = {value}."
        for name, value in found.items()
        if name in given and getattr(model, name) != value
    ]
    if wrong:
        raise InvalidInput(*wrong)
    fields: dict[str, Any] = found
    if "dtype" not in given:
        fields["dtype"] = dtype
    return replace(model, **fields)


@np.errstate(over="ignore")
def _double(arrays: Mapping[str, Array]) -> bool:
    """Return whether the gradient has more digits than float32 has, or than nine in text."""
    values = [v for n, v in arrays.items() if n.startswith(GRADIENT) and v.dtype == np.float64]
    flat = np.concatenate([np.ravel(value) for value in values]) if values else np.zeros(0)
    short = flat.astype(np.float32), np.array([float(f"{value:.9g}") for value in flat])
    return not any(np.array_equal(flat, one) for one in short)


def _batch(path: Path, arrays: Mapping[str, Array]) -> tuple[int, int]:
    """Return T and B."""
    missing = [f"`{name}`" for name in ("x", "y") if name not in arrays]
    if missing:
        raise InvalidInput(f"`{path}`: there is no array {' and no '.join(missing)}.")
    x, y = (arrays[name].shape for name in ("x", "y"))
    # One path may come without its axis.
    x, y = (shape if len(shape) == 2 else (*shape, 1) for shape in (x, y))
    if len(x) == len(y) == 2 and min(y) > 0:
        if x == (y[0] + 1, y[1]):
            return y[0], y[1]
        if x == (y[0], y[1] + 1):
            raise InvalidInput(
                f"`{path}`: `x` has shape {x} and `y` {y}: they are transposed. Time is the first "
                "axis: x is [T+1, B], y [T, B]."
            )
    raise InvalidInput(
        f"`{path}`: `x` has shape {x} and `y` {y}; expected [T+1, B] and [T, B], for T time steps "
        "and B paths (the first input is fed, and its output is not scored)."
    )


def _names(
    path: Path, arrays: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    missing = [f"`{name}`" for name in expected if name not in arrays and name != "output"]
    problems = [f"`{path}`: there is no array {_some(missing, ', no ')}."] if missing else []
    for name in arrays:
        if name not in expected:
            near = did_you_mean(name, expected)
            problems.append(f"`{path}`: unknown array `{name}`{near}.")
    return problems


def _some(names: Sequence[str], between: str = ", ") -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return between.join(names[:_MOST_NAMED]) + f" and {more} more" * (more > 0)


def _shapes(
    path: Path, arrays: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Say which shapes are wrong; axes of length one may be there or not."""
    problems = []
    for name, value in arrays.items():
        want = expected.get(name, value.shape)
        got, squeezed = value.squeeze().shape, tuple(n for n in want if n != 1)
        if got == squeezed:
            continue
        transposed = len(want) == 2 and got == squeezed[::-1]
        axes = "time comes first" if name in {"x", "y", "output"} else "weights are [out, in]"
        problems.append(
            f"`{path}`: `{name}` has shape {value.shape}; expected {want}"
            f"{f'. It is transposed: {axes}' * transposed}."
        )
    return problems
