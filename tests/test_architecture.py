"""Data flows one way: which module may import which is written down here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "backends").glob("*.py")])

# From the bottom up: a module imports only from layers below its own.
LAYERS = [
    {"errors"},
    {
        "backend.model",
        "backend.protocol",
        "measure.clock",
        "measure.machine",
        "measure.energy",
        "inputs.quantities",
        "measure.git",
        "submit.pack_run",
        "dispatch.token",
    },
    {
        "backend.testing",
        "inputs.validated",
        "backend.contract",
        "backend.registry",
        "measure.fingerprint",
        "store.files",
    },
    {"submit.project_zip", "submit.job_server", "store.lease", "store.outbox"},
    {"store.remote"},
    {"store.results_folder", "backend.single_seed"},
    {"task.task"},
    {
        "task.yardsticks",
        "task.data",
        "trial.record",
        "stats.estimates",
        "tables.metrics",
        "stats.forecast",
    },
    {"gate.verdict", "trial.noise", "diagnosis.trainings"},
    {"doctor", "diagnosis.rules"},
    {"trial.jobs", "measure.curves"},
    {"measure.parity", "measure.trial", "trial.plan", "dispatch.admission"},
    {"measure.stepwise", "trial.arms"},
    {"worker", "measure.launch", "store.run_folder"},
    {
        "tables.from_records",
        "tables.summary",
        "dispatch.local",
        "dispatch.placement",
        "gate.paired",
        "gate.checkout",
    },
    {
        "tables.scaling",
        "tables.text",
        "charts.series",
        "charts.vega",
        "diagnosis.findings",
        "stats.changepoints",
    },
    {"charts.draw", "diagnosis.predictions"},
    {"charts.page"},
    {"charts.figures"},
    {"runs.results", "runs.precision", "dispatch.ray_cluster", "runs.tally"},
    {"dispatch", "runs.progress", "history.archive"},
    {
        "runs.session",
        "runs.dashboard",
        "compare",
        "gate.settings",
        "gate.report",
        "gate.baseline",
        "history.history",
    },
    {"gate.sequential_test", "submit.unpack_run", "history.page"},
    {"gate.rounds"},
    {"gate.modes", "gate.pytest_benchmark"},
    {"api", "report.run_page"},
    {"report.mlflow"},
    {"cli.completion"},
    {"cli.output", "cli.options"},
    {
        "cli.show",
        "cli.explain",
        "cli.history",
        "cli.report",
        "cli.parity",
        "cli.compare",
        "cli.gate",
        "cli.doctor",
        "cli.track",
    },
    {"cli.run"},
    {"cli.submit"},
    {"cli"},
    {"", "__main__"},
]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
FRAMEWORKS = {
    "torch": ("backends/torch_",),
    "jax": ("backends/jax_",),
    "flax": ("backends/jax_",),
    "optax": ("backends/jax_",),
    "numba": ("backends/floor",),
    "llvmlite": ("backends/floor_lanes.py",),
    "mlflow": ("harness/report/mlflow.py",),
    "pynvml": ("harness/measure/energy.py",),
    "ray": ("harness/dispatch/ray_cluster.py", "harness/submit/job_server.py"),
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


def module_name(path: Path) -> str:
    return (
        ".".join(path.relative_to(ROOT / "harness").with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip(".")
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_framework_is_imported_where_it_belongs(path: Path) -> None:
    for name in imports(path):
        homes = FRAMEWORKS.get(name.partition(".")[0])
        assert homes is None or str(path.relative_to(ROOT)).startswith(homes)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.is_relative_to(ROOT / "harness")], ids=module_name
)
def test_a_module_imports_only_from_below(path: Path) -> None:
    own = module_name(path)
    for name in imports(path):
        if not name.startswith("harness."):
            assert not name.startswith("backends"), "backends are found by name"
            continue
        parts = name.split(".")[1:]
        target = next(t for n in (2, 1) if (t := ".".join(parts[:n])) in HEIGHT)
        assert HEIGHT[target] < HEIGHT[own], f"{own} imports {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "backends").glob("*.py")), ids=lambda p: p.name)
def test_a_backend_knows_nothing_of_tasks_ray_or_clocks(path: Path) -> None:
    allowed = ("harness.errors.", "harness.backend.model.", "harness.backend.protocol.")
    assert all(n.startswith(allowed) for n in imports(path) if n.startswith("harness."))


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
