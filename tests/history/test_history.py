"""Histories of real runs, with change points that were put there."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

import harness.history.archive
from benchmarks.helpers.browser import Seen, chromium
from benchmarks.helpers.histories import commit_of, copy, real_run
from benchmarks.helpers.s3 import BUCKET, S3Server
from harness import InvalidInput, Run, UnknownName
from harness.cli import cli as command
from harness.history.history import CHANGE_POINTS, History
from harness.history.page import build
from harness.history.series import HISTORY, seed_ranges
from harness.history.wording import newest, rendered
from harness.store.lease import Timing
from harness.store.remote import Folder
from harness.store.results_folder import open_folder
from harness.tables.metrics import METRICS
from harness.tables.pairs import pair
from tests.helpers.commands import Cli
from tests.helpers.stored import forge

# Its name comes after that of the reference, which is what others are compared with then.
TWIN = "tests.helpers.many:Looped"
BACKENDS = ["reference", TWIN]
RUNS, SLOWER_AT, WORSE_AT = 40, 24, 32


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run that was measured, three seeds of two backends."""
    return real_run(tmp_path_factory.mktemp("real"), backends=BACKENDS, rounds=2)


@pytest.fixture(scope="module")
def planted(real: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return results in which one backend becomes 10 % slower, and later less accurate."""
    results = tmp_path_factory.mktemp("planted") / "results"
    for number in range(RUNS):
        copy(
            real,
            results,
            f"nightly-{number:02}",
            number,
            times={TWIN: 1.1 if number >= SLOWER_AT else 1.0},
            errors={TWIN: 1.2 if number >= WORSE_AT else 1.0},
            environment={"version:numpy": "2.5.0" if number >= WORSE_AT else "2.4.6"},
            noise=0.01,
        )
    return results


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(row) for _, row in table.iterrows()]


def test_planted_change_points_are_found_and_named(planted: Path) -> None:
    history = History(planted)
    assert history.warnings == []
    worse, slower = records(history.change_points)
    assert list(history.change_points) == list(CHANGE_POINTS)
    assert (slower["measure"], slower["relative_to"]) == ("ratio", "reference")
    assert slower["run"] == f"nightly-{SLOWER_AT}"
    assert (slower["commit"], slower["last_commit"]) == (
        commit_of(SLOWER_AT),
        commit_of(SLOWER_AT - 1),
    )
    assert slower["low"] <= 1.1 <= slower["high"]
    assert slower["high"] - slower["low"] < 0.03
    assert (slower["runs_before"], slower["runs_after"]) == (SLOWER_AT, RUNS - SLOWER_AT)
    assert 0 < slower["p"] <= 0.05
    assert slower["words"].startswith(f"{TWIN} on cpu became ")
    assert (
        f"relative to reference at {commit_of(SLOWER_AT)[:7]} (run nightly-24, 2026-01-09)"
        in (slower["words"])
    )
    assert f"last good {commit_of(SLOWER_AT - 1)[:7]}" in slower["words"]
    assert (worse["measure"], worse["run"]) == ("final_mse", f"nightly-{WORSE_AT}")
    assert worse["change"] == pytest.approx(1.2)
    # Equal in all runs before it, and in all after it: there is no interval.
    assert worse["words"].startswith(f"the MSE of {TWIN} on cpu became 20.0 % higher at ")
    assert worse["also_changed"] == "numpy 2.4.6 -> 2.5.0"
    assert "also changed: numpy 2.4.6 -> 2.5.0" in worse["words"]


def test_the_figures_are_those_of_the_run(real: Run, planted: Path) -> None:
    table = History(planted).table
    assert list(table) == list(HISTORY)
    assert len(table) == 2 * RUNS
    name = "nightly-30"
    arms = (TWIN, "cpu"), ("reference", "cpu")
    pairs = pair(Run(name, planted).trials, *arms, METRICS["train_s"]).estimate(0)
    ratio = np.exp([pairs.value, *pairs.interval()])
    summary = Run(name, planted).summary().set_index("backend")
    rows = table[table["run"] == name].set_index("backend")
    mine = rows.loc[TWIN]
    assert list(mine[["ratio", "ratio_low", "ratio_high"]]) == pytest.approx(ratio.tolist())
    for column, of_run in (
        ("final_mse", "final_mse_geo"),
        ("final_mse_low", "final_mse_low"),
        ("final_mse_high", "final_mse_high"),
    ):
        assert mine[column] == pytest.approx(summary.loc[TWIN, of_run])
    trials = Run(name, planted).trials
    per_epoch = 1 / trials[trials["backend"] == "reference"]["epochs_per_s"]
    assert rows.loc["reference", "epoch_s"] == pytest.approx(np.exp(np.log(per_epoch).mean()))
    assert rows["ratio"].isna()["reference"]
    assert (mine["seeds"], mine["trials"], mine["blocks"]) == (3, 3, 3)
    assert mine["commit"] == mine["commit_backend"] == commit_of(30)


def test_the_stored_table_of_a_finished_run_is_read(real: Run, tmp_path: Path) -> None:
    def error() -> Any:
        return History(tmp_path).table.set_index("backend").loc["reference", "final_mse"]

    copy(real, tmp_path, "run0", 0)
    before, path = error(), tmp_path / "run0" / "trials.parquet"
    table = pd.read_parquet(path)
    forge(path, table.assign(final_mse=2 * table["final_mse"]))
    assert error() == pytest.approx(2 * before)


@pytest.mark.parametrize(
    "odd",
    [
        *({"at_once": [None]}, {"block": ["x"]}, {"final_mse": [[0.1]]}),
        *({"contended": ["no"]}, {"contended": ["false"]}, {"contended": [2]}),
    ],
)
def test_a_stored_table_with_other_types_is_not_used(
    odd: dict[str, list[Any]], real: Run, tmp_path: Path
) -> None:
    copy(real, tmp_path, "run0", 0)
    right, path = History(tmp_path).table, tmp_path / "run0" / "trials.parquet"
    table = pd.read_parquet(path)
    forge(path, table.assign(**{name: value * len(table) for name, value in odd.items()}))
    pd.testing.assert_frame_equal(History(tmp_path).table, right)


def test_stored_tables_and_records_say_the_same(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    shutil.copytree(planted, results)
    for table in results.glob("*/trials.parquet"):
        table.unlink()
    monkeypatch.setattr(harness.history.archive, "_BATCH", 50)  # Several tables are built.
    built = History(results)
    pd.testing.assert_frame_equal(built.table, History(planted).table)
    assert built.change_points["words"].tolist() == History(planted).change_points["words"].tolist()


def test_a_table_that_is_not_of_the_records_is_not_used(real: Run, tmp_path: Path) -> None:
    def error(seeds: int, run: str) -> None:
        table = History(tmp_path).table.set_index(["run", "backend"])
        assert table.loc[(run, "reference"), "trials"] == seeds

    for number in range(3):
        copy(real, tmp_path, f"run{number}", number)
    (tmp_path / "run0" / "records" / "seed1-reference-cpu.json").unlink()
    error(2, "run0")
    (tmp_path / "run1" / "trials.parquet").write_bytes(b"PAR1 no more")
    error(3, "run1")
    before = History(tmp_path).table.set_index(["run", "backend"])["epoch_s"]
    for path in (tmp_path / "run2" / "records").glob("*-reference-*"):
        fields = json.loads(path.read_text())
        for chunk in fields["chunks"]:
            chunk["wall_s"] *= 2
            chunk["waited_s"] *= 2
        fields["wall_s"] *= 2
        path.write_text(json.dumps(fields))
    after = History(tmp_path).table.set_index(["run", "backend"])["epoch_s"]
    assert after["run2", "reference"] == pytest.approx(2 * before["run2", "reference"])
    assert after["run1", "reference"] == before["run1", "reference"]


def test_nothing_stops_at_what_is_no_run(real: Run, tmp_path: Path) -> None:
    for number in range(2):
        copy(real, tmp_path, f"run{number}", number)
    (tmp_path / "plots").mkdir()
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    shutil.copytree(tmp_path / "run0", tmp_path / "run0-again")
    shutil.copytree(tmp_path / "run0", tmp_path / "a-stranger")  # Before the run that it copies.
    for record in (tmp_path / "a-stranger" / "records").iterdir():
        record.unlink()
    manifest = json.loads((tmp_path / "run1" / "manifest.json").read_text())
    for name, changes in {
        "undated": {"started_utc": "<b>yesterday</b>"},
        "newer": {"schema_version": 99},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest | changes))
    (tmp_path / "run1" / "records" / "seed0-reference-cpu.json").write_text("{")
    (tmp_path / "run1" / "records" / "two\nlines.json").write_text("{")
    history = History(tmp_path)
    assert history.runs == 2
    told = "\n".join(history.warnings)
    for expected in (
        "broken` is left out",
        "plots` is left out",
        "run `run0-again` is left out: it is run `run0` again",
        "run `a-stranger` is left out: it is run `run0` again",
        "undated` is left out: its manifest says that it began at `<b>yesterday</b>`",
        "newer version of the harness",
        "seed0-reference-cpu.json` is left out: it is not a whole record",
        "lines.json` is left out: it is not a whole record",
    ):
        assert expected in told
    assert len(history.warnings) == 8
    assert "&lt;b&gt;yesterday" in build(history).html()
    assert "<b>yesterday" not in build(history).html()


def test_a_change_where_calls_were_cut_says_so(real: Run, tmp_path: Path) -> None:
    for number in range(16):
        copy(real, tmp_path, f"n{number:02}", number, noise=0.005, tables=False)
        for path in (tmp_path / f"n{number:02}/records").glob("*.json") if number >= 8 else []:
            record = json.loads(path.read_text())
            for chunk in record["chunks"]:
                chunk["epochs"] = 5  # As slow a call trains half as many.
            path.write_text(json.dumps(record))
    changes = records(History(tmp_path).change_points)
    assert {change["run"] for change in changes} == {"n08"}
    assert {change["also_changed"] for change in changes} == {"calls cut to none -> 5 epochs"}


def test_what_is_not_alike_is_kept_apart(real: Run, tmp_path: Path) -> None:
    copy(real, tmp_path, "here", 0)
    copy(real, tmp_path, "updated", 1, environment={"kernel": "Linux 99", "python": "CPython 4"})
    copy(real, tmp_path, "there", 2, environment={"cpu": "Another"})
    copy(real, tmp_path, "other", 3, leave_out=TWIN)
    history = History(tmp_path)
    runs = {
        str(kind): list(dict.fromkeys(part["run"]))
        for kind, part in history.table.groupby("node_kind")
    }
    here = real.trials["node_kind"].iloc[0]
    assert runs[here] == ["here", "updated", "other"]
    assert [kind for kind in runs if kind.startswith("Another")] == [
        kind for kind, there in runs.items() if there == ["there"]
    ]
    # Where a backend was measured alone, there is its time and no ratio.
    row = history.table[history.table["run"] == "other"].iloc[0]
    assert row["epoch_s"] > 0
    assert pd.isna(row["ratio"])


def test_a_packed_run_counts_for_accuracy_only(real: Run, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    copy(real, tmp_path, "packed", 0, tables=False)
    for path in (folder / "records").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"contended": True}))
    row = History(tmp_path).table.iloc[0]
    assert row["contended"]
    assert pd.isna(row["epoch_s"])
    assert row["final_mse"] > 0


def test_a_sweep_is_a_series_at_each_point(tmp_path: Path) -> None:
    swept = {"epochs": [50, 100]}
    run = real_run(tmp_path, "swept", backends=["reference"], sweep=swept, seeds=1, rounds=2)
    table = History(tmp_path).table
    assert sorted(set(table["task"].str.contains("epochs=50"))) == [False, True]
    assert len(table) == 2
    assert set(table["blocks"]) == {1}
    assert run.trials["epochs"].tolist()
    stored = tmp_path / "swept" / "trials.parquet"
    trials = pd.read_parquet(stored)
    odd: Any
    for odd in (51, "50", [50]):
        forge(stored, trials.assign(epochs=[odd] * len(trials)))
        pd.testing.assert_frame_equal(History(tmp_path).table, table)
    stored.unlink()
    pd.testing.assert_frame_equal(History(tmp_path).table, table)


def test_a_stored_table_with_a_column_twice_is_not_used(real: Run, tmp_path: Path) -> None:
    copy(real, tmp_path, "run0", 0)
    right, path = History(tmp_path).table, tmp_path / "run0" / "trials.parquet"
    table = parquet.read_table(path)
    forge(path, table.append_column("status", table["status"]))
    pd.testing.assert_frame_equal(History(tmp_path).table, right)


def test_a_stored_table_with_text_that_is_not_unicode_is_not_used(
    real: Run, tmp_path: Path
) -> None:
    copy(real, tmp_path, "run0", 0)
    right, path = History(tmp_path).table, tmp_path / "run0" / "trials.parquet"
    table = parquet.read_table(path)
    odd = pa.array([b"o\xff"] * len(table)).view(pa.string())
    forge(path, table.set_column(table.schema.get_field_index("node"), "node", odd))
    pd.testing.assert_frame_equal(History(tmp_path).table, right)


def test_seeds_at_once_are_not_mixed_with_single_ones(real: Run, tmp_path: Path) -> None:
    copy(real, tmp_path, "single", 0)
    real_run(tmp_path, "many", backends=BACKENDS, vectorize=2, seeds=3, rounds=2)
    table = History(tmp_path).table
    rows = table.set_index(["run", "backend"])
    assert rows.loc[("single", "reference"), "at_once"] == 1
    assert rows.loc[("many", "reference"), "at_once"] == 2
    # The block of one seed alone is left out of the times.
    assert rows.loc[("many", TWIN), "blocks"] == 1
    assert rows.loc[("many", TWIN), "seeds"] == 3
    assert rows.loc[("many", TWIN), "relative_to"] == "reference"


def test_errors_are_of_the_seeds_that_nearly_all_runs_have(real: Run, tmp_path: Path) -> None:
    for number in range(12):
        copy(real, tmp_path, f"run{number:02}", number, tables=False)
    for name in ("run03", "run05"):  # Fewer seeds than the others, one of them of a run.
        for path in (tmp_path / name / "records").glob("seed2-*"):
            path.unlink()
    table = History(tmp_path).table
    assert table["final_mse"].notna().all()
    assert table.groupby("backend")["final_mse"].nunique().tolist() == [1, 1]
    for path in (tmp_path / "run03" / "records").glob("seed1-*"):
        path.unlink()
    left_out = History(tmp_path).table.set_index(["run", "backend"])["final_mse"]
    assert left_out.groupby("backend").nunique().tolist() == [1, 1]
    assert pd.isna(left_out["run03", "reference"])


def without(results: Path, run: str, *patterns: str) -> None:
    """Remove records of a run; it has no stored table."""
    for pattern in patterns:
        for path in (results / run / "records").glob(pattern):
            path.unlink()


def test_the_backends_of_a_group_are_compared_over_the_same_seeds(
    real: Run, tmp_path: Path
) -> None:
    for number in range(3):
        copy(real, tmp_path, f"run{number}", number, tables=False)
    without(tmp_path, "run0", "seed0-*", "seed2-*", "*-reference-*")
    without(tmp_path, "run1", "seed2-*")
    history = History(tmp_path)
    assert list(history.mse_seeds.values()) == ["1"]
    # Of any other seeds the two, which compute the same, would seem to differ.
    assert history.table["mse_seeds"].tolist() == ["1"] * 5
    assert history.table["final_mse"].to_numpy() == pytest.approx(history.table["final_mse"][0])
    latest = newest(history)
    assert latest["mse_seeds"].tolist() == ["1", "1"]
    assert latest["MSE [95 %]"].nunique() == 1
    assert "; geometric means over blocks, MSE over seeds 1" in rendered(history, "markdown")


def test_errors_over_other_seeds_say_so_and_have_a_chart_of_their_own(
    real: Run, tmp_path: Path
) -> None:
    for number in range(20):
        copy(real, tmp_path, f"run{number:02}", number, leave_out=TWIN if number < 18 else "")
    for run in ("run18", "run19"):
        (tmp_path / run / "trials.parquet").unlink()
        without(tmp_path, run, "seed1-tests*")
    history = History(tmp_path)
    assert list(history.mse_seeds.values()) == ["0-2"]
    seeds = history.table.groupby("backend")["mse_seeds"].unique()
    assert seeds["reference"].tolist() == ["0-2"]
    assert seeds[TWIN].tolist() == ["0,2"]
    errors = real.trials.set_index(["backend", "seed"])["final_mse"]
    mine = np.sqrt(errors[TWIN, 0] * errors[TWIN, 2])
    assert history.latest.set_index("backend").loc[TWIN, "final_mse"] == pytest.approx(mine)
    told = newest(history).set_index("backend")["MSE [95 %]"]
    assert told[TWIN].endswith("] (only seeds 0,2)")
    assert "seeds" not in told["reference"]
    page = build(history)
    assert [figure.title for figure in page.figures if "error" in figure.title] == [
        "Mean squared error after training, geometric mean over seeds 0-2: reference",
        f"Mean squared error after training, geometric mean over seeds 0,2: {TWIN}",
    ]
    assert "(only seeds 0,2)" in page.html()
    assert list(History(tmp_path, backends=[TWIN]).mse_seeds.values()) == ["0-2"]


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([], ""),
        ([4], "4"),
        ([0, 1, 2], "0-2"),
        ([0, 2, 5], "0,2,5"),
        ([0, 1, 3, 7, 8], "0-1,3,7-8"),
    ],
)
def test_seeds_as_text(seeds: list[int], text: str) -> None:
    assert seed_ranges(seeds) == text


def test_the_reference_is_that_in_most_runs_or_as_told(real: Run, tmp_path: Path) -> None:
    for number in range(4):
        copy(real, tmp_path, f"run{number}", number, leave_out="reference" if number else "")
    history = History(tmp_path)
    assert list(history.references.values()) == [TWIN]
    assert list(History(tmp_path, relative_to="reference").references.values()) == ["reference"]
    only = History(tmp_path, backends=["reference"])
    assert set(only.table["backend"]) == {"reference"}
    assert only.table["relative_to"].tolist() == [TWIN]
    with pytest.raises(
        UnknownName, match=r"unknown backend `referenc` \(did you mean `reference`\?\)"
    ):
        History(tmp_path, relative_to="referenc")
    with pytest.raises(UnknownName, match="unknown backend `torch`"):
        History(tmp_path, backends=["torch"])


def test_a_backend_that_was_mostly_alone_has_change_points_in_its_time(
    real: Run, tmp_path: Path
) -> None:
    for number in range(20):
        copy(
            real,
            tmp_path,
            f"run{number:02}",
            number,
            times={"reference": 1.0 if number < 10 else 0.8},
            noise=0.01,
            leave_out=TWIN,
            environment={"commit:backend": "a" * 40, "commit:harness": "b" * 40},
        )
    (point,) = records(History(tmp_path).change_points)
    assert (point["measure"], point["run"]) == ("epoch_s", "run10")
    assert pd.isna(point["relative_to"])
    assert "reference on cpu became 20" in point["words"] or "became 19" in point["words"]
    assert "faster" in point["words"]
    assert "with no change of commit (aaaaaaa)" in point["words"]


def test_a_change_of_the_reference_is_named_where_the_ratio_has_one(
    real: Run, tmp_path: Path
) -> None:
    for number in range(20):
        scale = {"reference": 1.0 if number < 10 else 1.5}
        copy(real, tmp_path, f"run{number:02}", number, times=scale, noise=0.01)
    words = History(tmp_path).change_points.set_index("backend")["words"]
    assert "reference itself changed about there, too" in words[TWIN]
    assert "became 50" in words["reference"] or "became 49" in words["reference"]


def test_a_run_whose_trials_all_failed_is_left_out(real: Run, tmp_path: Path) -> None:
    for number in range(2):
        copy(real, tmp_path, f"run{number}", number, tables=False)
    for path in (tmp_path / "run1" / "records").iterdir():
        failed = {"status": "failed", "error": "<script>alert(1)</script>", "environment": {}}
        path.write_text(json.dumps(json.loads(path.read_text()) | failed))
    history = History(tmp_path)
    assert history.warnings == ["run `run1` is left out: no trial of it ended ok."]
    for path in (tmp_path / "run0" / "records").glob("*-reference-*"):
        path.write_text(json.dumps(json.loads(path.read_text()) | failed))
    row = History(tmp_path).table.set_index("backend").loc["reference"]
    assert (row["seeds"], row["trials"]) == (0, 3)
    assert pd.isna(row["epoch_s"])


def test_the_command_tells_people_and_programs(cli: Cli, planted: Path, tmp_path: Path) -> None:
    done = run("--results", planted)
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith(f"the MSE of {TWIN} on cpu became 20.0 % higher")
    assert second.startswith(f"{TWIN} on cpu became ")
    assert "Newest run of each series" in done.stdout
    page = tmp_path / "history.html"
    done = cli("history", "--results", planted, "--format", "json", "--html", page)
    assert done.returncode == 0, done.stderr
    assert f"Page: {page}" in done.stderr
    told = json.loads(done.stdout)
    assert [step["run"] for step in told["steps"]] == ["nightly-32", "nightly-24"]
    assert (len(told["latest"]), len(told["history"])) == (2, 2 * RUNS)
    html = page.read_text()
    assert f"the MSE of {TWIN} on cpu became 20.0 % higher" in html
    assert commit_of(SLOWER_AT)[:7] in html
    assert '"renderer":"canvas"' in html
    assert "http://" not in html.replace("http://www.w3.org", "")[: html.index("<script")]


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(command, ["history", *map(str, arguments)])


def test_the_other_formats(planted: Path) -> None:
    done = run("--results", planted, "--format", "csv")
    assert len(pd.read_csv(StringIO(done.stdout))) == 2 * RUNS
    done = run("--results", planted, "--format", "markdown", "--backends", TWIN)
    assert done.stdout.startswith(f"- the MSE of {TWIN}")
    assert "| backend | device |" in done.stdout


def test_bad_input_is_a_sentence(real: Run, tmp_path: Path) -> None:
    done = run("--results", tmp_path)
    assert done.exit_code == 2
    measure = f"python -m harness run --results {tmp_path}"
    assert f"holds no run; `{measure}` measures one" in done.stderr
    assert run("--results", tmp_path / "none").exit_code == 2
    copy(real, tmp_path, "run", 0)
    done = run("--results", tmp_path, "--html", tmp_path / "none" / "page.html")
    assert done.exit_code == 2
    assert "there is no folder" in done.stderr
    done = run("--results", tmp_path)
    assert done.exit_code == 0
    assert "4 series have fewer than 8 runs" in done.stdout
    assert run("--results", "ftp://x/y").exit_code == 2
    with pytest.raises(InvalidInput):
        History(tmp_path / "none")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3")).start().make_bucket()
    yield server
    server.kill()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.mark.parametrize("place", ["memory", "s3"])
def test_results_may_be_at_a_url(place: str, real: Run, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("s3") if place == "s3" else f"memory://{uuid.uuid4().hex}"
    for number in range(4):
        copy(real, url, f"run{number}", number, tables=number % 2 == 0)
    history = History(url)
    assert history.warnings == []
    assert history.table["run"].unique().tolist() == [f"run{number}" for number in range(4)]
    assert history.table.loc[history.table["backend"] == TWIN, "ratio"].notna().all()


def test_a_store_that_stops_answering_is_waited_for_once(
    real: Run, s3: str, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = harness.history.archive._read_run
    for number in range(5):
        copy(real, s3, f"run{number}", number, tables=False)
    asked = []

    def read_run(folder: Folder, name: str) -> Any:
        asked.append(name)
        if name == "run1":
            server.suspend()
        return read(folder, name)

    monkeypatch.setattr(harness.history.archive, "_read_run", read_run)
    monkeypatch.setattr(harness.history.archive, "_CONNECTIONS", 1)
    folder = open_folder(s3)
    monkeypatch.setattr(folder, "_timing", Timing(answer_s=2.0))
    monkeypatch.setattr(harness.history.archive, "open_folder", lambda _: folder)
    try:
        history = History(s3)
    finally:
        server.wake()
    assert history.runs == 1
    left_out, stopped = history.warnings
    assert left_out.startswith(f"`{s3}/run1` is left out: ")
    assert stopped == f"`{s3}` stopped answering: 3 more runs were not read."
    assert "run4" not in asked


def test_a_page_of_many_runs_is_small(planted: Path) -> None:
    page = build(History(planted))
    assert [figure.title for figure in page.figures] == [
        "Training time relative to reference, geometric mean over blocks",
        "Training time of an epoch in seconds, geometric mean over blocks",
        "Mean squared error after training, geometric mean over seeds 0-2",
    ]
    segments = page.figures[0].table
    assert segments["runs"].tolist() == [SLOWER_AT, RUNS - SLOWER_AT]
    assert segments["level"].iloc[1] / segments["level"].iloc[0] == pytest.approx(1.1, rel=0.02)
    rows = page.html().count("<tr>")
    assert rows < 80


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(planted: Path, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "history.html"
    path.write_text(build(History(planted)).html())
    with chromium() as browser:
        seen = Seen(browser, path, scheme=scheme)
        assert seen.draw_all() == 3
        assert seen.page.locator("canvas").count() == 3
        assert seen.violations == []
        assert seen.complaints == []
        seen.page.set_viewport_size({"width": 375, "height": 700})
        assert not seen.overflows
