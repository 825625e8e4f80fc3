"""Tables at rest: Parquet and CSV files, which say what they were made from.

Reading a hundred thousand records takes minutes; reading the tables made from them, a second. A
table stands for the records only if they have not changed since, nor what is computed from them.
It may come from a stranger: its types must be ours, and what it decodes to is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from harness.errors import printable
from harness.tables.csv import to_csv

if TYPE_CHECKING:
    from pyarrow import Table

FORMULAS = 3
"""Counts the changes of what is computed in any table. A test tells if it has to grow."""

_MARK = b"harness"
_MOST_CSV_ROWS = 1_000_000
"""A larger table is written as Parquet only: as CSV, it takes minutes and gigabytes."""
MOST_BYTES = 2**30
"""Of a file, and of what it decodes to."""
_BATCH_ROWS = 2**16
# A block of Snappy unpacks to at most some twenty times its size; others, to a thousand times.
_CODECS = {"SNAPPY", "UNCOMPRESSED"}
_NEVER_NULL = {"int64", "bool"}


class Unusable(Exception):
    """A file is not a table as it is written here."""


class Source(NamedTuple):
    """What a table was made from."""

    listing: str
    """Checksum of the names, sizes and dates of the records."""
    contents: str
    """Checksum of the records."""
    formulas: int = FORMULAS


def files(name: str, table: pd.DataFrame, source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file of a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = pa.Table.from_pandas(table, preserve_index=False)
    mark = {_MARK: json.dumps(source._asdict()).encode()}
    content = BytesIO()
    marked = whole.replace_schema_metadata((whole.schema.metadata or {}) | mark)
    pq.write_table(marked, content, write_page_checksum=True)
    yield f"{name}.parquet", content.getvalue()
    if len(table) <= _MOST_CSV_ROWS:
        yield f"{name}.csv", to_csv(table).encode()


class StoredTable:
    """A table in the content of a Parquet file. Every method raises `Unusable`."""

    def __init__(self, content: bytes) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._content = content
        try:
            self._file = pq.ParquetFile(BytesIO(content))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unusable from error

    @property
    def source(self) -> Source:
        """What it was made from, by its own account."""
        try:
            mark = json.loads((self._file.metadata.metadata or {})[_MARK])
            return Source(**mark)
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise Unusable from error

    def read(
        self, types: Mapping[str, str], names: Sequence[str] | None, most_rows: int | None
    ) -> Table:
        """Return the columns `names` of a table of these pandas types; None: all of them."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        there = self._file.schema_arrow
        schema = _schema(tuple(types.items()))
        if there.names != schema.names or _plain(there) != _plain(schema):
            raise Unusable
        if most_rows is not None and self._file.metadata.num_rows > most_rows:
            raise Unusable
        names = schema.names if names is None else names
        texts = [name for name in names if types[name] == "string"]
        groups = (self._file.metadata.row_group(n) for n in range(self._file.num_row_groups))
        if any(g.column(n).compression not in _CODECS for g in groups for n in range(len(types))):
            raise Unusable
        try:
            file = pq.ParquetFile(
                BytesIO(self._content), read_dictionary=texts, page_checksum_verification=True
            )
            wanted = pa.schema([schema.field(name) for name in names])
            batches, left = [], MOST_BYTES
            for batch in file.iter_batches(_BATCH_ROWS, columns=names):
                left -= _checked(batch, texts)
                if left < 0:
                    raise Unusable
                batches.append(batch.cast(wanted))
            table = pa.Table.from_batches(batches, wanted)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unusable from error
        if any(table[name].null_count for name in names if types[name] in _NEVER_NULL):
            raise Unusable
        return table


def _checked(batch: Any, texts: Sequence[str]) -> int:
    """Return how many bytes a batch takes once its texts are no longer shared."""
    import pyarrow.compute as pc

    size = batch.nbytes
    for name in texts:
        column = batch[name]
        column.validate(full=True)  # Whether it is UTF-8.
        values = column.dictionary
        if any(printable(text) != text for text in values.to_pylist() if text is not None):
            raise Unusable
        size += pc.sum(pc.take(pc.binary_length(values), column.indices)).as_py() or 0
    return int(size)


@cache
def _schema(types: tuple[tuple[str, str], ...]) -> Any:
    """Return the columns as this version of pandas writes them."""
    import pyarrow as pa

    empty = pd.DataFrame(columns=[name for name, _ in types]).astype(dict(types))
    return pa.Schema.from_pandas(empty, preserve_index=False)


def _plain(schema: Any) -> list[str]:
    """Return the types of columns. Versions of pandas write texts as strings or large strings."""
    return [str(one).removeprefix("large_") for one in schema.types]
