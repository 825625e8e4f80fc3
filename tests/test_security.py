"""No input becomes code, as docs/security.md promises: read off the syntax trees of our code."""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.store.manifest import parse_manifest
from tests.helpers.commands import ROOT

FOLDERS = ["harness", "backends", "tests", "benchmarks", "docs", "deploy", "scripts"]
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

# Reading a file of theirs can run anything.
UNPICKLERS = {"cloudpickle", "dill", "jsonpickle", "marshal", "pickle", "shelve"}
# Calls whose arguments become code or commands, or that unpickle.
CALLS = {
    "builtins": {"eval", "exec", "compile", "__import__"},
    "os": {"system", "popen"},
    "subprocess": {"getoutput", "getstatusoutput"},
    "yaml": {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"},
    "torch": {"load"},
    "joblib": {"load"},
    "pd": {"read_pickle"},
    "pandas": {"read_pickle"},
}
# Arguments that turn a harmless call into one of those.
ARGUMENTS = {"shell", "allow_pickle"}


def dangers(source: str) -> Iterator[str]:
    """Yield every import, call and argument that could run its input, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imports(node)
        elif isinstance(node, ast.Call):
            yield from _calls(node)


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{name}" for name in names]
    for name in names:
        module, _, member = name.partition(".")
        if module in UNPICKLERS or member in CALLS.get(module, ()):
            yield f"line {node.lineno}: import of {name}"


def _calls(node: ast.Call) -> Iterator[str]:
    function = ast.unparse(node.func)
    module, _, member = function.rpartition(".")
    if member in CALLS.get(module or "builtins", ()):
        yield f"line {node.lineno}: {function}()"
    for keyword in node.keywords:
        off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
        if keyword.arg in ARGUMENTS and not off:
            yield f"line {node.lineno}: {function}({keyword.arg}=...)"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_input_becomes_code(path: Path) -> None:
    assert list(dangers(path.read_text())) == []


def test_a_manifest_from_elsewhere_cannot_control_the_terminal() -> None:
    (file, *_) = sorted((ROOT / "tests" / "store" / "data").rglob("manifest.json"))
    content = json.loads(file.read_text())
    content["environment"]["cpu"] = "Z80\x1b[2J"
    content["parity"][0]["error"] = "lost\x1b[2J"
    manifest = parse_manifest("elsewhere", json.dumps(content).encode())
    assert manifest.environment["cpu"] == r"Z80\x1b[2J"
    assert r"lost\x1b[2J" in manifest.parity[0].reason


def test_every_python_file_is_read() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True
    )
    tracked = {ROOT / name for name in listed.stdout.split("\0") if name}
    assert tracked <= set(FILES)
    assert len(FILES) > 50


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import load",
        "from os import system",
        "import os\nos.system('true')",
        "eval('1')",
        "exec('1')",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import subprocess\nsubprocess.run('true', shell=True)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import torch\ntorch.load(path)",
        "import pandas as pd\npd.read_pickle(path)",
    ],
)
def test_the_danger_is_seen(source: str) -> None:
    assert list(dangers(source))


@pytest.mark.parametrize(
    "source",
    [
        "import yaml\nyaml.safe_load(text)",
        "import re\nre.compile('a')",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import subprocess\nsubprocess.run(['true'], shell=False)",
    ],
)
def test_the_harmless_is_let_through(source: str) -> None:
    assert list(dangers(source)) == []
