"""How much PyTorch does in an epoch: operators, bytes, products, allocations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from math import comb, prod
from typing import Any

from harness.profiling.seen import Train
from harness.profiling.torch_device import is_kernel
from harness.profiling.torch_events import Event, Node, record, walk

_MEMORY = "[memory]"
_MANY_EVENTS = 30_000
_BYTES = {"double": 8, "long int": 8, "float": 4, "int": 4, "c10::Half": 2, "c10::BFloat16": 2}
_BYTES |= {"short int": 2, "signed char": 1, "unsigned char": 1, "bool": 1}
_BYTES |= {"c10::complex<float>": 8, "c10::complex<double>": 16}


def counts(train: Train, epochs: int, *, shorter: bool) -> dict[str, float]:
    """Return counts per epoch of a call of `epochs`, and the number of `events` in an epoch.

    If calls may be shorter, those with one and with two epochs are looked at: what the second epoch
    adds, every epoch does; the rest is done once a call. If an epoch has very many events, what is
    done once a call is not worth a second one. An epoch that does more in a longer call, such as to
    copy the data of all epochs, `grows`: for it, a third call shows by how much.
    """
    if not shorter or epochs < 3:
        return _shared(_counted(train, epochs), epochs)
    one = _counted(train, 1)
    if one["events"] > _MANY_EVENTS:
        return _shared(one, 1)
    two = _counted(train, 2)
    each = _difference(two, one)
    whole = {name: one[name] + (epochs - 1) * each[name] for name in each}
    grows = two["bytes"] > 2 * one["bytes"]
    if grows:
        more = _difference(_difference(_counted(train, 3), two), each)
        whole |= {name: whole.get(name, 0) + comb(epochs - 1, 2) * n for name, n in more.items()}
    return _shared(whole | {"grows": epochs * grows}, epochs)


def _shared(whole: Mapping[str, int], epochs: int) -> dict[str, float]:
    return {name: max(0.0, n / epochs) for name, n in whole.items()}


def _difference(more: Mapping[str, int], less: Mapping[str, int]) -> dict[str, int]:
    return {name: more.get(name, 0) - less.get(name, 0) for name in {**less, **more}}


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
        elif is_kernel(e):
            found["kernels"] += 1
    found["events"] = len(events)

    nodes: list[Node] = []
    walk(events, nodes.append)
    for node in nodes:
        found["operators"] += node.is_operator
        if node.works:
            found["working_operators"] += 1
            found.update(_amounts(node, raw[by_key[node.event]]))
    return found


def _amounts(node: Node, e: Any) -> Counter[str]:
    """Return what an operator does: bytes, multiply-adds, whether in double precision."""
    dtypes, shapes = e.dtypes(), e.shapes()
    name = node.event.name.removeprefix("aten::").rstrip("_")
    found: Counter[str] = Counter()
    if "TensorList" in dtypes:
        # Of the tensors in a list, PyTorch 2.11 does not record the shapes.
        shapes = getattr(e, "structured_input_shapes", e.shapes)()
        dtypes, shapes = _flat(dtypes, shapes)
    sizes = [prod(s) * _BYTES.get(d, 0) for d, s in zip(dtypes, shapes, strict=False)]
    # What it writes is not recorded: it is taken to be as large as the largest that it reads.
    found["bytes"] = sum(sizes) + (0 if node.event.name.endswith("_") else max(sizes, default=0))
    if node.copies:
        found["copied_bytes"] = max(sizes, default=0)
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
