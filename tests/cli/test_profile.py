"""The command `profile` and `run --profile`: what a user sees, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import harness
from tests.helpers.commands import TINY, TINY_FIELDS, Done, in_this_process

SLEEPS, DIES = "tests.helpers.profiled:Sleeps", "tests.helpers.profiled:Dies"


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """Profile a backend that sleeps, one that dies and the reference; return what was printed."""
    results = tmp_path_factory.mktemp("results")
    words = [
        "--backends",
        f"{SLEEPS},{DIES},reference",
        *TINY,
        "--run-id",
        "p",
        "--results",
        results,
    ]
    return in_this_process("profile", *words), results


def test_it_prints_the_parts_the_counts_and_what_is_wrong(profiled: tuple[Done, Path]) -> None:
    done, _ = profiled
    assert done.returncode == 1, done.stderr  # One of them died.
    assert "Where the time of an epoch goes" in done.stdout
    assert "WARNING sleeps" in done.stdout
    assert "sleep" in done.stdout.partition("WARNING")[2]
    assert "is slower than reference on cpu" in done.stdout


def test_it_is_kept_as_a_run(profiled: tuple[Done, Path]) -> None:
    _, results = profiled
    run = harness.load("p", results)
    table = run.profile
    stored = pd.read_parquet(results / "p" / "profile.parquet")
    pd.testing.assert_frame_equal(stored.astype(table.dtypes), table)
    parts = table[table["kind"] == "part"].groupby("backend")["share"].sum()
    assert parts.to_list() == pytest.approx([1, 1], abs=0.1)
    assert {"multiply_add", "floor_epoch"} <= set(table[table["kind"] == "cost"]["name"])
    assert "sleeps" in [finding.rule for finding in run.findings()]
    assert in_this_process("explain", "p", "--results", results).stdout.count("sleeps") == 1
    listed = in_this_process(
        "show", "p", "--table", "profile", "--results", results, "--format", "json"
    )
    assert len(json.loads(listed.stdout)) == len(table)


def test_its_report_has_the_waterfall(profiled: tuple[Done, Path]) -> None:
    _, results = profiled
    done = in_this_process("report", "p", "--results", results, "--no-plots")
    assert done.returncode == 0, done.stderr
    page = (results / "p" / "report.html").read_text()
    assert "Where the time of an epoch goes" in page


def test_a_profile_changes_no_number_of_a_run(tmp_path: Path) -> None:
    runs = [
        harness.run(
            harness.Task(**TINY_FIELDS),
            backends=["reference"],
            seeds=2,
            rounds=2,
            profile=profile,
            dispatch="inline",
            results=tmp_path,
        )
        for profile in (False, True)
    ]
    for name in ("epoch", "train_loss", "eval_mse"):
        plain, looked_at = (run.curves[name].to_list() for run in runs)
        assert plain == looked_at
    plain, looked_at = (run.steps["mse"].to_list() for run in runs)
    assert plain == looked_at
    # Only the trials of the first block are looked at.
    assert [record.profile is not None for record in runs[1].records] == [True, False]
    assert runs[0].profile.empty
    assert runs[0].findings_on_time() == []


def test_a_backend_that_dies_under_a_profiler_keeps_its_trial(profiled: tuple[Done, Path]) -> None:
    done, results = profiled
    (record,) = (r for r in harness.load("p", results).records if r.backend == DIES)
    assert record.status == "ok"
    assert record.step_mse
    assert record.profile is not None
    assert "killed by SIGKILL (under a profiler)" in record.profile.problem
    assert f"{DIES} on cpu could not be profiled" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--profile", "--packed"], "`--profile` and `--packed` exclude each other"),
        (["profile", "--backends", "torhc"], "did you mean `torch`?"),
        (["profile", "--what-if", "bach"], "unknown change `bach` (did you mean `batch`?)"),
        (["profile", "--what-if", "--dispatch", "ray"], "leave `--dispatch ray` out"),
        (["profile", "--set", "hiden=3"], "did you mean `hidden`?"),
        (
            ["profile", "--threads", "1000", *TINY, "--backends", "reference"],
            "`--threads 1000`: node",
        ),
    ],
)
def test_bad_input_is_a_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    done = in_this_process(*words, "--results", tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_profile_says_how_to_get_one(tmp_path: Path) -> None:
    schema = Path(__file__).parents[1] / "store" / "data"
    done = in_this_process("show", "schema-6", "--table", "profile", "--results", schema)
    assert done.returncode == 2
    assert "run `schema-6` has none (`run --profile`)" in done.stderr
