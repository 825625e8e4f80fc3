"""Prints the manifest and the records of a run, compressed, as lines of text.

The source of this module is the command of a job on the head. So it needs nothing there: it imports
only the standard library. `harness.submit.unpack_run` reads what it prints.
"""

import base64
import hashlib
import json
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

LINE = 3000
MOST_BYTES = 2**26
"""Of a manifest or a record; a larger one is not read."""
_PART = 2**20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def pack(folder: Path) -> Iterator[str]:
    """Yield the lines: a header with sizes and hash, then the content; without a run, `{}`.

    Only regular files are read, and no link is followed.
    """
    packing = zlib.compressobj(9)
    packed, unpacked = bytearray(), 0
    for part in _lines(folder):
        content = part.encode()
        packed += packing.compress(content)
        unpacked += len(content)
    if not unpacked:
        yield "packed run: {}"
        return
    packed += packing.flush()
    text = base64.b64encode(packed).decode()
    header = {
        "packed": len(packed),
        "unpacked": unpacked,
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    yield "packed run: " + json.dumps(header)
    for start in range(0, len(text), LINE):
        yield "packed run| " + text[start : start + LINE]


def _lines(folder: Path) -> Iterator[str]:
    """Yield the parts of the content: each file is a line, a text as JSON, the manifest first.

    Whoever unpacks it takes one at a time.
    """
    manifest = next(_texts(folder, ["manifest.json"]), None)
    if manifest is None:
        return
    yield from _quoted(manifest)
    for record in _texts(folder / "records"):
        yield "\n"
        yield from _quoted(record)


def _texts(path: Path, names: Sequence[str] = ()) -> Iterator[str]:
    """Yield the contents of these files in a folder, or of all that are JSON, by name."""
    try:
        folder = os.open(path, _FOLDER)
    except OSError:
        return
    try:
        for name in names or sorted(os.listdir(folder)):
            text = _text(folder, name) if name.endswith(".json") else None
            if text is not None:
                yield text
    finally:
        os.close(folder)


def _text(folder: int, name: str) -> str | None:
    try:
        number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return None
        with open(number, "rb", closefd=False) as file:
            content = file.read(MOST_BYTES + 1)
    finally:
        os.close(number)
    return content.decode("utf-8", "replace") if len(content) <= MOST_BYTES else None


def _quoted(text: str) -> Iterator[str]:
    """Yield the parts of a JSON string."""
    yield '"'
    for start in range(0, len(text), _PART):
        yield json.dumps(text[start : start + _PART])[1:-1]
    yield '"'


if __name__ == "__main__":
    for line in pack(Path(sys.argv[1]) / sys.argv[2]):
        print(line)  # noqa: T201
