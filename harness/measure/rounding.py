"""Finds out in how many bits a backend multiplies.

Rounding can be imitated, but not to the last digit. So the backend is asked. One weight is
1 + 2^-k, and all others are such that the output is that weight minus one: 2^-k, or zero if the
weight was rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import cast

import numpy as np

from harness.backend import registry
from harness.backend.evidence import STAGES, Evidence, Make, Sample, outputs
from harness.backend.model import Model
from harness.backend.protocol import Array, Params

_IMITATION = "backends.faults.rounded:rounded"
_MATRICES = ("W_xh", "W_hh", "W_1", "W_2")
# A gate with this bias is open, and with its negative closed.
_OPEN = 40.0
# The bits of a product that keeps no 2^-9, no 2^-12, no 2^-30.
_LOST = {9: 8, 12: 11, 30: 24}
_FORMATS = {8: "bfloat16", 11: "TF32", 24: "float32"}
_TOO_LARGE_FOR_HALF = 2.0**17
_AS_FAR = 10
# Adam divides by the size of a gradient, and so it makes much of the rounding of a small one.
_ROUGH = {"steps", "calls"}


def name_rounding(make: Make, sample: Sample, got: Evidence, right: Evidence) -> str:
    """Return a sentence if rounding in products explains what a backend computes, else nothing."""
    ks = [k for k in _LOST if k < 24 or sample.model.dtype == "float64"]
    bits: dict[str, int] = {}
    for matrix in _MATRICES:
        lost = [k for k in ks if _weight(make, sample, matrix, 1 + 2.0**-k, -1) < 2.0**-k / 2]
        if lost:
            bits[matrix] = _LOST[lost[0]]
    if not bits:
        return ""
    fewest = min(bits.values())
    imitation = cast("Callable[[int, Collection[str]], Make]", registry.load(_IMITATION))
    if not _explains(imitation(fewest, bits), sample, got, right):
        return ""
    kind = _FORMATS[fewest]
    large = _weight(make, sample, "W_2", _TOO_LARGE_FOR_HALF, 0)
    if fewest == 11 and large != _TOO_LARGE_FOR_HALF:
        kind = "float16"
    where = (
        "its products"
        if len(bits) == len(_MATRICES)
        else "its products with " + ", ".join(f"`{name}`" for name in bits)
    )
    return f"{where} are computed in {kind}: they keep {fewest} bits of each factor"


def _weight(make: Make, sample: Sample, matrix: str, weight: float, bias: float) -> float:
    """Return the output for x = 1 of a network that computes one weight plus a bias."""
    model = sample.model
    params = {name: np.zeros(shape, model.dtype) for name, shape in model.shapes.items()}
    last = model.prefixes[-1]
    for prefix in model.prefixes:
        _open(model, params, prefix)
        if prefix and matrix in ("W_xh", "W_hh"):
            params[f"{prefix}W_xh"][_row(model), 0] = 1
    params["W_1"][0, 0] = params["W_2"][0, 0] = 1
    match matrix:
        case "W_xh":
            params["W_xh"][_row(model), 0], params["b_h"][_row(model)] = weight, bias
        case "W_hh":
            params["h0"][0], params["W_hh"][_row(model), 0] = 1, weight
            params["b_h"][_row(model)] = bias
        case "W_1":
            _saturate(model, params, last)
            params["W_1"][0, 0], params["b_1"][0] = weight, bias
        case _:
            params["W_1"][0, 0], params["b_1"][0] = 0, 1
            params["W_2"][0, 0], params["b_2"][0] = weight, bias
    probe = replace(sample, params=params, x_ETB=np.ones_like(sample.x_ETB))
    return float(outputs(make, probe)["outputs"]["output"][0, 0])


def _row(model: Model) -> int:
    """Return the row of the first unit's new value, among the gates."""
    return {"rnn": 0, "gru": 2, "lstm": 2}[model.cell] * model.hidden


def _open(model: Model, params: dict[str, Array], prefix: str) -> None:
    """Set the gates so that a layer passes its new value on and forgets its old one."""
    gates = {"rnn": (), "gru": (_OPEN, -_OPEN), "lstm": (_OPEN, -_OPEN, 0, _OPEN)}[model.cell]
    for number, bias in enumerate(gates):
        params[f"{prefix}b_h"][number * model.hidden : (number + 1) * model.hidden] = bias


def _saturate(model: Model, params: dict[str, Array], prefix: str) -> None:
    """Make the first unit of a layer 1."""
    hidden = model.hidden
    value = 1 if model.activation == "relu" and model.cell == "rnn" else _OPEN
    params[f"{prefix}b_h"][_row(model)] = value
    if model.cell == "lstm":  # Its output is tanh(c), so c must be large: it is not forgotten.
        params[f"{prefix}c0"][0] = _OPEN
        params[f"{prefix}b_h"][hidden : 2 * hidden] = _OPEN


def _explains(imitation: Make, sample: Sample, got: Evidence, right: Evidence) -> bool:
    """Return whether a backend is about as far from the reference as the imitation is."""
    imitated = {q: a for observe in STAGES.values() for q, a in observe(imitation, sample).items()}
    return all(
        _distance(got[quantity], arrays) <= _AS_FAR * _distance(imitated[quantity], arrays)
        for quantity, arrays in right.items()
        if quantity not in _ROUGH
    )


def _distance(got: Params, right: Params) -> float:
    """Return the largest root mean square of an array's error, relative to that of the array."""
    return max(
        float(np.linalg.norm(got[name] - value)) / max(float(np.linalg.norm(value)), 1e-300)
        for name, value in right.items()
    )
