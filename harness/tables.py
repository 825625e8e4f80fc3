"""The four result tables, rebuilt from the records; all derived figures are defined here.

trials: a row per trial. curves: a row per evaluation during training. steps: a row per time step
of the final evaluation. chunks: a row per timed call of the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.fingerprint import fingerprint, name_kinds
from harness.noise import lost_share, noise
from harness.record import Chunk, Point, Record
from harness.task import Task
from harness.yardstick import Yardsticks, yardsticks

IntArray: TypeAlias = npt.NDArray[np.int64]

# Column names and their pandas types; nullable, so that a missing value does not change the type.
TRIALS = {
    "run": "string",
    "trial": "string",
    "block": "int64",
    "backend": "string",
    "device": "string",
    "node": "string",
    "seed": "int64",
    "status": "string",
    "error": "string",
    "epochs": "int64",
    "import_s": "float64",
    "setup_s": "float64",
    "first_call_s": "float64",
    "train_s": "float64",
    "eval_s": "float64",
    "wall_s": "float64",
    "epochs_per_s": "float64",
    "final_mse": "float64",
    "r2": "float64",
    "lag_skill": "float64",
    "epochs_to_lag": "Int64",
    "seconds_to_lag": "float64",
    "peak_rss_mb": "float64",
    "peak_gpu_mb": "float64",
    "threads": "int64",
    "contended": "bool",
    "cpu_s": "float64",
    "lost_share": "float64",
    "noisy": "boolean",
    "noise": "string",
    "attempts": "int64",
    "node_kind": "string",
    "lost": "string",
    "go": "int64",
    "isolation": "string",
    "trials_before": "int64",
}
_GPU = ("gpu", "gpu_driver")
_KEY = {"trial": "string", "backend": "string", "device": "string", "seed": "int64"}
CURVES = _KEY | {
    "epoch": "int64",
    "train_s": "float64",
    "train_loss": "float64",
    "eval_mse": "float64",
}
STEPS = _KEY | {
    "t": "int64",
    "mse": "float64",
    "variance": "float64",
    "memoryless": "float64",
    "wrong_sign": "float64",
}
CHUNKS = _KEY | {
    "chunk": "int64",
    "wall_s": "float64",
    "cpu_s": "float64",
    "involuntary_switches": "int64",
    "steal_s": "float64",
    "load": "float64",
    "mhz": "float64",
}


# Those columns that a record holds as they are.
_STORED = [name for name in TRIALS if name in Record.model_fields]


def trials_table(
    records: Sequence[Record], attempts: Sequence[Record] | None = None
) -> pd.DataFrame:
    """Return a row per record.

    `lost` says which of the other `attempts` at the same trial were lost, and where.
    """
    kinds, lost = _node_kinds(records), _lost(attempts or ())
    means: dict[Task, dict[str, float]] = {}
    rows = []
    for record, kind in zip(records, kinds, strict=True):
        if record.task not in means:
            means[record.task] = _means(record.task)
        row = _trial_row(record, means[record.task])
        rows.append(row | {"node_kind": kind, "lost": lost.get(record.trial, "")})
    return pd.DataFrame(rows, columns=list(TRIALS)).astype(TRIALS)


def _lost(attempts: Sequence[Record]) -> dict[str, str]:
    """Say of each trial which attempts were lost, and where."""
    lost: dict[str, list[str]] = {}
    for record in attempts:
        if record.status == "lost":
            lost.setdefault(record.trial, []).append(f"attempt {record.attempt} on {record.node}")
    return {trial: "; ".join(told) for trial, told in lost.items()}


def _node_kinds(records: Sequence[Record]) -> list[str]:
    """Return the name of the kind of node that each record was measured on.

    Which GPU a node has, trials on the GPU tell also of those on its CPU. What was lost or failed
    early tells nothing; it is counted where others ran on a node of that name.
    """
    kinds = [_machine(record) for record in records]
    gpus = {
        (r.node, *kind.items()): {n: r.environment[n] for n in _GPU if n in r.environment}
        for r, kind in zip(records, kinds, strict=True)
        if r.device == "gpu"
    }
    kinds = [
        kind and kind | gpus.get((record.node, *kind.items()), {})
        for record, kind in zip(records, kinds, strict=True)
    ]
    told = list({tuple(kind.items()): kind for kind in kinds if kind}.values())
    names = dict(zip((tuple(kind.items()) for kind in told), name_kinds(told), strict=True))
    by_node = {r.node: names[tuple(k.items())] for r, k in zip(records, kinds, strict=True) if k}
    other = next(iter(names.values())) if len(names) == 1 else "unknown"
    return [
        names[tuple(kind.items())] if kind else by_node.get(record.node, other)
        for record, kind in zip(records, kinds, strict=True)
    ]


def _machine(record: Record) -> dict[str, str]:
    """Return the fingerprint of a record's node, less its GPU; empty if nothing is known."""
    if not record.environment:
        return {}
    kind = fingerprint(record.environment, record.threads)
    return {name: value for name, value in kind.items() if name not in _GPU}


