"""The tables in the folder of a run, which stand for its records as long as those do not change.

Whether they have changed is looked up as git does it: if names, sizes and dates are the same, so
are the records; if not (a copy has other dates), a checksum of them all decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from harness.errors import HarnessError, InvalidInput, StoreError
from harness.store.manifest import Manifest
from harness.store.run_folder import Listing, RunFolder
from harness.trial.record import Record

if TYPE_CHECKING:
    import pandas as pd
    from pyarrow import Table

    from harness.tables.stored import Source


EXAMPLED = ("backend", "device", "node", "status", "trial", "attempts", "wall_s")
"""The columns of `trials` that `StoredTables.examples` needs."""

_HEAD_BYTES = 2**20


class StoredTables:
    """The stored tables of a run."""

    def __init__(self, folder: RunFolder, manifest: Manifest) -> None:
        self._folder = folder
        self._plan = manifest.plan

    @property
    def records(self) -> int:
        """How many files there are among the records."""
        return self._listing.records

    @property
    def listing(self) -> str:
        """The checksum of the names, sizes and dates of the records as they are now."""
        return self._listing.checksum

    def source(self) -> Source:
        """Return what tables are made from that are written now. Raises `StoreError`."""
        from harness.tables.stored import Source

        try:
            return Source(self.listing, self._contents)
        except InvalidInput as error:
            raise StoreError(str(error)) from error

    def read(self, name: str, columns: Sequence[str] | None = None) -> Table | None:
        """Return a table, or some columns of it; None if there is none of just these records."""
        from harness.tables.from_records import types_of
        from harness.tables.stored import MOST_BYTES, StoredTable, Unusable

        try:
            # No table is larger than the records that it is made from, but for its head.
            most = min(self._listing.size + _HEAD_BYTES, MOST_BYTES)
            content = self._folder.read(f"{name}.parquet", most)
            if content is None:
                return None
            stored = StoredTable(content)
            if not self._is_of_the_records(stored.source):
                return None
            types = types_of(name, self._plan.points[0].values)
            # The others have as many rows as the records say.
            rows = self.records * (self._plan.at_once or 1) if name == "trials" else None
            table = stored.read(types, columns, rows)
        except (Unusable, HarnessError):
            return None
        return table if self._is_of_the_sweep(table) else None

    def frame(self, name: str) -> pd.DataFrame | None:
        """Return a table as pandas has it; None as `read` does."""
        from harness.tables.from_records import types_of

        table = self.read(name)
        if table is None:
            return None
        frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
        del table
        return frame.astype(types_of(name, self._plan.points[0].values))

    def examples(self, trials: Table | None = None) -> list[Record] | None:
        """Return a record of each backend, device and node: one that ended ok, if there is one.

        `trials`: the table as it was read. Returns None if it is not that of these records.
        """
        table = self.read("trials", EXAMPLED) if trials is None else trials
        if table is None:
            return None
        rows = list(zip(*(table[name].to_pylist() for name in EXAMPLED), strict=True))
        found: dict[tuple[str, str, str], Record] = {}
        for row in sorted(rows, key=lambda row: row[3] != "ok"):
            *source, _, trial, attempt, wall_s = row
            if (key := tuple(source)) not in found:
                record = self._folder.record(trial, attempt)
                # No two measurements have the same.
                if record is None or record.wall_s != wall_s or record.run != self._plan.run:
                    return None
                found[key] = record
        return list(found.values())

    def _is_of_the_records(self, source: Source) -> bool:
        from harness.tables.stored import FORMULAS

        if source.formulas != FORMULAS:
            return False
        return source.listing == self.listing or source.contents == self._contents

    def _is_of_the_sweep(self, table: Table) -> bool:
        known = {
            name: {point.values[name] for point in self._plan.points} for name in self._plan.sweep
        }
        return all(
            set(table[name].unique().to_pylist()) <= values
            for name, values in known.items()
            if name in table.column_names
        )

    @cached_property
    def _listing(self) -> Listing:
        return self._folder.listing(self._of_plan)

    @cached_property
    def _contents(self) -> str:
        return self._folder.contents(self._of_plan)

    @cached_property
    def _of_plan(self) -> bytes:
        """The tables are in the order of the plan."""
        return self._plan.model_dump_json().encode()
