"""The four result tables, rebuilt from the records; all derived figures are defined here.

trials: a row per trial. curves: a row per evaluation during training. steps: a row per time step
of the final evaluation. chunks: a row per timed call of the training.

A trial that trained several seeds at once has rows for each of them; of its training time, each
seed has an equal share. A sweep adds its fields as columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.measure.fingerprint import fingerprint, name_kinds
from harness.task.task import Task
from harness.task.yardsticks import Yardsticks, yardsticks
from harness.trial.noise import lost_share, noise
from harness.trial.record import Chunk, CurvePoint, Record

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
    "at_once": "int64",
    "train_at_once_s": "float64",
    "energy_j": "float64",
}
_GPU = ("gpu", "gpu_driver")
_KEY = {"trial": "string", "backend": "string", "device": "string", "seed": "int64"}
CURVES = _KEY | {
    "epoch": "int64",
    "train_s": "float64",
    "train_loss": "float64",
    "eval_mse": "float64",
}
YARDSTICKS = ("variance", "memoryless", "wrong_sign")
STEPS = _KEY | {"t": "int64", "mse": "float64"} | dict.fromkeys(YARDSTICKS, "float64")
CHUNKS = _KEY | {
    "chunk": "int64",
    "wall_s": "float64",
    "cpu_s": "float64",
    "involuntary_switches": "int64",
    "steal_s": "float64",
    "load": "float64",
    "mhz": "float64",
    "energy_j": "float64",
}


# Those columns that a record holds as they are.
_STORED = [name for name in TRIALS if name in Record.model_fields]


def trials_table(
    records: Sequence[Record],
    attempts: Sequence[Record] | None = None,
    swept: Sequence[str] = (),
) -> pd.DataFrame:
    """Return a row per record and seed.

    `lost` says which of the other `attempts` at the same trial were lost, and where.
    """
    lost = _lost(attempts or ())
    records = _by_seed(records)
    kinds = _node_kinds(records)
    means: dict[Task, dict[str, float]] = {}
    rows = []
    for record, kind in zip(records, kinds, strict=True):
        if record.task not in means:
            means[record.task] = _means(record.task)
        row = _trial_row(record, means[record.task])
        rows.append(row | {"node_kind": kind, "lost": lost.get(record.trial, "")})
    return _with_point(pd.DataFrame(rows, columns=list(TRIALS)).astype(TRIALS), records, swept)


def _by_seed(records: Sequence[Record]) -> list[Record]:
    return [part for record in records for part in record.by_seed()]


def _with_point(
    table: pd.DataFrame,
    records: Sequence[Record],
    swept: Sequence[str],
    counts: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Append a column for each swept field of the task; a record has `counts` rows, or one.

    What is measured, and called as one of them, is then called `..._trained`: `epochs`.
    """
    table = table.rename(columns={name: f"{name}_trained" for name in swept})
    for name in swept:
        values = pd.Series([getattr(record.task, name) for record in records])
        table[name] = values if counts is None else values.repeat(list(counts)).to_numpy()
    return table


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


def curves_table(records: Sequence[Record], swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per evaluation during training."""
    records = _by_seed(records)
    counts = [len(record.points) for record in records]
    measured = _columns((p for r in records for p in r.points), CurvePoint, CURVES)
    table = _long(records, counts, measured, CURVES)
    table["train_s"] /= np.repeat([record.at_once for record in records], counts)
    return _with_point(table, records, swept, counts)


def steps_table(records: Sequence[Record], swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per time step of the final evaluation, with the yardsticks beside it."""
    records = _by_seed(records)
    counts = [len(record.step_mse) for record in records]
    exact: dict[Task, dict[str, Any]] = {}
    for record in records:
        if record.task not in exact:
            exact[record.task] = vars(yardsticks(record.task))
    columns: dict[str, Any] = {
        "t": _numbers(counts),
        "mse": np.fromiter((mse for r in records for mse in r.step_mse), float, sum(counts)),
    }
    columns |= {
        name: np.concatenate([exact[r.task][name] for r in records if r.step_mse] or [np.empty(0)])
        for name in YARDSTICKS
    }
    return _with_point(_long(records, counts, columns, STEPS), records, swept, counts)


def chunks_table(records: Sequence[Record], swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per timed call of the training, numbered from 1."""
    counts = [len(record.chunks) for record in records]
    measured = _columns((chunk for r in records for chunk in r.chunks), Chunk, CHUNKS)
    table = _long(records, counts, {"chunk": _numbers(counts)} | measured, CHUNKS)
    return _with_point(table, records, swept, counts)


def _trial_row(record: Record, exact: Mapping[str, float]) -> dict[str, Any]:
    last = record.points[-1] if record.points else None
    train_s = last.train_s / record.at_once if last else None
    mse = sum(record.step_mse) / len(record.step_mse) if record.step_mse else None
    lag = _first_below(record.points, exact["memoryless"])
    reasons = noise(record)
    return {name: getattr(record, name) for name in _STORED} | {
        "epochs": last.epoch if last else 0,
        "train_s": train_s,
        "train_at_once_s": last.train_s if last else None,
        "epochs_per_s": last.epoch / train_s if last and train_s else None,
        "final_mse": mse,
        "r2": None if mse is None else 1 - mse / exact["variance"],
        # Without a lag term there is no lag to be learned.
        "lag_skill": None
        if mse is None or not exact["memoryless"]
        else 1 - mse / exact["memoryless"],
        "epochs_to_lag": lag.epoch if lag else None,
        "seconds_to_lag": lag.train_s / record.at_once if lag else None,
        "at_once": record.at_once,
        "cpu_s": sum(chunk.cpu_s for chunk in record.chunks) if record.chunks else None,
        "lost_share": lost_share(record),
        "energy_j": _energy_j(record),
        "noisy": None if reasons is None else bool(reasons),
        "noise": "; ".join(reasons) if reasons else None,
        "attempts": record.attempt,
        # A process that other trials had warmed up has no import and no compilation to show.
        **({"import_s": None, "first_call_s": None} if record.trials_before else {}),
    }


def _energy_j(record: Record) -> float | None:
    """Return the energy of a seed's training; None if not all is known, or others spent some."""
    joules = [chunk.energy_j for chunk in record.chunks if chunk.energy_j is not None]
    if record.contended or not joules or len(joules) < len(record.chunks):
        return None
    return sum(joules) / record.at_once


def _means(task: Task) -> dict[str, float]:
    """Return the yardsticks averaged over t = 1..T, as the MSE is."""
    exact: Yardsticks = yardsticks(task)
    return {name: float(np.mean(value)) for name, value in vars(exact).items()}


def _first_below(points: Sequence[CurvePoint], memoryless: float) -> CurvePoint | None:
    """Return the first evaluation that no predictor without memory could reach."""
    return next((point for point in points if point.eval_mse < memoryless), None)


def _numbers(counts: Sequence[int]) -> IntArray:
    """Return 1, 2, ..., n for each n, one after the other."""
    return np.concatenate([np.arange(1, count + 1) for count in counts] or [np.arange(0)])


def _columns(
    parts: Iterable[Chunk | CurvePoint], kind: type[Chunk | CurvePoint], columns: Mapping[str, str]
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