def curves_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row per evaluation during training."""
    measured = _columns((p for r in records for p in r.points), Point, CURVES)
    return _long(records, [len(r.points) for r in records], measured, CURVES)


def steps_table(records: Sequence[Record], task: Task) -> pd.DataFrame:
    """Return a row per time step of the final evaluation, with the yardsticks beside it."""
    counts = [len(record.step_mse) for record in records]
    t = _numbers(counts)
    columns: dict[str, Any] = {
        "t": t,
        "mse": np.fromiter((mse for r in records for mse in r.step_mse), float, len(t)),
    }
    columns |= {name: exact[t - 1] for name, exact in vars(yardsticks(task)).items()}
    return _long(records, counts, columns, STEPS)


def chunks_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row per timed call of the training, numbered from 1."""
    counts = [len(record.chunks) for record in records]
    measured = _columns((chunk for r in records for chunk in r.chunks), Chunk, CHUNKS)
    return _long(records, counts, {"chunk": _numbers(counts)} | measured, CHUNKS)


def _trial_row(record: Record, exact: Mapping[str, float]) -> dict[str, Any]:
    last = record.points[-1] if record.points else None
    mse = sum(record.step_mse) / len(record.step_mse) if record.step_mse else None
    lag = _first_below(record.points, exact["memoryless"])
    reasons = noise(record)
    return {name: getattr(record, name) for name in _STORED} | {
        "epochs": last.epoch if last else 0,
        "train_s": last.train_s if last else None,
        "epochs_per_s": last.epoch / last.train_s if last and last.train_s else None,
        "final_mse": mse,
        "r2": None if mse is None else 1 - mse / exact["variance"],
        # Without a lag term there is no lag to be learned.
        "lag_skill": None
        if mse is None or not exact["memoryless"]
        else 1 - mse / exact["memoryless"],
        "epochs_to_lag": lag.epoch if lag else None,
        "seconds_to_lag": lag.train_s if lag else None,
        "cpu_s": sum(chunk.cpu_s for chunk in record.chunks) if record.chunks else None,
        "lost_share": lost_share(record),
        "noisy": None if reasons is None else bool(reasons),
        "noise": "; ".join(reasons) if reasons else None,
        "attempts": record.attempt,
        # A process that other trials had warmed up has no import and no compilation to show.
        **({"import_s": None, "first_call_s": None} if record.trials_before else {}),
    }


def _means(task: Task) -> dict[str, float]:
    """Return the yardsticks averaged over t = 1..T, as the MSE is."""
    exact: Yardsticks = yardsticks(task)
    return {name: float(np.mean(value)) for name, value in vars(exact).items()}


def _first_below(points: Sequence[Point], memoryless: float) -> Point | None:
    """Return the first evaluation that no predictor without memory could reach."""
    return next((point for point in points if point.eval_mse < memoryless), None)


def _numbers(counts: Sequence[int]) -> IntArray:
    """Return 1, 2, ..., n for each n, one after the other."""
    return np.concatenate([np.arange(1, count + 1) for count in counts] or [np.arange(0)])


def _columns(
    parts: Iterable[Chunk | Point], kind: type[Chunk | Point], columns: Mapping[str, str]
) -> dict[str, Any]:
    """Return an array of each field of the parts of records that is a column."""
    parts = list(parts)
    names = [field.name for field in fields(kind) if field.name in columns]
    return {
        name: np.array([getattr(part, name) for part in parts], dtype=columns[name])
        for name in names
    }


def _long(
    records: Sequence[Record],
    counts: Sequence[int],
    measured: Mapping[str, Any],
    columns: Mapping[str, str],
) -> pd.DataFrame:
    """Return a table with `counts` rows of each record, which names are repeated in."""
    keys = {
        name: pd.Series([getattr(record, name) for record in records], dtype=kind).array.repeat(
            counts
        )
        for name, kind in _KEY.items()
    }
    return pd.DataFrame(keys | dict(measured), columns=list(columns)).astype(dict(columns))
