"""Reads columns of text from a file whose fields are separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import pandas as pd

from harness.errors import InvalidInput, brief, nearest
from harness.inputs.bounded import DATA_BYTES, TooLarge, read_bytes
from harness.inputs.text import decoded

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
_SEPARATOR = re.compile(r'"?sep=([^\w\r\n"])"?(?=[\r\n])', re.IGNORECASE)
"""The first line that Excel reads and writes."""
_COMMENTS = re.compile(r"(?:\s*#[^\r\n]*)*")


def read_columns(
    file: Path, needed: Sequence[str], optional: str, wanted: str, others: Mapping[str, str]
) -> pd.DataFrame:
    """Return columns by their names, as text; the index is the line at which a row begins.

    Names may be in capitals; the column `optional` may be missing, and columns of other names are
    ignored, as are rows without anything in them. `wanted` says what the file should hold, `others`
    what columns may mean that are called otherwise. The file `-` is the standard input.

    Raises `InvalidInput` if it is no such table, or if a row has not as many fields as names.
    """
    text = _text(file, wanted)
    lines, rows = [], []
    try:
        separators, text = _without_comments(text, needed)
        separator, header = _header(text, needed, separators)
        names = _folded(header)
        missing = _missing(header, needed, optional, wanted, others)
        if problems := [*missing, *_doubled(header, (optional, *needed))]:
            raise InvalidInput(*(f"`{file}`: {problem}." for problem in problems))
        columns = [name for name in (optional, *needed) if name in names]
        chosen = itemgetter(*map(names.index, columns))
        for line, row in _rows(text, separator):
            if len(row) != len(names):
                commas = separator == "," and len(row) > len(names) and "." not in "".join(row)
                raise InvalidInput(
                    f"`{file}`, line {line}: there {'is' if len(row) == 1 else 'are'} {len(row)} "
                    f"field{'s' * (len(row) > 1)}, and the row of names has {len(names)}."
                    + " If there are decimal commas, separate fields by semicolons."
                    * commas
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
        if str(file) == "-":
            content = sys.stdin.buffer.read(DATA_BYTES + 1)
            if len(content) > DATA_BYTES:
                raise TooLarge(DATA_BYTES)
        else:
            content = read_bytes(file, DATA_BYTES)
        kind = next((kind for start, kind in _BINARY.items() if content.startswith(start)), "")
        text = "" if kind else decoded(content)
    except OSError as error:
        raise InvalidInput(f"`{file}` cannot be read: {brief(error)}.") from error
    except ValueError as error:
        raise InvalidInput(f"`{file}` cannot be read: {error}; it needs {wanted}.") from error
    if kind:
        raise InvalidInput(f"`{file}` is {kind}; it needs {wanted}.")
    if "\0" in text:
        raise InvalidInput(f"`{file}` is no text: it holds zero bytes; it needs {wanted}.")
    if not text.strip():
        raise InvalidInput(f"`{file}` is empty; it needs {wanted}.")
    return text


def _without_comments(text: str, needed: Sequence[str]) -> tuple[Sequence[str], str]:
    """Return the separators that may be meant, and blank lines for all above the row of names."""
    separators: Sequence[str] = _SEPARATORS
    if line := _SEPARATOR.match(text):
        separators, text = line[1], text[line.end() :]
    if not (comments := _COMMENTS.match(text)) or not comments[0]:
        return separators, text
    above, below = re.sub(r"[^\r\n]", "", comments[0]), text[comments.end() :]
    # NumPy writes the row of names as a comment.
    last = re.split(r"[\r\n]", comments[0])[-1].strip().lstrip("#")
    between = "|".join(map(re.escape, separators))
    named, named_below = (
        len(set(needed) & set(_folded(re.split(between, line)))) > 1
        for line in (last, below.lstrip().partition("\n")[0])
    )
    return separators, above + (last if named and not named_below else "") + below


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


def _header(text: str, needed: Sequence[str], separators: Sequence[str]) -> tuple[str, list[str]]:
    """Return the separator that gives the most needed names, or names, and the row of names."""
    headers: dict[str, list[str]] = {}
    problem = csv.Error("line 1: there is no row of names")
    for separator in separators:
        try:
            first = next(_rows(text, separator), None)  # None: it holds this separator alone.
        except csv.Error as error:
            problem = error
        else:
            headers |= {separator: first[1]} if first else {}
    if not headers:
        raise problem
    return max(
        headers.items(), key=lambda item: (len(set(needed) & set(_folded(item[1]))), len(item[1]))
    )


def _folded(header: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _missing(
    header: Sequence[str],
    needed: Sequence[str],
    optional: str,
    wanted: str,
    others: Mapping[str, str],
) -> Iterator[str]:
    """Yield that columns are missing, if they are, and which ones may be meant."""
    names = _folded(header)
    missing = [name for name in needed if name not in names]
    if not missing:
        return
    long = [name for name in (optional, *missing) if len(name) > 2]
    meant: dict[str, str] = {}
    for other, name in zip(names, header, strict=True):
        known = others.get(re.sub(r"[\s.-]+", "_", other)) or nearest(other, long)
        if known in {optional, *missing} and other not in {optional, *needed}:
            meant.setdefault(known, f" (is it `{name.strip()}`?)")
    missing += [optional] * (optional in meant)
    lacking = " and no ".join(f"`{name}`{meant.get(name, '')}" for name in missing)
    first = ", ".join(f"`{name.strip()}`" for name in header[:_SHOWN])
    wide = not meant and len(missing) == len(needed) < len(names) - 1
    yield (
        f"there is no column {lacking}. It begins with {first}; it needs {wanted}, separated "
        "by commas, semicolons or tabs"
        + ". If each time step has a column, turn the columns into rows"
        * wide
    )


def _doubled(header: Sequence[str], meant: Sequence[str]) -> Iterator[str]:
    """Yield which columns have the same name."""
    names = _folded(header)
    for name in meant:
        places = [number for number, other in enumerate(names) if other == name]
        if len(places) > 1:
            named = " and ".join(f"column {p + 1} (`{header[p].strip()}`)" for p in places)
            yield f"{named} have the same name; rename those that are not meant"
