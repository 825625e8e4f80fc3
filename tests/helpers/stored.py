"""Stored tables that are not what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet


def forge(path: Path, table: pd.DataFrame | pa.Table, **options: Any) -> None:
    """Replace a stored table by one that says it was made from the same records."""
    mark = parquet.read_schema(path).metadata
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    parquet.write_table(table.replace_schema_metadata(mark), path, **options)
