"""Vectors for numba: rows of neighbouring numbers that the processor works on at once.

numba compiles loops over single numbers and leaves it to LLVM to find vectors in them. A kernel
written with these vectors names them, and they stay in registers from one operation to the next. A
vector may be wider than a register: LLVM splits it, which gives the processor independent
operations to overlap. Vectors of one type can be added, subtracted, multiplied and divided with the
ordinary operators. No NaN or infinity is lost.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel
from numba.extending import intrinsic, lower_builtin, register_model, type_callable

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function that only compiled code calls; a division by zero gives inf or NaN."""
    options: Any = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast("_Function", numba.njit(function, **options))


class _Lanes(types.Type):  # type: ignore[misc]
    """The type of a vector of `width` numbers."""

    def __init__(self, number: types.Float, width: int) -> None:
        self.number, self.width = number, width
        super().__init__(f"{width} x {number}")


@register_model(_Lanes)
class _LanesModel(PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: _Lanes) -> None:
        super().__init__(
            manager, lanes, ir.VectorType(manager[lanes.number].get_value_type(), lanes.width)
        )


def _operator(symbol: Callable[..., Any], instruction: str) -> None:
    @type_callable(symbol)  # type: ignore[untyped-decorator]
    def typed(_context: Any) -> Any:
        return lambda left, right: left if isinstance(left, _Lanes) and left == right else None

    @lower_builtin(symbol, _Lanes, _Lanes)  # type: ignore[untyped-decorator]
    def lowered(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        # A product and the sum it goes into may become one fused multiply-add.
        return getattr(builder, instruction)(*arguments, flags=("contract",))


_operator(operator.add, "fadd")
_operator(operator.iadd, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


class Vectors(NamedTuple):
    """The functions of compiled code for vectors of one width, other than the operators."""

    load: Any
    """`load(array, index)`: the numbers from array[index] on; the array is contiguous."""
    store: Any
    """`store(array, index, vector)`: write them there."""
    each: Any
    """`each(number)`: a vector of that number."""
    where_less: Any
    """`where_less(a, b, c, d)`: lane by lane c where a < b, else (also with a NaN) d."""
    two_to: Any
    """`two_to(sum)`: 2^n, where the sum is n + 1.5 * 2^52 (2^23 in float32), n an integer."""
    total: Any
    """`total(vector)`: the sum of its lanes."""


def vectors(dtype: str, width: int) -> Vectors:
    """Return the functions for vectors of `width` numbers (a power of two)."""
    lanes = _Lanes(getattr(types, dtype), width)
    return Vectors(*_load_and_store(lanes), *_each_and_where_less(lanes), *_two_to_and_total(lanes))


def _load_and_store(lanes: _Lanes) -> tuple[Any, Any]:
    align = lanes.number.bitwidth // 8

    def address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
        view = context.make_array(array_type)(context, builder, array)
        offset = ir.Constant(ir.IntType(64), 0)
        for size, i in zip(
            cgutils.unpack_tuple(builder, view.shape),
            cgutils.unpack_tuple(builder, index),
            strict=True,
        ):
            offset = builder.add(builder.mul(offset, size), i)
        first = builder.gep(view.data, [offset], inbounds=True)
        return builder.bitcast(first, context.get_value_type(lanes).as_pointer())

    @intrinsic  # type: ignore[untyped-decorator]
    def load(_context: Any, array: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            where = address(context, builder, signature.args[0], *arguments)
            return builder.load(where, align=align)

        return lanes(array, types.UniTuple(types.intp, array.ndim)), code

    @intrinsic  # type: ignore[untyped-decorator]
    def store(_context: Any, array: Any, index: Any, vector: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            where = address(context, builder, signature.args[0], *arguments[:2])
            builder.store(arguments[2], where, align=align)
            return context.get_dummy_value()

        return types.void(array, types.UniTuple(types.intp, array.ndim), lanes), code

    return load, store


def _each_and_where_less(lanes: _Lanes) -> tuple[Any, Any]:
    @intrinsic  # type: ignore[untyped-decorator]
    def each(_context: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            undefined = ir.Constant(context.get_value_type(lanes), ir.Undefined)
            lane = ir.IntType(32)
            first = builder.insert_element(undefined, arguments[0], lane(0))
            zeros = ir.Constant(ir.VectorType(lane, lanes.width), [0] * lanes.width)
            return builder.shuffle_vector(first, undefined, zeros)

        return lanes(lanes.number), code

    @intrinsic  # type: ignore[untyped-decorator]
    def where_less(_context: Any, left: Any, right: Any, then: Any, otherwise: Any) -> Any:
        def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            less = builder.fcmp_ordered("<", *arguments[:2])
            return builder.select(less, *arguments[2:])

        return lanes(lanes, lanes, lanes, lanes), code

    return each, where_less


def _two_to_and_total(lanes: _Lanes) -> tuple[Any, Any]:
    number, width = lanes.number, lanes.width
    mantissa = {32: 23, 64: 52}[number.bitwidth]

    @intrinsic  # type: ignore[untyped-decorator]
    def two_to(_context: Any, vector: Any) -> Any:
        def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            whole = ir.VectorType(ir.IntType(number.bitwidth), width)
            bits = builder.bitcast(arguments[0], whole)
            shift = ir.Constant(whole, [mantissa] * width)
            bias = ir.Constant(
                whole, [((1 << (number.bitwidth - mantissa - 2)) - 1) << mantissa] * width
            )
            power = builder.add(builder.shl(bits, shift), bias)
            return builder.bitcast(power, context.get_value_type(lanes))

        return lanes(lanes), code

    @intrinsic  # type: ignore[untyped-decorator]
    def total(_context: Any, vector: Any) -> Any:
        def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            kind = context.get_value_type(number)
            name = f"llvm.vector.reduce.fadd.v{width}f{number.bitwidth}"
            signature = ir.FunctionType(kind, [kind, context.get_value_type(lanes)])
            reduce = cgutils.get_or_insert_function(builder.module, signature, name)
            return builder.call(reduce, [kind(-0.0), arguments[0]], fastmath=("reassoc",))

        return number(lanes), code

    return two_to, total
