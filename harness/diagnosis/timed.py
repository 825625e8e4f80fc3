"""What the rules of time read: the profile of a backend, and what a run knows of its times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from harness.diagnosis.trainings import point_at
from harness.tables.pairs import ARM
from harness.tables.profile import Part
from harness.task.task import Task
from harness.trial.sweep import SweepPoint


class TimedCall(NamedTuple):
    """An operator, a kernel or a function: how often it is called in an epoch, and by whom."""

    name: str
    times: float
    seconds: float
    where: str


@dataclass(frozen=True)
class Timed:
    """A backend on a device at a point of a sweep. Numbers are per epoch, of all seeds at once."""

    arm: str
    """"torch on cpu"."""
    backend: str
    device: str
    task: Task
    threads: int
    at_once: int
    """How many seeds it trains at once."""
    source: str
    epoch_s: float
    parts: Mapping[Part, float]
    """In seconds."""
    counts: Mapping[str, float]
    calls: Sequence[TimedCall]
    limit_s: float | None
    """What the arithmetic would take at the core's highest rate; None if that is unknown."""
    timed_s: float | None
    """The time of an epoch in the timed turns."""
    eval_s: float | None
    """How long all evaluations of the run took."""
    train_s: float | None
    """How long its training takes."""

    def share(self, *parts: Part) -> float:
        """Return the share of some parts in the time of an epoch."""
        return sum(self.parts[part] for part in parts) / self.epoch_s

    def count(self, name: str) -> float:
        """Return a count; 0 if it is unknown."""
        return self.counts.get(name, 0.0)

    @property
    def operations(self) -> float:
        """How many operators or kernels are called."""
        return self.count("kernels") or self.count("operators")

    @property
    def working(self) -> float:
        """How many of them touch elements of arrays."""
        return self.count("working_operators") or self.operations

    @property
    def kind(self) -> str:
        """The name of what is called."""
        return "kernel" if self.count("kernels") else "operator"


def profiled(
    profile: pd.DataFrame, trials: pd.DataFrame, points: Sequence[SweepPoint]
) -> Iterator[tuple[SweepPoint, Timed]]:
    """Yield each backend with a profile at each point of a sweep, at which its first trial stands.

    The tables are those of `harness.tables.profile` and `harness.tables.from_records`.
    """
    keys = [*points[0].values, *ARM]
    for key, of_arm in profile.groupby(keys, sort=False):
        *values, backend, device = map(_plain, key)
        point = point_at(points, values)
        rows = of_arm[of_arm["trial"] == of_arm["trial"].iloc[0]]
        trial = trials[trials["trial"] == rows["trial"].iloc[0]].iloc[0]
        kinds = {kind: part.set_index("name") for kind, part in rows.groupby("kind")}
        if "time" not in kinds:
            continue  # It could not be looked at.
        times = kinds["time"]["seconds"].to_dict()
        calls = kinds.get("call", rows[:0].set_index("name"))
        yield (
            point,
            Timed(
                arm=f"{backend} on {device}",
                backend=str(backend),
                device=str(device),
                task=point.task,
                threads=int(trial["threads"]),
                at_once=int(trial["at_once"]),
                source=str(kinds["source"].index[0]),
                epoch_s=times["epoch"],
                parts=kinds["part"]["seconds"].to_dict(),
                counts=kinds["count"]["count"].to_dict() if "count" in kinds else {},
                calls=[
                    TimedCall(str(name), row["count"], row["seconds"], str(row["where"] or ""))
                    for name, row in calls.iterrows()
                ],
                limit_s=times.get("limit"),
                timed_s=times.get("timed"),
                eval_s=_known(trial["eval_s"]),
                train_s=_known(trial["train_s"]),
            ),
        )


def _plain(value: object) -> object:
    """Return the number of Python for one of NumPy."""
    return value.item() if hasattr(value, "item") else value


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
