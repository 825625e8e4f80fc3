"""What a backend's process gets wrong of the protocol: shapes, byte order, order of the values.

An array whose bytes are read or written in a wrong way still has its shape. So this looks for the
ways that explain all answers together: those of the reference, if it is given what the process may
have read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from harness.backend import registry
from harness.backend.model import Model
from harness.backend.process import ProcessWorker
from harness.backend.protocol import Array, Backend, Params
from harness.errors import ContractViolation, WorkerError

View: TypeAlias = Callable[[Params], Params]
"""Returns what arrays become if their bytes are taken in another way."""

_EPOCHS, _STEPS, _PATHS = 2, 4, 3
# Far below the difference that a wrong way makes, far above rounding.
_TOLERANCE = 1e-3


class _Way(NamedTuple):
    """A way to read or write arrays, and what is wrong with it; nothing if it is right."""

    wrong: str
    view: View


class _Sample(NamedTuple):
    """Parameters, and `x` [E, T+1, B] and `y` [E, T, B]."""

    model: Model
    params: Params
    data: Params


def problems(worker: ProcessWorker, model: Model, device: str) -> list[str]:
    """Return a phrase for each fault, such as `it reads parameters as big-endian`.

    Empty if arrays come and go as they should, or in a way that is not known. The process is
    started anew when it breaks the protocol, to see the rest. Raises `Unavailable`.
    """
    sample = _draw(model)
    answers: dict[str, Params] = {}
    found = []
    for name, ask in _REQUESTS.items():
        try:
            backend = worker(model, device)
            answers[name] = ask(backend, backend.init(sample.params), sample.data)
        except (ContractViolation, WorkerError) as error:
            found.append(f"{error}".rstrip("."))
            worker.restart()
    return list(dict.fromkeys(found)) + _explain(sample, answers)


def _loss(backend: Backend[Any], state: Any, data: Params) -> Params:
    """Return the first loss, which does not depend on the optimiser."""
    return {"losses": backend.train(state, data["x"], data["y"])[1][:1]}


_Ask: TypeAlias = Callable[[Backend[Any], Any, Params], Params]
_REQUESTS: Mapping[str, _Ask] = {
    "params": lambda backend, state, _: backend.params(state),
    "predict": lambda backend, state, data: {"outputs": backend.predict(state, data["x"][0])},
    "train": _loss,
}


def _explain(sample: _Sample, answers: Mapping[str, Params]) -> list[str]:
    """Return what is wrong in the simplest combination of ways that explains every answer."""
    backend = registry.load("reference")(sample.model, "cpu")
    names = list(sample.params)
    orders = [sorted(names), sorted(names, key=str.lower), names[::-1], [*names[1:], names[0]]]
    combinations = product(
        [*_ways("it reads parameters"), *(_order("it reads", order) for order in orders)],
        [*_ways("it reads `x` and `y`"), _order("it reads", ["y", "x"])],
        _ways("it writes arrays"),
        [_RIGHT, *(_order("it writes", order) for order in orders)],
    )
    for ways in sorted(combinations, key=lambda ways: sum(bool(way.wrong) for way in ways)):
        if all(_agrees(name, got, sample, ways, backend) for name, got in answers.items()):
            return [way.wrong for way in ways if way.wrong]
    return []


def _agrees(
    name: str, got: Params, sample: _Sample, ways: Sequence[_Way], backend: Backend[Any]
) -> bool:
    """Whether the reference gives this answer to a request, if arrays go these ways."""
    read_params, read_data, write, write_params = (way.view for way in ways)
    params = {n: np.array(value) for n, value in read_params(sample.params).items()}
    if name == "predict":  # Only one array is sent, with two axes.
        data: Params = {"x": read_data({"x": sample.data["x"][0]})["x"][None]}
    else:
        data = read_data(sample.data)
    want = _REQUESTS[name](backend, backend.init(params), data)
    got = write_params(write(got))
    return all(np.allclose(got[n], want[n], rtol=_TOLERANCE, atol=_TOLERANCE) for n in want)


_RIGHT = _Way("", lambda arrays: arrays)


def _ways(who: str) -> list[_Way]:
    """Return the right way, and those that change the order of bytes or values of an array."""

    def swapped(arrays: Params) -> Params:
        return {name: value.byteswap() for name, value in arrays.items()}

    def by_columns(arrays: Params) -> Params:
        return {n: value.reshape(-1).reshape(value.shape, order="F") for n, value in arrays.items()}

    columns = _Way(f"{who} in column-major order", by_columns)
    return [_RIGHT, _Way(f"{who} as big-endian", swapped), columns]


def _order(who: str, order: Sequence[str]) -> _Way:
    """Return the way that takes arrays in this order; it leaves other arrays alone."""

    def cut(arrays: Params) -> Params:
        if arrays.keys() != set(order):
            return arrays
        values = np.concatenate([value.reshape(-1) for value in arrays.values()])
        ends = np.cumsum([arrays[name].size for name in order])
        parts = zip(order, np.split(values, ends[:-1]), strict=True)
        return {name: part.reshape(arrays[name].shape) for name, part in parts}

    return _Way(f"{who} arrays in the order {' '.join(order)}, which is not that of the line", cut)


def _draw(model: Model) -> _Sample:
    """Return random values between 1/8 and 1/2, or their negatives, whatever way they are read."""
    rng = np.random.default_rng(20230801)
    size = np.dtype(model.dtype).itemsize
    exponent = {4: (0x3E, 0x00, 0xFF), 8: (0x3F, 0xC0, 0x1F)}[size]

    def draw(*shape: int) -> Array:
        # The first two bytes are sign and exponent, from either end.
        bytes_ = rng.integers(0, 256, (*shape, size), np.uint8)
        bytes_[..., [0, -1]] = exponent[0] | (bytes_[..., [0, -1]] & 0x80)
        bytes_[..., [1, -2]] = exponent[1] | (bytes_[..., [1, -2]] & exponent[2])
        return bytes_.view(f">f{size}")[..., 0].astype(model.dtype)

    data = {"x": draw(_EPOCHS, _STEPS + 1, _PATHS), "y": draw(_EPOCHS, _STEPS, _PATHS)}
    return _Sample(model, {name: draw(*shape) for name, shape in model.shapes.items()}, data)
