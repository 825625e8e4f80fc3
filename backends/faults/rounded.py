"""Imitates products in reduced precision: operands are rounded, sums are not."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np

from backends.faults.variation import Variation
from harness.backend.evidence import Make
from harness.backend.model import Model
from harness.backend.protocol import Array, Params


def rounded(bits: int, names: Collection[str]) -> Make:
    """Return the reference whose products with these matrices have operands of so many bits."""
    return partial(_Rounded, bits=bits, names=names)


class _Rounded(Variation):
    def __init__(self, model: Model, bits: int, names: Collection[str]) -> None:
        super().__init__(model)
        # A class of its own, because an array has no place for the number of bits.
        self.matrix = type("Matrix", (_Matrix,), {"bits": bits})
        self.names = names

    def _forward(self, params: Params, x_TB: Array) -> Any:
        return super()._forward(self._marked(params), x_TB)

    def loss_and_gradient(
        self, params: Params, x_TB: Array, y_TB: Array
    ) -> tuple[float, dict[str, Array]]:
        return super().loss_and_gradient(self._marked(params), x_TB, y_TB)

    def _marked(self, params: Params) -> Params:
        return {
            name: value.view(self.matrix) if name.rpartition(".")[2] in self.names else value
            for name, value in params.items()
        }


class _Matrix(np.ndarray[Any, Any]):
    """An array whose products round both operands."""

    bits = 53

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [one.view(np.ndarray) if isinstance(one, _Matrix) else one for one in inputs]
        if ufunc is np.matmul:
            plain = [_round(one, self.bits) for one in plain]
        return getattr(ufunc, method)(*plain, **options)


def _round(value: Array, bits: int) -> Array:
    mantissa, exponent = np.frexp(value)
    rounded: Array = np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)
    return rounded
