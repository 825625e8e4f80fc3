"""Frameworks are imported in one place, files and functions are short; rooms: `lint-imports`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 50
MODULES = sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "backends").rglob("*.py")])

FRAMEWORKS = {
    "torch": ("backends/torch_", "harness/profiling/torch_"),
    "jax": ("backends/jax_", "harness/profiling/jax_"),
    "jaxlib": ("harness/profiling/jax_",),
    "flax": ("backends/jax_",),
    "optax": ("backends/jax_",),
    "numba": ("backends/floor", "backends/limits.py"),
    "llvmlite": ("backends/floor_lanes.py",),
    "mlflow": ("harness/report/mlflow.py",),
    "pynvml": ("harness/measure/energy.py",),
    "ray": ("harness/dispatch/ray_", "harness/submit/job_server.py"),
}


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, at whatever depth; not those for types alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_framework_is_imported_where_it_belongs(path: Path) -> None:
    for name in imports(path):
        homes = FRAMEWORKS.get(name.partition(".")[0])
        assert homes is None or str(path.relative_to(ROOT)).startswith(homes)


@pytest.mark.parametrize("path", sorted((ROOT / "backends").rglob("*.py")), ids=str)
def test_a_backend_knows_nothing_of_tasks_ray_or_clocks(path: Path) -> None:
    rooms = ("backend.command", "backend.evidence", "backend.model", "backend.protocol", "errors")
    allowed = tuple(f"harness.{room}." for room in rooms)
    assert all(n.startswith(allowed) for n in imports(path) if n.startswith("harness."))


def test_benchmarks_do_without_the_tests() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert not any(name.partition(".")[0] == "tests" for name in imports(path)), path


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import harness.cli", "numpy pydantic ray torch jax pandas rich fsspec"),
        ("import harness.store.run_folder", "numpy ray torch jax pandas fsspec s3fs"),
        ("import harness; harness.Task()", "numpy ray torch jax pandas"),
        ("import harness.worker", "numpy pydantic torch jax ray"),
        ("import harness.dispatch.local, harness.runs.session", "ray torch jax pandas"),
    ],
)
def test_imports_cost_no_more_than_they_must(code: str, absent: str) -> None:
    check = f"import sys; {code}; print([m for m in {absent.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = int(node.end_lineno or 0) - node.lineno + 1
            assert lines <= LINES_OF_A_FUNCTION, node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_other_programs_print_is_bytes(path: Path) -> None:
    """As text, it would be in the encoding of the locale."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call):
            assert "text" not in {k.arg for k in call.keywords if ast.unparse(k.value) == "True"}
