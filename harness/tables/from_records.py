"""The four stored tables, rebuilt from the records; every derived value is defined here.

trials: a row per trial. curves: a row per evaluation during training. steps: a row per time step
of the final evaluation. chunks: a row per timed call of the training.

A trial that trained several seeds at once has a row for each; each seed gets an equal share of the
training time. A sweep adds its fields as columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.backend.protocol import Array
from harness.measure.fingerprint import fingerprint, name_kinds
from harness.stats.regression import halves
from harness.tables import memory
from harness.tables.columns import columns
from harness.tables.metrics import METRICS
from harness.tables.points import with_point
from harness.tables.profile import PROFILE
from harness.task.task import Task
from harness.task.yardsticks import yardsticks
from harness.trial.epoch_time import cut_to, epoch_s, mean_epoch_s, of_training
from harness.trial.learned import Learned
from harness.trial.machine_state import InCalm, in_calm
from harness.trial.noise import lost_share, noise
from harness.trial.record import Chunk, CurvePoint, Record
from harness.trial.trajectory import Apart, apart

T = TypeVar("T")
IntArray: TypeAlias = npt.NDArray[np.int64]

TRIALS = columns(
    "run trial block backend device node seed status error epochs import_s setup_s first_call_s "
    "start_s train_s eval_s wall_s epochs_per_s final_mse r2 lag_skill epochs_to_lag "
    "seconds_to_lag peak_rss_mb peak_gpu_mb threads contended cpu_s lost_share noisy noise "
    "attempts node_kind lost go trials_before at_once train_at_once_s energy_j "
    "initial_state_moved timing rounds train_mean_s lag_step cut_to "
    "correction_error apart_from apart_epoch apart_by memory"
) | columns(" ".join(METRICS))
_GPU = ("gpu", "gpu_driver")
_KEY = columns("trial backend device seed")
CURVES = columns("trial backend device seed epoch train_s train_loss eval_mse")
YARDSTICKS = ("variance", "memoryless", "without_lag", "wrong_sign")
STEPS = columns("trial backend device seed t mse") | columns(" ".join(YARDSTICKS))
LAGS = columns("trial backend device seed k true coefficient low high")
CHUNKS = columns(
    "trial backend device seed chunk round counted epochs wall_s waited_s cpu_s "
    "involuntary_switches steal_s load mhz energy_j interpreter_s memory_s epoch loss",
    epochs="Int64",
    epoch="Int64",
)


# What is not said of a training that is not the same as the others'.
_OF_TRAINING = columns("train_s train_mean_s train_at_once_s epochs_per_s seconds_to_lag energy_j")
# Those columns that a record holds as they are.
_STORED = [name for name in TRIALS if name in Record.model_fields]


class Judged(NamedTuple):
    """What only all records of a run together say of each, for each of its seeds."""

    calm: list[InCalm]
    apart: list[Apart | None]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Judged:
        """Compare the records of a run with each other."""
        return cls(_per_seed(records, in_calm), _per_seed(records, apart))


def types_of(name: str, point: Mapping[str, object]) -> dict[str, str]:
    """Return the pandas types of a table's columns; `point` is one of the sweep."""
    tables = {"trials": TRIALS, "curves": CURVES, "steps": STEPS, "chunks": CHUNKS}
    types = (tables | {"lags": LAGS, "profile": PROFILE})[name]
    renamed = {
        f"{column}_trained" if column in point else column: types[column] for column in types
    }
    kinds = {int: "int64", float: "float64", str: "string"}
    return renamed | {field: kinds[type(value)] for field, value in point.items()}


def trials_table(
    records: Sequence[Record],
    attempts: Sequence[Record] | None = None,
    swept: Sequence[str] = (),
    judged: Judged | None = None,
) -> pd.DataFrame:
    """Return a row per record and seed; `lost` names the lost ones of the `attempts` at a trial.

    `judged`: the records as `Judged.of` has them, if that is known.
    """
    lost = _lost(attempts or ())
    calm, differences = judged or Judged.of(records)
    records = _by_seed(records)
    kinds = _node_kinds(records)
    means = {task: _means(task) for task in {record.task for record in records}}
    rows = [
        _trial_row(record, trial, means[record.task])
        | {"node_kind": kind, "lost": lost.get(record.trial, "")}
        | _apart(difference)
        for record, trial, difference, kind in zip(records, calm, differences, kinds, strict=True)
    ]
    return with_point(pd.DataFrame(rows, columns=list(TRIALS)).astype(TRIALS), records, swept)


def _by_seed(records: Sequence[Record]) -> list[Record]:
    return [part for record in records for part in record.by_seed()]


def _per_seed(records: Sequence[Record], of: Callable[[Sequence[Record]], Sequence[T]]) -> list[T]:
    """Return what a function says of the records, for each part that `_by_seed` returns."""
    both = zip(records, of(records), strict=True)
    return [value for record, value in both for _ in record.by_seed()]


