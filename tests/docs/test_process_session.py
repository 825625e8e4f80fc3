"""The session in the document on process backends is what happens, byte for byte."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

from tests.helpers import docs
from tests.helpers.commands import ROOT

PAGE = ROOT / "docs" / "process-backends.md"
WORKER = ROOT / "docs" / "process-worker" / "numpy_worker.py"


def message(line: str) -> bytes:
    """Return the bytes of a line of the session: text in quotes, then values as hexadecimal."""
    found = re.fullmatch(r'("[^"]*")((?: [0-9a-f]{8}| x \d+)*)', line)
    assert found, line
    values = re.sub(r"(\w{8}) x (\d+)", lambda m: m[1] * int(m[2]), found[2])
    return str(ast.literal_eval(found[1])).encode() + bytes.fromhex(values)


def test_the_worker_answers_as_in_the_document() -> None:
    (session,) = (block.text for block in docs.blocks(PAGE) if block.language == "text")
    lines = session.splitlines()
    requests = [message(line[2:]) for line in lines if line.startswith("> ")]
    (hello, *answers) = (message(line[2:]) for line in lines if line.startswith("< "))
    assert len(requests) + len(answers) + 1 == len(lines) == 12
    done = subprocess.run(
        [sys.executable, str(WORKER)], input=b"".join(requests), capture_output=True, check=True
    )
    greeting, _, rest = done.stdout.partition(b"\n")
    assert greeting.startswith(hello.rstrip(b"\n") + b"\t")
    assert rest == b"".join(answers)
