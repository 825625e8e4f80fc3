"""A grid of tasks in one run: `--sweep`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import InvalidInput, Task
from harness.store import results_folder
from tests.helpers import trainings
from tests.helpers.commands import Cli

SMALL: dict[str, Any] = {"epochs": 20, "n_steps": 5, "eval_paths": 20, "curve_points": 2}


def sweep(
    folder: Path, run_id: str, task: Mapping[str, object] = {}, **more: object
) -> harness.Run:
    options: dict[str, object] = {
        "backends": ["reference"],
        "seeds": 2,
        "rounds": 2,
        "sweep": {"hidden": [2, 4], "cell": ["rnn", "gru"]},
        "dispatch": "inline",
        "results": folder,
        "run_id": run_id,
    }
    return harness.run(Task(**SMALL, **task), **(options | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> harness.Run:
    return sweep(tmp_path_factory.mktemp("results"), "swept")


@pytest.fixture(scope="module")
def alone(run: harness.Run) -> harness.Run:
    """One of the points, as a run that is no sweep."""
    task = Task(hidden=4, cell="gru", **SMALL)
    return trainings.run(Path(run.location).parent, task, ["reference"], seeds=(0, 1))


def test_each_point_is_a_task_with_all_seeds(run: harness.Run) -> None:
    points = run.trials.groupby(["hidden", "cell"])["seed"].apply(list)
    assert points.to_dict() == {(h, c): [0, 1] for h in (2, 4) for c in ("rnn", "gru")}
    assert {r.task.hidden for r in run.records} == {2, 4}
    assert not run.missing
    assert {"hidden", "cell"} <= set(run.curves) & set(run.steps) & set(run.chunks)


def test_a_point_has_the_figures_that_the_task_has_by_itself(
    run: harness.Run, alone: harness.Run
) -> None:
    point = run.trials.query("hidden == 4 and cell == 'gru'").sort_values("seed")
    assert point["final_mse"].tolist() == alone.trials.sort_values("seed")["final_mse"].tolist()


def test_the_summary_has_a_row_for_each_point_numbers_in_their_order(run: harness.Run) -> None:
    summary = run.summary()
    assert summary[["hidden", "cell"]].to_numpy().tolist() == [
        [2, "rnn"],
        [2, "gru"],
        [4, "rnn"],
        [4, "gru"],
    ]
    assert (summary["seeds"] == 2).all()


def test_blocks_of_different_points_are_different_blocks(run: harness.Run) -> None:
    assert run.trials["block"].nunique() == 8


def test_a_backend_is_held_against_every_network_that_is_trained(run: harness.Run) -> None:
    (certificate,) = run.manifest.parity
    assert {check.network for check in certificate.checks} == {
        f"hidden={h}, cell={c}" for h in (2, 4) for c in ("rnn", "gru")
    }


def test_a_sweep_is_resumed(run: harness.Run, tmp_path: Path) -> None:
    shutil.copytree(run.location, tmp_path / "swept")
    before = run.trials.set_index(["trial", "seed"])["final_mse"]
    for name in ("hidden2-cellgru-seed1-reference-cpu", "hidden4-cellrnn-seed0-reference-cpu"):
        (tmp_path / "swept" / "records" / f"{name}.json").unlink()
    assert len(harness.load("swept", tmp_path).missing) == 2
    resumed = harness.resume("swept", dispatch="inline", results=tmp_path)
    after = resumed.trials.set_index(["trial", "seed"])["final_mse"]
    assert after.to_dict() == before.to_dict()


def test_a_swept_number_of_epochs_hides_not_how_many_were_trained(tmp_path: Path) -> None:
    task = {"optimiser": "sgd", "learning_rate": 10}
    run = sweep(tmp_path, "bad", sweep={"epochs": [20, 40]}, seeds=1, task=task)
    assert set(run.trials["status"]) == {"diverged"}
    assert run.trials["epochs"].tolist() == [20, 40]
    assert (run.trials["epochs_trained"] < run.trials["epochs"]).all()


def test_it_is_resumed_with_the_same_sweep_only(run: harness.Run, cli: Cli) -> None:
    folder = str(Path(run.location).parent)
    again = ["run", "--resume", "swept", "--dispatch", "inline", "--results", folder]
    same = cli(*again, "--sweep", "hidden=2,4", "--sweep", "cell=rnn,gru")
    assert same.returncode == 0, same.stderr
    other = cli(*again, "--sweep", "hidden=2,8")
    assert other.returncode == 2
    assert "`--sweep` differs" in other.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sweep", "hiden=2"], "`--sweep`: unknown name `hiden` (did you mean `hidden`?)"),
        (["--sweep", "hidden"], "`--sweep hidden`: write KEY=A,B,..."),
        (["--sweep", "hidden="], "`--sweep hidden=`: write KEY=A,B,..."),
        (["--sweep", "hidden=2,2"], "`--sweep` hidden: `2` is there twice; name each value once"),
        (["--sweep", "rho=0.1,0.10"], "two of the values are the same number"),
        (["--sweep", "hidden=2,x"], "`hidden` = 'x'"),
        (
            [
                f"--sweep={name}={','.join(map(str, range(1, 400)))}"
                for name in ("epochs", "hidden")
            ],
            "159,201 points; at most 100,000",
        ),
        (["--sweep", "hidden=2", "--sweep", "hidden=3"], "`--sweep hidden=2` is there, too"),
        (["--sweep", "hidden=2", "--set", "hidden=3"], "`--set` gives `hidden` a value"),
        (["--sweep", "cell=gru", "--sweep", "activation=tanh,relu"], "a gru is defined with tanh"),
        (["--sweep", "epochs=10,20", "--precision", "2%"], "it takes no `--sweep`"),
    ],
)
def test_a_bad_sweep_is_refused_before_anything_starts(
    options: list[str], said: str, tmp_path: Path, cli: Cli
) -> None:
    done = cli("run", *options, "--results", str(tmp_path), "--dispatch", "inline")
    assert done.returncode == 2
    assert said in done.stderr
    assert not results_folder.run_folders(tmp_path)


def test_a_backend_without_a_swept_cell_says_so(tmp_path: Path, cli: Cli) -> None:
    done = cli(
        *("run", "--backends", "tests.helpers.many:NoGru", "--sweep", "cell=rnn,gru"),
        *("--results", str(tmp_path), "--dispatch", "inline", "--set", "hidden=2"),
    )
    assert done.returncode == 2
    assert "backend `tests.helpers.many:NoGru` has no gru." in done.stderr
    assert not results_folder.run_folders(tmp_path)


def test_a_sweep_is_not_compared_with_another_run(run: harness.Run, alone: harness.Run) -> None:
    from harness.compare import compare_runs

    with pytest.raises(InvalidInput, match="run `swept` is a sweep"):
        compare_runs(run, alone)


@pytest.mark.parametrize(
    "table", ["summary", "comparisons", "scaling", "curves", "steps", "trials", "chunks"]
)
def test_every_table_is_shown(run: harness.Run, table: str, cli: Cli) -> None:
    folder = str(Path(run.location).parent)
    done = cli("show", "swept", "--table", table, "--results", folder)
    assert done.returncode == 0, done.stderr
    assert "hidden" in done.stdout


def test_how_times_grow_is_read_from_the_run(run: harness.Run) -> None:
    (row,) = run.growth().to_dict("records")
    assert (row["field"], row["trials"], row["sizes"]) == ("hidden", 8, 2)
    assert run.crossovers().empty


def test_a_run_that_is_no_sweep_has_no_scaling(alone: harness.Run, cli: Cli) -> None:
    folder = str(Path(alone.location).parent)
    done = cli("show", "r", "--table", "scaling", "--results", folder)
    assert done.returncode == 2
    assert "run `r` is no sweep" in done.stderr
