"""Reads columns of text from a file whose fields are separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import pandas as pd

from harness.errors import InvalidInput
from harness.inputs.text import read_text

_SEPARATORS = (",", ";", "\t")
_BINARY = {
    b"\x1f\x8b": "compressed (gzip): unpack it",
    b"PK\x03\x04": "a ZIP archive, as Excel workbooks and NumPy's .npz are: save it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV",
    b"\x93NUMPY": "an array of NumPy: save it as CSV",
    b"PAR1": "Parquet: save it as CSV",
    b"\x89HDF": "HDF5: save it as CSV",
}
_SHOWN = 8


def read_columns(file: Path, needed: Sequence[str], optional: str, wanted: str) -> pd.DataFrame:
    """Return columns by their names, as text; the index is the line at which a row begins.

    Names may be in capitals; the column `optional` may be missing, and columns of other names are
    ignored, as are rows without anything in them. `wanted` says what the file should hold.

    Raises `InvalidInput` if it is no such table, or if a row has not as many fields as names.
    """
    text = _text(file, wanted)
    lines, rows = [], []
    try:
        separator, header = _header(text, needed)
        names = _folded(header)
        if problems := list(_problems(header, needed, optional, wanted)):
            raise InvalidInput(*(f"`{file}`: {problem}." for problem in problems))
        columns = [name for name in (optional, *needed) if name in names]
        chosen = itemgetter(*map(names.index, columns))
        for line, row in _rows(text, separator):
            if len(row) != len(names):
                raise InvalidInput(
                    f"`{file}`, line {line}: there {'is' if len(row) == 1 else 'are'} {len(row)} "
                    f"field{'s' * (len(row) > 1)}, and the row of names has {len(names)}."
                )
            lines.append(line)
            rows.append(chosen(row))
    except csv.Error as error:
        raise InvalidInput(f"`{file}`, {error}.") from error
    if len(rows) == 1:
        raise InvalidInput(f"`{file}` has no rows; it needs {wanted}.")
    return pd.DataFrame(rows[1:], lines[1:], columns, dtype=object)


def _text(file: Path, wanted: str) -> str:
    try:
        with file.open("rb") as content:
            first = content.read(8)
        kind = next((kind for start, kind in _BINARY.items() if first.startswith(start)), "")
        text = "" if kind else read_text(file)
    except OSError as error:
        raise InvalidInput(f"`{file}` cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InvalidInput(f"`{file}` cannot be read: {error}; it needs {wanted}.") from error
    if kind:
        raise InvalidInput(f"`{file}` is {kind}; it needs {wanted}.")
    if "\0" in text:
        raise InvalidInput(f"`{file}` is no text: it holds zero bytes; it needs {wanted}.")
    if not text.strip():
        raise InvalidInput(f"`{file}` is empty; it needs {wanted}.")
    return text


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows in which there is anything, each with the line at which it begins."""
    lines = io.StringIO(text, newline="")
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    line = 1
    try:
        for row in rows:
            if any(map(str.strip, row)):
                yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"line {line}: the quotation marks are not as in CSV ({error})") from None


def _header(text: str, needed: Sequence[str]) -> tuple[str, list[str]]:
    """Return the separator that gives the most of the needed names, and the row of names."""
    headers: dict[str, list[str]] = {}
    for separator in _SEPARATORS:
        try:
            first = next(_rows(text, separator), None)  # None: it holds this separator alone.
        except csv.Error as error:
            problem = error
        else:
            headers |= {separator: first[1]} if first else {}
    if not headers:
        raise problem
    return max(headers.items(), key=lambda item: len(set(needed) & set(_folded(item[1]))))


def _folded(header: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _problems(
    header: Sequence[str], needed: Sequence[str], optional: str, wanted: str
) -> Iterator[str]:
    """Yield what is wrong with the row of names."""
    names = _folded(header)
    missing = [f"`{name}`" for name in needed if name not in names]
    if missing:
        first = ", ".join(f"`{name.strip()}`" for name in header[:_SHOWN])
        lacking = f"there is no column {' and no '.join(missing)}"
        yield (
            f"{lacking}. It begins with {first}; it needs {wanted}, separated by commas, "
            "semicolons or tabs"
        )
    for name in (optional, *needed):
        places = [number for number, other in enumerate(names) if other == name]
        if len(places) > 1:
            named = " and ".join(f"column {p + 1} (`{header[p].strip()}`)" for p in places)
            yield f"{named} have the same name; rename those that are not meant"