def _lost(attempts: Sequence[Record]) -> dict[str, str]:
    """Return for each trial which attempts were lost, and where."""
    lost: dict[str, list[str]] = {}
    for record in attempts:
        if record.status == "lost":
            lost.setdefault(record.trial, []).append(f"attempt {record.attempt} on {record.node}")
    return {trial: "; ".join(attempts) for trial, attempts in lost.items()}


def _node_kinds(records: Sequence[Record]) -> list[str]:
    """Return the name of the kind of node that each record was measured on.

    Only trials on a GPU know which GPU the node has: it counts for the node's other trials, too. A
    trial that was lost or failed early knows nothing: it gets the kind of others on its node.
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
    unlike = {tuple(kind.items()): kind for kind in kinds if kind}
    names = dict(zip(unlike, name_kinds(list(unlike.values())), strict=True))
    by_node = {r.node: names[tuple(k.items())] for r, k in zip(records, kinds, strict=True) if k}
    other = next(iter(names.values())) if len(names) == 1 else "unknown"
    return [
        names[tuple(kind.items())] if kind else by_node.get(record.node, other)
        for record, kind in zip(records, kinds, strict=True)
    ]


def _machine(record: Record) -> dict[str, str]:
    """Return the fingerprint of a record's node without its GPU; empty if nothing is known."""
    if not record.environment:
        return {}
    kind = fingerprint(record.environment, record.threads)
    return {name: value for name, value in kind.items() if name not in _GPU}


def curves_table(
    records: Sequence[Record], swept: Sequence[str] = (), judged: Judged | None = None
) -> pd.DataFrame:
    """Return a row per evaluation during training; `train_s` assumes epochs of equal length."""
    calm, differences = judged or Judged.of(records)
    records = _by_seed(records)
    counts = [len(record.points) for record in records]
    measured = _columns((p for r in records for p in r.points), CurvePoint, CURVES)
    table = _long(records, counts, measured, CURVES)
    each_s = [
        np.nan if unlike else (trial.epoch_s or np.nan) / record.at_once
        for record, trial, unlike in zip(records, calm, differences, strict=True)
    ]
    table["train_s"] = table["epoch"] * np.repeat(each_s, counts)
    return with_point(table, records, swept, counts)


