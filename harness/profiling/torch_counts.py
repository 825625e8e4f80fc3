"""How much PyTorch does in an epoch: operators, bytes, products, allocations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count
from math import prod
from typing import Any

from harness.profiling.seen import Train
from harness.profiling.torch_events import Event, Node, record, walk

_MEMORY = "[memory]"
_MANY_EVENTS = 30_000
_BYTES = {"double": 8, "long int": 8, "float": 4, "int": 4, "c10::Half": 2, "c10::BFloat16": 2}
_BYTES |= {"short int": 2, "signed char": 1, "unsigned char": 1, "bool": 1}
_BYTES |= {"c10::complex<float>": 8, "c10::complex<double>": 16}


def counts(train: Train, epochs: int, *, shorter: bool) -> dict[str, float]:
    """Return counts per epoch of a call of `epochs`, and the number of `events` in an epoch.

    If calls may be shorter, two with one and with two epochs are looked at: what the second epoch
    adds, every epoch does; the rest is done once a call. If an epoch has very many events, what is
    done once a call is not worth a second one.
    """
    if not shorter or epochs < 2:
        return {name: n / epochs for name, n in _counted(train, epochs).items()}
    one = _counted(train, 1)
    if one["events"] > _MANY_EVENTS:
        return dict(one)
    two = _counted(train, 2)
    each = {name: two[name] - one[name] for name in one | two}
    return {name: max(0.0, n + (one[name] - n) / epochs) for name, n in each.items()}


def _counted(train: Train, epochs: int) -> Counter[str]:
    raw, _, _ = record(lambda: train(epochs), arguments=True)
    return count_events(raw)


def count_events(raw: Sequence[Any]) -> Counter[str]:
    """Return the counts of a recording with arguments."""
    from torch._C._autograd import DeviceType

    found: Counter[str] = Counter()
    events, by_key = [], {}
    for key, e in zip(count(), raw, strict=False):
        name, start = e.name(), e.start_ns()
        if name == _MEMORY:
            if e.nbytes() > 0:
                found["allocations"] += 1
                found["allocated_bytes"] += e.nbytes()
        elif e.device_type() == DeviceType.CPU:
            events.append(Event(start, start + e.duration_ns(), name, e.start_thread_id(), False))
            by_key[events[-1]] = key
        elif not name.startswith(("Memcpy", "Memset")):
            found["kernels"] += 1
    found["events"] = len(events)

    def leave(node: Node) -> None:
        found["operators"] += node.is_operator
        if node.works:
            found["working_operators"] += 1
            found.update(_amounts(node, raw[by_key[node.event]]))

    walk(events, leave)
    return found


def _amounts(node: Node, e: Any) -> Counter[str]:
    """Return what an operator does: bytes, multiply-adds, whether in double precision."""
    dtypes, shapes = e.dtypes(), e.shapes()
    name = node.event.name.removeprefix("aten::").rstrip("_")
    found: Counter[str] = Counter()
    if "TensorList" in dtypes:
        dtypes, shapes = _flat(dtypes, e.structured_input_shapes())
    sizes = [prod(s) * _BYTES.get(d, 0) for d, s in zip(dtypes, shapes, strict=False)]
    # What it writes is about as large as the largest that it reads; a sum's result is small.
    found["bytes"] = sum(sizes)
    if node.kind == "copy":
        found["copied_bytes"] = found["bytes"]
    found["multiply_adds"] = multiply_adds(name, shapes)
    found["float64"] = any(d == "double" and s for d, s in zip(dtypes, shapes, strict=False))
    return found


def _flat(dtypes: list[str], shapes: list[Any]) -> tuple[list[str], list[list[int]]]:
    """Spread the lists of tensors among the arguments; their types are not recorded."""
    known = next((d for d in dtypes if d in _BYTES), "float")
    flat_dtypes: list[str] = []
    flat_shapes: list[list[int]] = []
    for dtype, shape in zip(dtypes, shapes, strict=False):
        several = dtype == "TensorList"
        flat_dtypes += [known] * len(shape) if several else [dtype]
        flat_shapes += shape if several else [shape]
    return flat_dtypes, flat_shapes


def multiply_adds(name: str, shapes: Sequence[Sequence[int]]) -> int:
    """Return the multiply-adds of a product of matrices, by the shapes of its arguments."""
    factors = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}
    if name not in factors:
        return 0
    left, right = shapes[factors[name] : factors[name] + 2]
    return prod(left) * (right[-1] if len(right) > 1 else 1)
