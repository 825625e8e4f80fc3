"""How far back networks remember, in the report of a sweep and at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import InvalidInput, Run
from harness.charts import figures
from harness.charts.page import Items, Table
from harness.report import run_page
from tests.helpers import trainings
from tests.helpers.commands import TINY_RUN, Cli, overriding
from tests.helpers.records import TINY_TASK

OLDER = Path(__file__).parents[1] / "store" / "data"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    # Two units learn the nearer lag of the two in so many epochs.
    task = TINY_TASK.changed(
        lag_weight=1, n_steps=20, epochs=1000, learning_rate=0.01, eval_paths=200
    )
    folder = tmp_path_factory.mktemp("results") / "swept"
    return trainings.run(folder, task, ["floor"], range(3), {"lag": (1, 12)})


def test_the_report_of_a_sweep_over_lags_says_how_far_a_network_remembers(swept: Run) -> None:
    sections = {section.heading: section.blocks for section in run_page.build(swept).sections}
    table, words, *_ = sections["Over the sweep"]
    assert isinstance(table, Table)
    assert table.frame.to_dict("records") == [
        {"backend": "floor", "device": "cpu", "lag 1": "3/3", "lag 12": "0/3"}
    ]
    assert isinstance(words, Items)
    assert words.sentences[0] == (
        "floor on cpu remembers 1 step (3 of 3 seeds do, 29 to 100 %), and is not shown to "
        "remember 12 steps (0 of 3 seeds do, 0 to 71 %)"
    )


def test_the_chart_has_what_was_learned_beside_the_target(swept: Run) -> None:
    figure = figures.lags(
        swept.lags, swept.trials[swept.trials["lag"] == 1], swept.point({"lag": 1})
    )
    assert figure is not None
    assert figure.name == "lags-lag=1"
    assert figure.table["target"].tolist() == [1, 1, 0]
    assert figure.table["floor"].to_list() == pytest.approx([1, 1, 0], abs=0.2)
    assert "Circles: the target, 1 at k = 0 and 1 at k = 1." in figure.words


def test_a_run_of_an_older_version_has_no_such_chart() -> None:
    with pytest.raises(InvalidInput, match="does not tell what was learned at each lag"):
        Run("schema-6", OLDER).plot_lags()


def test_a_run_over_lags_ends_with_the_answer(cli: Cli, tmp_path: Path) -> None:
    where = ("--dispatch", "inline", "--results", tmp_path, "--run-id", "x", "--no-report")
    some = ("--set", "eval_paths=100", "--backends", "reference", "--seeds", "1")
    done = cli(*overriding(*TINY_RUN, *some), *where, "--sweep", "lag=1,2")
    assert done.returncode == 0, done.stderr
    _, end = done.stdout.split("How far back does it remember?")
    assert "reference  cpu       0/1    0/1" in end
    assert "reference on cpu is not shown to remember 1 step (0 of 1 seeds do, 0 to 98 %)" in end
    shown = cli("show", "x", "--results", tmp_path, "--table", "reach", "--format", "csv")
    assert shown.stdout.splitlines()[0] == "backend,device,lag,seeds,reached,share,low,high,memory"


@pytest.mark.parametrize("table", ["reach", "lags"])
def test_what_nobody_looked_at_cannot_be_shown(cli: Cli, table: str) -> None:
    refused = cli("show", "schema-6", "--results", OLDER, "--table", table)
    assert refused.returncode == 2
    assert f"`--table {table}`: run `schema-6`" in refused.stderr
