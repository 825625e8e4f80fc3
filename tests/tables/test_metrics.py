"""A metric is declared in one place."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from harness import Run
from harness.cli import completion
from harness.compare import compare_runs
from harness.report import mlflow_entries
from harness.tables.metrics import METRICS, Metric, compared_metrics
from harness.tables.text import render_changes, render_comparisons, render_summary
from harness.trial.record import Chunk
from tests.test_compare import write

# The package's attribute of that name is the command.
COMMAND = importlib.import_module("harness.cli.compare")
NEW = Metric(
    "cpu_s",
    "time",
    "processor time",
    default=True,
    summary="median",
    heading="cpu s",
    comparison="stated",
)


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metric]:
    """Declare a column of the trials that is compared nowhere today."""
    assert NEW.name not in compared_metrics()
    with monkeypatch.context() as patch:
        patch.setitem(METRICS, NEW.name, NEW)
        importlib.reload(COMMAND)
        yield NEW
    importlib.reload(COMMAND)


def test_a_new_metric_is_everywhere(new: Metric, tmp_path: Path) -> None:
    def run(name: str, cpu_s: float) -> Run:
        chunk = Chunk(wall_s=1.0, cpu_s=cpu_s, involuntary_switches=0)
        began = "2026-01-01T00:00:00+00:00"
        return write(tmp_path, name, {"x": 1.0, "y": 2.0}, chunks=(chunk,), started_utc=began)

    a, b = run("a", 0.5), run("b", 0.8)
    changes = compare_runs(a, b).changes
    equal = "inconclusive (equal blocks: no interval)"
    assert set(changes.loc[changes["metric"] == new.name, "verdict"]) == {equal}
    assert "cpu_s, x on cpu" in render_changes(changes, "table", 80, "")
    assert a.summary()[new.name].tolist() == [0.5, 0.5]
    text = render_summary(a.summary(), "table", 200, a.sentences())
    assert "  cpu s  " in text
    assert "processor time" in text
    assert "cpu_s, y on cpu" in render_comparisons(a.comparisons(), "table", 200)
    logged = {metric.key for entry in mlflow_entries.of_trials(a) for metric in entry.metrics}
    assert new.name in logged


def test_the_command_line_offers_and_names_it(new: Metric) -> None:
    command = COMMAND.compare
    (option,) = (param for param in command.params if param.name == "metrics")
    assert isinstance(option, click.Option)
    assert f"Default: train_s (per epoch), {new.name}, final_mse, lag_skill." in str(option.help)
    offered = completion.metrics(click.Context(command), option, "cpu")
    assert [item.value for item in offered] == [new.name]


def test_no_metric_is_both_compared_and_unknown_to_the_trials() -> None:
    from harness.tables.from_records import TRIALS

    assert set(METRICS) <= set(TRIALS)
