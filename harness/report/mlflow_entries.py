"""What is logged to MLflow of a run, and of each of its trials: made from the tables of the run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Any, NamedTuple

import pandas as pd

from harness.runs.results import Run
from harness.store.manifest import PAGE, PLOTS
from harness.tables.csv import to_csv
from harness.tables.metrics import METRICS
from harness.tables.pairs import ARM, KIND
from harness.trial.record import Record

CURVES = ("train_loss", "eval_mse", "train_s")
"""The columns of `curves` that become metrics of a trial, by epoch."""
_LONGEST = 5000
"""Characters of a tag, in any database of MLflow's."""


class MetricValue(NamedTuple):
    """What a metric of MLflow's is at a step; with the fields of `mlflow.entities.Metric`."""

    key: str
    value: float
    timestamp: int
    """In milliseconds since 1970."""
    step: int


@dataclass(frozen=True)
class Entry:
    """What is logged as one run of MLflow's: a run of the harness, or one of its trials."""

    name: str
    status: str
    """FINISHED, FAILED or KILLED."""
    started_ms: int
    ended_ms: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: list[MetricValue]


def of_run(run: Run) -> Entry:
    """Return what is logged of a run as a whole."""
    manifest, plan = run.manifest, run.manifest.plan
    started = _ms(manifest.started_utc)
    ended = max((_ended_ms(record) for record in run.records), default=started)
    params = plan.task.model_dump() | {
        "backends": ",".join(plan.backends),
        "devices": ",".join(plan.devices),
        "threads": plan.threads,
        "packed": plan.packed,
        "rounds": plan.rounds,
    }
    params |= {name: ",".join(map(str, values)) for name, values in plan.sweep.items()}
    tags = manifest.environment | {
        "harness.run": run.name,
        "harness.started": manifest.started_utc,
        "harness.finished": manifest.finished_utc,
        "harness.location": run.location,
        "trials": f"{len(run.records)} of {plan.size}",
        "failures": "\n".join(run.failures),
        "mlflow.note.content": "\n".join(f"- {sentence}" for sentence in run.sentences()),
    }
    finished = plan.settled and not run.missing
    return Entry(
        run.name,
        "FAILED" if run.failures else "FINISHED" if finished else "KILLED",
        started,
        ended,
        _texts(tags),
        _texts(params),
        [MetricValue(name, value, ended, 0) for name, value in _summary(run).items()],
    )


def of_trials(run: Run) -> list[Entry]:
    """Return what is logged of each trial; of one that trained many seeds at once, of each seed."""
    records = {record.trial: record for record in run.records}
    curves, steps = (
        dict(iter(table.groupby(["trial", "seed"], sort=False)))
        for table in (run.curves, run.steps)
    )
    entries = []
    for row in run.trials.to_dict("records"):
        key, record = (row["trial"], row["seed"]), records[row["trial"]]
        metrics = [
            *_curve(record, curves.get(key, run.curves[:0])),
            *_steps(record, steps.get(key, run.steps[:0])),
        ]
        entries.append(_trial(record, row, metrics))
    return entries


def _curve(record: Record, curve: pd.DataFrame) -> Iterator[MetricValue]:
    started = _ms(record.started_utc)
    for row in curve[["epoch", *CURVES]].to_dict("records"):
        # A trial that ended before its first turn has a curve, but no times.
        seconds = 0.0 if math.isnan(row["train_s"]) else row["train_s"]
        at_ms = started + round(seconds * 1000)
        for name in CURVES:
            yield MetricValue(name, float(row[name]), at_ms, int(row["epoch"]))


def _steps(record: Record, steps: pd.DataFrame) -> Iterator[MetricValue]:
    for t, mse in zip(steps["t"], steps["mse"], strict=True):
        yield MetricValue("step_mse", float(mse), _ended_ms(record), int(t))


def _trial(record: Record, row: Mapping[Any, Any], curves: list[MetricValue]) -> Entry:
    ended, seed = _ended_ms(record), row["seed"]
    figures = {name: row[name] for name, metric in METRICS.items() if metric.tracked}
    # In a sweep over `epochs`, that column is what was to be trained.
    figures["epochs_trained"] = row.get("epochs_trained", row["epochs"])
    shown = ("status", "error", "node", "node_kind", "contended", "noisy", "noise", "lost", "block")
    tags = record.environment | {name: row[name] for name in shown}
    tags |= {
        "details": (record.details or "")[-_LONGEST:],
        "harness.run": record.run,
        "harness.trial": record.trial,
        "harness.seed": seed,
        "harness.attempt": f"{record.attempt} at {record.started_utc}",
        "mlflow.source.git.commit": record.environment.get("commit:harness", ""),
    }
    params = record.task.model_dump() | {"backend": record.backend, "device": record.device}
    params |= {"seed": seed, "threads": record.threads, "at_once": record.at_once}
    return Entry(
        record.trial if record.at_once == 1 else f"{record.trial} (seed {seed})",
        "FINISHED" if record.status in {"ok", "diverged"} else "FAILED",
        _ms(record.started_utc),
        ended,
        _texts(tags),
        _texts(params | {"timing": record.timed}),
        [*curves, *(MetricValue(name, v, ended, 0) for name, v in _numbers(figures).items())],
    )


def _summary(run: Run) -> dict[str, float]:
    """Return the numbers of `Run.summary`, each named by backend and device, `torch-cpu/r2`.

    The point of a sweep, and the kind of node where there are several, come first.
    """
    summary = run.summary()
    several_kinds = not summary.empty and summary[KIND].nunique() > 1
    figures: dict[str, float] = {}
    for row in summary.to_dict("records"):
        parts = [f"{name}_{row.pop(name)}" for name in run.swept]
        kind = row.pop(KIND)
        parts += [kind] * several_kinds
        parts.append("-".join(row.pop(name) for name in ARM))
        figures |= {"/".join(map(_name, (*parts, name))): v for name, v in _numbers(row).items()}
    return figures


def files(run: Run) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files that go with a run; the report's if it was made."""
    yield "manifest.json", run.manifest.model_dump_json(indent=1).encode()
    for name in run.tables:
        table, content = run.table(name), BytesIO()
        table.to_parquet(content, index=False)
        yield f"{name}.parquet", content.getvalue()
        yield f"{name}.csv", to_csv(table).encode()
    derived = {
        "summary": run.summary(),
        "comparisons": run.comparisons(),
        "break_even": run.break_even(),
    }
    for name, table in derived.items():
        yield f"{name}.csv", to_csv(table).encode()
    for name in (PAGE, *run.folder.names(PLOTS)):
        if (made := run.folder.read(name)) is not None:
            yield name, made


def _numbers(figures: Mapping[Any, Any]) -> dict[str, float]:
    """Return those figures that are numbers: not text, not missing."""
    return {
        str(name): float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as MLflow takes them, without those that are missing or empty."""
    texts = {
        _name(name): str(value)[:_LONGEST] for name, value in values.items() if value is not None
    }
    return {name: text for name, text in texts.items() if text not in {"", "<NA>"}}


def _name(text: str) -> str:
    """Return a name as every MLflow takes it: `version.torch`."""
    return re.sub(r"[^\w\-. ]", ".", text)


def _ms(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)


def _ended_ms(record: Record) -> int:
    return _ms(record.started_utc) + round(record.wall_s * 1000)
