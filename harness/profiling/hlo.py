"""The text of a compiled XLA program: which kernels it executes, how often, and what they do.

XLA prints a program as computations of instructions (`HloModule.to_string`). Most instructions
become a kernel each, a fusion with all that it calls. Loops say how often they turn, if the
compiler knows: `known_trip_count`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath

LARGE_BYTES = 4096
"""Moving less than a page is a call like any other."""

# Nothing is executed for these.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_FREE |= {"add-dependency", "domain", "opt-barrier", "partition-id", "replica-id", "copy-done"}
# They compute nothing.
_MOVING = _FREE | {"copy", "copy-start", "transpose", "reshape", "convert", "broadcast", "slice"}
_MOVING |= {"dynamic-slice", "dynamic-update-slice", "concatenate", "pad", "reverse", "gather"}
_SLICES = ("dynamic-slice", "slice", "gather")

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|\w+_computations?)=(%[\w.\-]+|\{%[^}]*\})")
_TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")
_FUSED_KIND = re.compile(r'"fusion_config":\{"kind":"(\w+)"')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


@dataclass(frozen=True)
class Kernel:
    """An instruction that is executed `count` times in one run of its program."""

    name: str
    opcode: str
    count: float
    bytes: float
    """Read and written by one execution; slices count as what is cut out."""
    multiply_adds: float
    """Of one execution: those of its products, and one for each multiplication of two numbers."""
    float64: bool
    """Whether it computes arrays in double precision."""
    moves: bool
    """Whether it only moves or converts an array of `LARGE_BYTES` or more."""
    where: str
    """The operation of the source, and its line if that is known."""
    optimiser: bool
    """Whether the source is in optax."""
    library: str
    """What XLA calls for it; empty: its own code."""


@dataclass(frozen=True)
class Program:
    """What one run of a compiled program executes."""

    name: str
    kernels: tuple[Kernel, ...]
    trips: Mapping[int, float]
    """Number of turns, by how often a loop turns each time."""
    containers: frozenset[str]
    """Instructions that only execute others: loops, calls, branches."""


@dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    number: int
    """Of a parameter."""
    root: bool

    @cached_property
    def arrays(self) -> list[tuple[str, list[int], float]]:
        """Type, dimensions and bytes of each array that it puts out."""
        found = []
        for kind, bits, dimensions in _ARRAY.findall(self.shape):
            sizes = [int(size) for size in dimensions.split(",") if size]
            found.append((kind, sizes, math.prod(sizes) * int(bits or 8) / 8))
        return found

    @cached_property
    def bytes(self) -> float:
        return sum(size for _, _, size in self.arrays)

    @cached_property
    def elements(self) -> int:
        return sum(math.prod(sizes) for _, sizes, _ in self.arrays)

    @cached_property
    def called(self) -> dict[str, list[str]]:
        return {role: _NAME.findall(names) for role, names in _CALLED.findall(self.attributes)}

    @property
    def trips(self) -> int:
        """How often a loop turns; 0: unknown."""
        found = _TRIPS.search(self.attributes)
        return int(found[1]) if found else 0

    @property
    def turns(self) -> int:
        return self.trips or 1

    def text(self, attribute: str) -> str:
        found = re.search(rf'\b{attribute}="?((?:[^"\\,}} ]|\\.)*)', self.attributes)
        return found[1].replace("\\'", "'") if found else ""


_Computation = Mapping[str, _Instruction]


def program(text: str) -> Program:
    """Return what a run of the program executes. Instructions that it cannot read are left out."""
    return _Reader(text).read()


def module_id(serialised: bytes) -> int | None:
    """Return the `id` of an `HloModuleProto`, field 5: a trace calls it `program_id`."""
    place = 0
    while place < len(serialised):
        key, place = _varint(serialised, place)
        if key == (5 << 3):
            return _varint(serialised, place)[0]
        if key & 7 == 2:  # Bytes, with their number.
            size, place = _varint(serialised, place)
            place += size
        elif key & 7 == 0:
            _, place = _varint(serialised, place)
        else:
            place += 8 if key & 7 == 1 else 4
    return None


def _varint(serialised: bytes, place: int) -> tuple[int, int]:
    """Read a number in groups of seven bits, and return it with the place behind it."""
    value = shift = 0
    while True:
        byte = serialised[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


@dataclass
class _Reader:
    source: str
    computations: dict[str, dict[str, _Instruction]] = field(default_factory=dict)
    trips: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    containers: set[str] = field(default_factory=set)

    def read(self) -> Program:
        entry = current = ""
        for line in self.source.splitlines():
            if header := _HEADER.match(line):
                current = header[2]
                entry = current if header[1] else entry
                self.computations[current] = {}
            elif current and (found := _INSTRUCTION.match(line)):
                instruction = _instruction(found[2], found[3], root=bool(found[1]))
                self.computations[current][instruction.name] = instruction
        frames = _Frames(self.source)
        kernels = [
            self._kernel(one, count, self.computations[home], frames)
            for home, one, count in self._executed(entry, 1)
        ]
        name = self.source.partition(",")[0].removeprefix("HloModule ")
        return Program(name, tuple(kernels), dict(self.trips), frozenset(self.containers))

    def _executed(self, name: str, count: float) -> Iterator[tuple[str, _Instruction, float]]:
        """Yield the kernels of a computation with the numbers of their executions."""
        for one in self.computations.get(name, {}).values():
            if one.opcode == "while":
                self.containers.add(one.name)
                self.trips[one.turns] += count * one.turns
                yield from self._executed(one.called["body"][0], count * one.turns)
                if not one.trips:  # Otherwise nobody asks whether to go on.
                    yield from self._executed(one.called["condition"][0], count * 2)
            elif one.opcode == "conditional":
                self.containers.add(one.name)
                branches = [list(self._executed(b, count)) for b in _all(one.called)]
                yield from max(branches, key=len, default=[])
            elif one.opcode == "call" and "xla_cpu_small_call" not in one.attributes:
                self.containers.add(one.name)
                yield from self._executed(one.called["to_apply"][0], count)
            elif one.opcode not in _FREE:
                yield name, one, count

    def _kernel(
        self, one: _Instruction, count: float, home: _Computation, frames: _Frames
    ) -> Kernel:
        inner = [(one, home, 1.0), *self._inner(one, 1)]
        for loop, _, times in inner:
            if loop.opcode == "while":
                self.trips[loop.turns] += count * times * loop.turns
        where = one.text("op_name").rpartition("/")[2]
        line = frames.line(one)
        return Kernel(
            name=one.name,
            opcode=one.opcode,
            count=count,
            bytes=self._traffic(one, home),
            multiply_adds=sum(n * _multiply_adds(i, c) for i, c, n in inner),
            float64=any(_computes_float64(i) for i, _, _ in inner),
            moves=self._moves(one, home),
            where=f"{where} ({line})" if where and line else where or line,
            optimiser=frames.in_optax(one),
            library=_library(one),
        )

    def _inner(
        self, one: _Instruction, count: float
    ) -> Iterator[tuple[_Instruction, _Computation, float]]:
        """Yield all that a kernel calls; what combines the numbers of a reduction is left out."""
        if one.opcode not in ("fusion", "call", "while"):
            return
        for name in _all(one.called):
            home = self.computations.get(name, {})
            for each in home.values():
                yield each, home, count * one.turns
                yield from self._inner(each, count * one.turns)

    def _moves(self, one: _Instruction, home: _Computation) -> bool:
        if self._traffic(one, home) < 2 * LARGE_BYTES:
            return False
        if one.opcode != "fusion":
            return one.opcode in _MOVING and one.opcode != "broadcast"
        inside = [i for i, _, _ in self._inner(one, 1)]
        reads = any(home[name].elements > 1 for name in one.operands if name in home)
        return reads and all(i.elements <= 1 or i.opcode in _MOVING for i in inside)

    def _traffic(self, one: _Instruction, home: _Computation) -> float:
        operands = [home[name] for name in one.operands if name in home]
        if one.opcode in _SLICES:
            return 2 * one.bytes
        if one.opcode == "dynamic-update-slice":
            return 2 * operands[1].bytes
        inside = self.computations.get(one.called.get("calls", [""])[0], {})
        if one.opcode != "fusion" or not inside:
            return one.bytes + sum(operand.bytes for operand in operands)
        parameters = [i for i in inside.values() if i.opcode == "parameter"]
        roots = [i for i in inside.values() if i.root]
        return sum(_read(p, inside) for p in parameters) + sum(_written(r, inside) for r in roots)


def _instruction(name: str, rest: str, root: bool) -> _Instruction:
    shape, rest = _cut(rest, " ")
    opcode, _, rest = rest.partition("(")
    operands, attributes = _cut(rest, ")")
    number = int(operands) if opcode == "parameter" and operands.isdigit() else -1
    names = tuple(_NAME.findall(operands))
    return _Instruction(name, shape, opcode, names, attributes, number, root)


def _cut(text: str, end: str) -> tuple[str, str]:
    """Split a text at the first `end` that is in no brackets."""
    depth = 0
    for place, letter in enumerate(text):
        if letter == end and depth == 0:
            return text[:place], text[place + 1 :]
        depth += (letter in "([{") - (letter in ")]}")
    return text, ""


def _all(called: Mapping[str, list[str]]) -> list[str]:
    return [name for names in called.values() for name in names]


def _users(name: str, home: _Computation) -> list[_Instruction]:
    """Return who uses a value; what is only seen as another shape, under that name."""
    found = []
    for one in home.values():
        if name in one.operands:
            found += _users(one.name, home) if one.opcode == "bitcast" and not one.root else [one]
    return found


def _read(parameter: _Instruction, home: _Computation) -> float:
    """Return the bytes that a fusion reads of a parameter."""
    users = _users(parameter.name, home)
    if users and all(one.opcode in _SLICES for one in users):
        return min(parameter.bytes, sum(one.bytes for one in users))
    if users and all(
        one.opcode == "dynamic-update-slice" and parameter.elements >= one.elements for one in users
    ):
        return 0  # Written in place.
    return parameter.bytes


def _written(root: _Instruction, home: _Computation) -> float:
    """Return the bytes that a fusion writes."""
    if root.opcode == "tuple":
        return sum(_written(home[name], home) for name in root.operands if name in home)
    if root.opcode == "bitcast" and root.operands[0] in home:
        return _written(home[root.operands[0]], home)
    if root.opcode == "dynamic-update-slice" and root.operands[1] in home:
        return home[root.operands[1]].bytes
    return root.bytes


def _multiply_adds(one: _Instruction, home: _Computation) -> float:
    if not one.arrays or one.arrays[0][0][0] not in "fbc":
        return 0
    if one.opcode == "multiply":
        return one.elements
    contracted = _CONTRACTED.search(one.attributes)
    if one.opcode != "dot" or not contracted or one.operands[0] not in home:
        return 0
    sizes = home[one.operands[0]].arrays[0][1]
    return one.elements * math.prod(sizes[int(axis)] for axis in contracted[1].split(",") if axis)


def _library(one: _Instruction) -> str:
    if one.opcode in ("dot", "convolution"):
        return one.opcode
    if one.opcode == "custom-call":
        return one.text("custom_call_target")
    fused = _FUSED_KIND.search(one.attributes) if one.opcode == "fusion" else None
    return fused[1] if fused else ""


def _computes_float64(one: _Instruction) -> bool:
    return (
        one.opcode not in _MOVING
        and one.elements > 1
        and any(kind in ("f64", "c128") for kind, _, _ in one.arrays)
    )


class _Frames:
    """Where in the source an instruction comes from.

    JAX 0.10 prints tables of files, locations and frames before the program; older versions print
    `source_file` and `source_line` with each instruction.
    """

    def __init__(self, text: str) -> None:
        head = text.partition("\n%")[0]
        number = r"^(\d+) "
        self._files = dict(re.findall(number + '"(.*)"$', head.partition("FunctionNames")[0], re.M))
        locations = re.findall(number + r"\{file_name_id=(\d+) .*?\bline=(\d+)", head, re.M)
        self._locations = {place: (file, line) for place, file, line in locations}
        frames = number + r"\{file_location_id=(\d+)(?: parent_frame_id=(\d+))?"
        self._frames = {at: rest for at, *rest in re.findall(frames, head, re.M)}

    def line(self, one: _Instruction) -> str:
        """Return `file.py:12`, or nothing."""
        for file, line in self._stack(one):
            return f"{PurePath(file).name}:{line}"
        return ""

    def in_optax(self, one: _Instruction) -> bool:
        return any("optax" in PurePath(file).parts for file, _ in self._stack(one))

    def _stack(self, one: _Instruction) -> Iterable[tuple[str, str]]:
        """Yield files and lines, from the inside out."""
        if file := one.text("source_file"):
            yield file, one.text("source_line")
        at = one.text("stack_frame_id")
        for _ in self._frames:
            if at not in self._frames:
                return
            place, parent = self._frames[at]
            file_id, line = self._locations.get(place, ("", ""))
            yield self._files.get(file_id, ""), line
            if parent == at:
                return
            at = parent
