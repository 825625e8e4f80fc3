"""All runs of a results folder as one table of trials: thousands in seconds.

A run whose stored table is of just its records is read from that table, plus one record for each
backend, device and node, which holds the machine and the code. Otherwise the records are read. What
cannot be read is left out, with a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from harness.errors import HarnessError, InvalidInput, explained, printable
from harness.inputs.commands import command, results_words
from harness.measure.fingerprint import fingerprint, name_kinds
from harness.runs.stored_tables import EXAMPLED, StoredTables
from harness.store.files import LocalFolder
from harness.store.manifest import Manifest
from harness.store.remote import Folder
from harness.store.results_folder import open_folder
from harness.store.run_folder import RunFolder, counting
from harness.tables import from_records
from harness.task.task import Task
from harness.trial.epoch_time import cut_to
from harness.trial.record import Record

Environment: TypeAlias = Mapping[str, str]
_Source: TypeAlias = tuple[int, str, str, str]
"""Number of the run, backend, device, node."""

# The fields of a fingerprint that no update changes.
_HARDWARE = ("cpu", "cores", "cpu_quota", "memory_gb", "gpu", "threads")
_NEEDED = [
    *("run", "trial", "block", "backend", "device", "node", "seed", "status", "train_s"),
    *("epochs_per_s", "final_mse", "contended", "noisy", "attempts", "timing", "at_once"),
    "correction_error",
]
_READ = list(dict.fromkeys((*_NEEDED, *EXAMPLED)))
_BATCH = 2000
"""Records that a table is built from at a time: more take memory, fewer take time."""
_CONNECTIONS = 16


class RunInfo(NamedTuple):
    """What the trials of a run do not say about it."""

    name: str
    started: datetime
    pilot: int
    """Blocks that decided the number of blocks; 0 if none did."""


class Archive(NamedTuple):
    """Everything that was read."""

    runs: list[RunInfo]
    """The oldest first."""
    trials: pd.DataFrame
    """The trials of all runs. `run` is an index of `runs` and `task` one of `tasks`; `block` is
    unique, `block_in_run` the number it had; `node_kind` is the hardware and the threads,
    `together` how many seeds the run trained at once."""
    tasks: list[Task]
    environments: Mapping[_Source, Environment]
    """By number of the run, backend, device and kind of node."""
    warnings: list[str]
    """A sentence for each run or record that was left out."""


class _Reading(NamedTuple):
    """One run."""

    name: str
    started: datetime
    manifest: Manifest
    table: Any
    """Its stored table (Arrow), if usable; `records` then has one record for each source."""
    records: list[Record]
    problems: list[str]


def read_archive(results: str | Path) -> Archive:
    """Read all runs at a path or a URL. Raises `InvalidInput` if there is none."""
    folder = open_folder(results)
    with explained(InvalidInput, f"`{folder.location}` cannot be read"):
        names = [name for name in folder.folders() if not name.startswith(".")]
    collected = _Collection()
    renamed: list[_Reading] = []
    for number, (name, reading) in enumerate(_in_turn(folder, names), 1):
        if isinstance(reading, _Reading):
            # What says that it is another run must not take the place of that.
            is_renamed = reading.manifest.plan.run != name
            renamed.append(reading) if is_renamed else collected.add(reading)
            continue
        collected.warnings.append(printable(f"`{folder.file(name)}` is left out: {reading}"))
        left = len(names) - number
        if left and isinstance(reading.__cause__ or reading, TimeoutError | ConnectionError):
            # Each of the others would take as long to time out.
            count = f"{left} more run{'s were' if left > 1 else ' was'}"
            collected.warnings.append(f"`{folder.location}` stopped answering: {count} not read.")
            break
    for reading in renamed:
        collected.add(reading)
    if not collected.runs:
        measure = command("run", *results_words(folder.location))
        why = [f": {warning}" for warning in collected.warnings] or [f"; `{measure}` measures one."]
        raise InvalidInput(f"`{folder.location}` holds no run{why[0]}")
    return collected.found()


def _in_turn(folder: Folder, names: Sequence[str]) -> Iterator[tuple[str, _Reading | Exception]]:
    """Yield the runs in order; behind a network, several are read at a time."""
    if isinstance(folder, LocalFolder):
        yield from ((name, _read_run(folder.folder(name), name)) for name in names)
        return
    pool = ThreadPoolExecutor(_CONNECTIONS)
    try:
        yield from zip(
            names, pool.map(lambda name: _read_run(folder.folder(name), name), names), strict=True
        )
    finally:
        pool.shutdown(cancel_futures=True)


def _read_run(folder: Folder, name: str) -> _Reading | Exception:
    """Read a run, or return why it cannot be."""
    try:
        files = RunFolder(folder)
        manifest = files.manifest()
        started = _moment(manifest.started_utc)
        if started is None:
            moment = manifest.started_utc
            return InvalidInput(f"its manifest says that it began at `{moment}`, which is no date.")
        stored = StoredTables(files, manifest)
        table = stored.read("trials", [*_READ, *manifest.plan.sweep])
        if table is not None and (examples := stored.examples(table)) is not None:
            return _Reading(name, started, manifest, table, examples, [])
        contents = files.load(manifest)
        return _Reading(
            name,
            started,
            manifest,
            None,
            counting(contents.attempts),
            list(contents.problems.values()),
        )
    except (HarnessError, OSError) as error:
        return error


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


class _Collection:
    """The runs read so far, and their tables."""

    def __init__(self) -> None:
        self.runs: list[RunInfo] = []
        self.warnings: list[str] = []
        self._seen: dict[tuple[str, datetime], str] = {}
        self._stored: list[Any] = []
        self._built: list[pd.DataFrame] = []
        self._pending: list[tuple[int, list[Record]]] = []
        self._tasks: dict[Task, int] = {}
        self._sources: dict[_Source, Environment] = {}
        self._kinds: dict[_Source, tuple[tuple[str, str], ...]] = {}
        self._together: list[int] = []
        self._environments: dict[tuple[tuple[str, str], ...], Environment] = {}

    def add(self, reading: _Reading) -> None:
        """Add a run; one that was copied or has no trial that ended ok is left out."""
        plan, number = reading.manifest.plan, len(self.runs)
        same = self._seen.get((plan.run, reading.started))
        self.warnings += reading.problems
        if same:
            self.warnings.append(f"run `{reading.name}` is left out: it is run `{same}` again.")
            return
        if not any(record.status == "ok" for record in reading.records):
            self.warnings.append(f"run `{reading.name}` is left out: no trial of it ended ok.")
            return
        self._seen[plan.run, reading.started] = reading.name
        self.runs.append(RunInfo(reading.name, reading.started, plan.pilot or 0))
        self._together.append(plan.at_once or 1 if plan.many else 1)
        for record in reading.records:
            if record.status == "ok":
                self._add_source(number, record)
        if reading.table is not None:
            self._stored.append(self._numbered(reading.table, number, reading.manifest))
            return
        self._pending.append((number, reading.records))
        if sum(len(records) for _, records in self._pending) >= _BATCH:
            self._build()

    def _add_source(self, number: int, record: Record) -> None:
        source = (number, record.backend, record.device, record.node)
        if source in self._sources:
            return
        described = dict(record.environment)
        if epochs := cut_to(record):  # What would explain a change, as another version does.
            described["calls cut to"] = f"{epochs} epochs"
        shared = self._environments.setdefault(tuple(sorted(described.items())), described)
        kind = fingerprint(shared, record.threads)
        self._sources[source] = shared
        self._kinds[source] = tuple((n, kind[n]) for n in _HARDWARE if n in kind)

    def _task(self, task: Task) -> int:
        return self._tasks.setdefault(task, len(self._tasks))

    def _numbered(self, table: Any, number: int, manifest: Manifest) -> Any:
        """Return a stored table with the numbers of its run and tasks."""
        import pyarrow as pa

        plan = manifest.plan
        if plan.sweep:
            of_point = {tuple(p.values.values()): self._task(p.task) for p in plan.points}
            columns = [table[name].to_pylist() for name in plan.sweep]
            tasks = [of_point[values] for values in zip(*columns, strict=True)]
        else:
            tasks = [self._task(plan.task)] * len(table)
        return (
            table.select(_NEEDED)
            .set_column(0, "run", pa.array([number] * len(table), pa.int64()))
            .append_column("task", pa.array(tasks, pa.int64()))
        )

    def _build(self) -> None:
        """Build the table of the pending runs, which have no usable stored one."""
        if not self._pending:
            return
        records = [record for _, some in self._pending for record in some]
        rows = [record.at_once for record in records]
        numbers = [number for number, some in self._pending for _ in some]
        table = from_records.trials_table(records)[_NEEDED]
        table["run"] = np.repeat(numbers, rows)
        table["task"] = np.repeat([self._task(record.task) for record in records], rows)
        self._built.append(table)
        self._pending.clear()

    def found(self) -> Archive:
        """Return everything that was added, the runs in the order of time."""
        self._build()
        if self._stored:
            import pyarrow as pa

            self._built.append(pa.concat_tables(self._stored).to_pandas())
        types = {name: from_records.TRIALS[name] for name in _NEEDED} | {
            "run": "int64",
            "task": "int64",
        }
        trials = pd.concat([table.astype(types) for table in self._built], ignore_index=True)
        runs = sorted(self.runs, key=lambda run: (run.started, run.name))
        position = {run.name: number for number, run in enumerate(runs)}
        rank = [position[run.name] for run in self.runs]
        trials["together"] = np.array(self._together)[trials["run"]]
        # One way for a run: "alone" if some of its blocks could not go in rounds.
        trials["timing"] = trials.groupby(["run", "device"])["timing"].transform("min")
        kinds = list(dict.fromkeys(self._kinds.values()))
        names = dict(zip(kinds, name_kinds([dict(kind) for kind in kinds]), strict=True))
        trials = _with_kinds(trials, {source: names[kind] for source, kind in self._kinds.items()})
        trials["run"] = np.array(rank)[trials["run"]]
        trials["block_in_run"] = trials["block"]
        trials["block"] = trials.groupby(["run", "block_in_run"]).ngroup()
        environments = {
            (
                rank[number],
                backend,
                device,
                names[self._kinds[number, backend, device, node]],
            ): env
            for (number, backend, device, node), env in reversed(self._sources.items())
        }
        return Archive(
            runs,
            trials.sort_values(["run", "block"], kind="stable", ignore_index=True),
            list(self._tasks),
            environments,
            self.warnings,
        )


def _with_kinds(trials: pd.DataFrame, kinds: Mapping[_Source, str]) -> pd.DataFrame:
    """Return the trials with their kinds of nodes.

    A failed trial does not say what its node was: it gets the kind of other trials of its run, or
    is left out.
    """
    sources = pd.DataFrame(
        [(*source, kind) for source, kind in kinds.items()],
        columns=["run", "backend", "device", "node", "node_kind"],
    ).astype(dict.fromkeys(("backend", "device", "node", "node_kind"), "string"))
    trials["node_kind"] = pd.Series(pd.NA, index=trials.index, dtype="string")
    for less in ([], ["backend"], ["backend", "node"]):
        keys = [name for name in ("run", "backend", "device", "node") if name not in less]
        known = sources.drop_duplicates(keys)[[*keys, "node_kind"]]
        found = trials[keys].merge(known, on=keys, how="left")["node_kind"]
        trials["node_kind"] = trials["node_kind"].fillna(found)
    return trials[trials["node_kind"].notna()].reset_index(drop=True)
