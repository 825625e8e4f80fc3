"""Prints the manifest and the records of a run, compressed, as lines of text.

The source of this module is the command of a job on the head. So it needs nothing there: it imports
only the standard library. `harness.submit.unpack_run` reads what it prints.
"""

import base64
import hashlib
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

LINE = 3000


def pack(folder: Path) -> Iterator[str]:
    """Yield the lines: a header with sizes and hash, then the content; without a run, `{}`."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        yield "packed run: {}"
        return
    # Each file is a line: a text as JSON. Whoever unpacks it takes one at a time.
    records = sorted((folder / "records").glob("*.json"))
    files = [manifest, *filter(Path.is_file, records)]
    content = "\n".join(json.dumps(path.read_text("utf-8", "replace")) for path in files).encode()
    packed = zlib.compress(content, 9)
    text = base64.b64encode(packed).decode()
    header = {
        "packed": len(packed),
        "unpacked": len(content),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    yield "packed run: " + json.dumps(header)
    for start in range(0, len(text), LINE):
        yield "packed run| " + text[start : start + LINE]


if __name__ == "__main__":
    for line in pack(Path(sys.argv[1]) / sys.argv[2]):
        print(line)  # noqa: T201
