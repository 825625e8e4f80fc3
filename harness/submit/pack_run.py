"""Prints a run for the way home: its manifest and records, compressed, in lines of text.

The source of this module is the command of a job on the head, so that it needs nothing there: it
imports only what comes with Python. `harness.submit.unpack_run` reads what it prints.
"""

import base64
import hashlib
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

LINE = 3000


def bundle(folder: Path) -> Iterator[str]:
    """Yield the lines: a header with sizes and hash, then the content."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        yield "bundle: {}"
        return
    records = sorted((folder / "records").glob("*.json"))
    content = json.dumps(
        {
            "manifest": manifest.read_text("utf-8", "replace"),
            "records": [path.read_text("utf-8", "replace") for path in records],
        }
    ).encode()
    packed = zlib.compress(content, 9)
    text = base64.b64encode(packed).decode()
    header = {
        "packed": len(packed),
        "unpacked": len(content),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    yield "bundle: " + json.dumps(header)
    for start in range(0, len(text), LINE):
        yield "bundle| " + text[start : start + LINE]


if __name__ == "__main__":
    for line in bundle(Path(sys.argv[1]) / sys.argv[2]):
        print(line)  # noqa: T201