def steps_table(records: Sequence[Record], swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per time step of the final evaluation, with the yardsticks."""
    records = _by_seed(records)
    counts = [len(record.step_mse) for record in records]
    exact = {task: vars(yardsticks(task)) for task in {record.task for record in records}}
    columns: dict[str, Any] = {
        "t": _numbers(counts),
        "mse": np.fromiter((mse for r in records for mse in r.step_mse), float, sum(counts)),
    }
    columns |= {
        name: np.concatenate([exact[r.task][name] for r in records if r.step_mse] or [np.empty(0)])
        for name in YARDSTICKS
    }
    return with_point(_long(records, counts, columns, STEPS), records, swept, counts)


def lags_table(records: Sequence[Record], swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per seed and k: the coefficient of x_{t-k}^2 in its held-out predictions.

    `true` is that of the target. `low` to `high` is the 95 % interval, by paths.
    """
    records = _by_seed(records)
    learned = [record.learned or Learned() for record in records]
    counts = [len(one.coefficients) for one in learned]
    value = _joined([one.coefficients for one in learned])
    half = _joined([halves(np.array(one.coefficient_errors), one.groups) for one in learned])
    weights = map(memory.true, (record.task for record in records), counts)
    columns: dict[str, Any] = {
        "k": _numbers(counts) - 1,
        "true": _joined(list(weights)),
        "coefficient": value,
        "low": value - half,
        "high": value + half,
    }
    return with_point(_long(records, counts, columns, LAGS), records, swept, counts)


def _joined(rows: Sequence[Any]) -> Array:
    return np.concatenate([np.asarray(row, dtype=float) for row in rows] or [np.empty(0)])


def chunks_table(records: Sequence[Record], swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per timed call of the training, numbered from 1."""
    counts = [len(record.chunks) for record in records]
    measured = _columns((chunk for r in records for chunk in r.chunks), Chunk, CHUNKS)
    table = _long(records, counts, {"chunk": _numbers(counts)} | measured, CHUNKS)
    return with_point(table, records, swept, counts)


def _trial_row(record: Record, calm: InCalm, exact: Mapping[str, float]) -> dict[str, Any]:
    """Return the row of a record, given its yardsticks."""
    usual_s, reasons = calm.epoch_s, noise(record, calm.slower_memory)
    last = record.points[-1] if record.points else None
    # Brought to the same state of the machine.
    raw_s, mean_s = epoch_s(record), mean_epoch_s(record)
    mean_s = mean_s * usual_s / raw_s if mean_s and raw_s and usual_s else None
    train_s = last.epoch * usual_s / record.at_once if last and usual_s else None
    mse = sum(record.step_mse) / len(record.step_mse) if record.step_mse else None
    lag = _first_below(record.points, exact["without_lag"])
    return {name: getattr(record, name) for name in _STORED} | {
        "epochs": last.epoch if last else 0,
        "start_s": _start_s(record, train_s),
        "train_s": train_s,
        "train_mean_s": last.epoch * mean_s / record.at_once if last and mean_s else None,
        "train_at_once_s": last.epoch * usual_s if last and usual_s else None,
        "epochs_per_s": record.at_once / usual_s if last and usual_s else None,
        "final_mse": mse,
        "r2": None if mse is None else 1 - mse / exact["variance"],
        # Without a lag term there is no lag to learn.
        "lag_skill": None
        if mse is None or not exact["without_lag"]
        else 1 - mse / exact["without_lag"],
        "epochs_to_lag": lag.epoch if lag else None,
        "seconds_to_lag": lag.epoch * usual_s / record.at_once if lag and usual_s else None,
        "memory": memory.memory(record.learned),
        "lag_step": _epochs_since_last(record.points, lag) if lag else None,
        "at_once": record.at_once,
        "cpu_s": of_training(record, "cpu_s"),
        "timing": record.timed,
        "rounds": max((chunk.round or 0 for chunk in record.chunks), default=0),
        "cut_to": cut_to(record),
        "lost_share": lost_share(record),
        "correction_error": calm.error,
        "energy_j": _energy_j(record),
        "noisy": None if reasons is None else bool(reasons),
        "noise": "; ".join(reasons) if reasons else None,
        "attempts": record.attempt,
        # In a process that other trials have warmed up, nothing is imported or compiled.
        **({"import_s": None, "first_call_s": None} if record.trials_before else {}),
    }


def _apart(difference: Apart | None) -> dict[str, Any]:
    """Return how a trial did not train as others of its block did; then it has no time."""
    if difference is None:
        return {}
    names = {"apart_from": difference.other, "apart_epoch": difference.epoch}
    return names | {"apart_by": difference.by} | dict.fromkeys(_OF_TRAINING)


def _start_s(record: Record, train_s: float | None) -> float | None:
    """Return import, set-up and what the first call took beyond a usual chunk and prediction.

    `train_s` is the steady training of a seed. None if a part is unknown, or if other trials have
    warmed up the process.
    """
    if record.trials_before or not record.points:
        return None
    parts = (record.import_s, record.setup_s, record.first_call_s, record.eval_s, train_s)
    import_s, setup_s, first_call_s, eval_s, train_s = np.array(parts, dtype=float)
    # All seeds of a trial are evaluated at once, and one that diverges not until the end.
    evaluations = max(map(len, (record.points, *(share.points for share in record.shares))))
    epochs = record.points[-1].epoch
    chunk_s = record.task.chunk_epochs(record.at_once) * train_s * record.at_once / epochs
    more_s = np.maximum(first_call_s - chunk_s - eval_s / evaluations, 0.0)
    return float(import_s + setup_s + more_s)


def _energy_j(record: Record) -> float | None:
    """Return the energy of a seed's training; None if it is not known, or includes others'."""
    joules = of_training(record, "energy_j")
    if record.epoch_j is not None and record.points:
        joules = record.epoch_j * record.points[-1].epoch
    return None if record.contended or joules is None else joules / record.at_once


def _means(task: Task) -> dict[str, float]:
    """Return the yardsticks averaged over t = 1..T, as the MSE is."""
    return {name: float(np.mean(value)) for name, value in vars(yardsticks(task)).items()}


def _first_below(points: Sequence[CurvePoint], without_lag: float) -> CurvePoint | None:
    """Return the first evaluation with an error that no predictor without the lag can reach."""
    return next((point for point in points if point.eval_mse < without_lag), None)


def _epochs_since_last(points: Sequence[CurvePoint], point: CurvePoint) -> int:
    """Return the epochs from the evaluation before a point, or the start, to it."""
    return point.epoch - max((p.epoch for p in points if p.epoch < point.epoch), default=0)


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
        name: pd.Series([getattr(part, name) for part in parts], dtype=columns[name]).array
        for name in names
    }


def _long(
    records: Sequence[Record],
    counts: Sequence[int],
    measured: Mapping[str, Any],
    columns: Mapping[str, str],
) -> pd.DataFrame:
    """Return a table with `counts` rows of each record, beside the columns of its key."""
    keys = {
        name: pd.Series([getattr(record, name) for record in records], dtype=kind).array.repeat(
            counts
        )
        for name, kind in _KEY.items()
    }
    return pd.DataFrame(keys | dict(measured), columns=list(columns)).astype(dict(columns))
