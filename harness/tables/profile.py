"""The table `profile`: where the time of an epoch goes, by the profilers that looked at a trial.

A row is a part of the time, a count, the cost of a single thing, or a call. The parts are made of
what the profilers measured (`harness.trial.profile`): the time inside operators and kernels is cut
at what the arithmetic would take at the core's highest rate, and what memory takes beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from harness.tables.columns import columns
from harness.tables.points import with_point
from harness.task.task import Task
from harness.task.work import work
from harness.trial.epoch_time import epoch_s
from harness.trial.profile import Profile
from harness.trial.record import Record

Part: TypeAlias = Literal[
    "arithmetic",
    "memory",
    "system",
    "calls",
    "python",
    "copies",
    "optimiser",
    "prediction",
    "compilation",
    "collection",
    "waiting",
    "rest",
]
PARTS: tuple[Part, ...] = Part.__args__  # type: ignore[attr-defined]
"""In the order of a waterfall: from what nobody can save to what nobody can explain."""
PROFILE = columns("trial backend device seed kind name count seconds share where")
"""The columns and their types."""
_BYTES = "byte:"
"""Begins the costs that are those of a byte, of blocks of so many bytes."""


def profile_table(records: Sequence[Record], swept: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rows of each trial that has a profile; see docs/profile.md for the kinds.

    `seconds` and `count` are per epoch, of all seeds that are trained at once; `share` is that of
    the time of an epoch.
    """
    profiled = [record for record in records if record.profile]
    rows = [
        [
            {name: getattr(record, name) for name in ("trial", "backend", "device", "seed")} | row
            for row in _rows(record, record.profile)
        ]
        for record in profiled
        if record.profile
    ]
    table = pd.DataFrame([row for one in rows for row in one], columns=list(PROFILE))
    return with_point(table.astype(PROFILE), profiled, swept, [len(one) for one in rows])


def parts(profile: Profile, task: Task, at_once: int = 1, threads: int = 1) -> dict[Part, float]:
    """Return the seconds of an epoch that go into each part; they add up to those of the profile.

    Where operators take less than their arithmetic and their traffic would by themselves, because
    one hides behind the other, the traffic counts only as far as it shows.
    """
    stretches = profile.seconds
    own = stretches.get("kernels", 0.0) + stretches.get("other", 0.0)
    arithmetic = min(own, limit_s(profile, task, at_once, threads) or 0.0)
    memory = min(own - arithmetic, _traffic_s(profile) / threads)
    return {
        "arithmetic": arithmetic,
        "memory": memory,
        "system": stretches.get("system", 0.0),
        "calls": stretches.get("calls", 0.0),
        "python": stretches.get("python", 0.0),
        "copies": stretches.get("copies", 0.0),
        "optimiser": stretches.get("optimiser", 0.0),
        "prediction": stretches.get("prediction", 0.0),
        "compilation": stretches.get("compilation", 0.0),
        "collection": stretches.get("collection", 0.0),
        "waiting": stretches.get("waiting", 0.0),
        "rest": own - arithmetic - memory,
    }


def limit_s(profile: Profile, task: Task, at_once: int = 1, threads: int = 1) -> float | None:
    """Return the arithmetic limit of an epoch in seconds: its work at the highest rate of a core.

    Threads are taken to share the work without a loss. None if the core was not measured.
    """
    needed = work(task.model, task.n_steps, task.batch_size)
    if "multiply_add" not in profile.costs:
        return None
    each_s = sum(count * _cost(profile, name) for name, count in needed.items())
    return at_once * each_s / threads


def _traffic_s(profile: Profile) -> float:
    """Return how long the bytes that are read and written take, at the rate of their level.

    Which level of the caches they come from follows from how many a call moves.
    """
    moved = profile.counts.get("bytes", 0.0)
    known = {
        float(name.removeprefix(_BYTES)): seconds
        for name, seconds in profile.costs.items()
        if name.startswith(_BYTES)
    }
    if not moved or not known:
        return 0.0
    counts = map(profile.counts.get, ("kernels", "working_operators", "operators"))
    calls = next(filter(None, counts), 1.0)
    sizes = sorted(known)
    per_byte = np.interp(np.log(moved / calls), np.log(sizes), [known[size] for size in sizes])
    return float(moved * per_byte)


def _cost(profile: Profile, name: str) -> float:
    return profile.costs.get(name, 0.0)


def _rows(record: Record, profile: Profile) -> Iterator[dict[str, Any]]:
    yield {"kind": "source", "name": profile.source, "where": profile.problem}
    if profile.problem:
        return
    task, at_once, threads = record.task, record.at_once, record.threads
    of_epoch, floor_s = profile.epoch_s or np.nan, _cost(profile, "floor_epoch")
    times: Mapping[str, float | None] = {
        "epoch": sum(parts(profile, task, at_once, threads).values()),
        "timed": epoch_s(record),
        "profiled": profile.profiled_s,
        "limit": limit_s(profile, task, at_once, threads),
        "floor": at_once * floor_s if floor_s and threads == 1 else None,
    }
    for name, seconds in times.items():
        if seconds is not None:
            yield {"kind": "time", "name": name, "seconds": seconds, "share": seconds / of_epoch}
    for part, seconds in parts(profile, task, at_once, threads).items():
        yield {"kind": "part", "name": part, "seconds": seconds, "share": seconds / of_epoch}
    for name, count in profile.counts.items():
        yield {"kind": "count", "name": name, "count": count}
    for name, seconds in profile.costs.items():
        yield {"kind": "cost", "name": name, "seconds": seconds}
    for call in profile.calls:
        yield {
            "kind": "call",
            **call.model_dump(exclude={"seconds"}),
            "seconds": call.seconds,
            "share": call.seconds / of_epoch,
        }
