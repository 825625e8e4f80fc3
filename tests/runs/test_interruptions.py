"""Runs that lose a worker or their driver, or are interrupted: what is kept, and how they go on."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest

import harness
from harness import Run
from tests.helpers.commands import Cli, shown, typed
from tests.helpers.processes import start, wait_for, workers
from tests.helpers.records import TINY_TASK


@pytest.mark.parametrize("retries", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_block_whose_ray_worker_is_lost_is_repeated(tmp_path: Path, retries: int) -> None:
    given = ("--dispatch", "ray", "--seeds", 2, "--max-retries", retries)
    driver = start(tmp_path, *given, backend="reference,tests.helpers.faulty:Slow")
    wait_for(lambda: workers(tmp_path, "tests.helpers.faulty:Slow", seed=0))
    (process,) = workers(tmp_path, "tests.helpers.faulty:Slow", seed=0)
    worker = process.parent()
    assert worker is not None
    worker.kill()
    _, errors = driver.communicate(timeout=120)
    run = Run("x", tmp_path)
    slow = run.trials[run.trials["backend"] != "reference"]
    assert len(run.trials) == 4
    if not retries:
        assert driver.returncode == 1
        lost = run.trials[run.trials["status"] == "lost"]
        assert lost["seed"].tolist() == [0, 0]  # They were alive together.
        assert lost["error"].str.contains("lost with its node or Ray worker").all()
        assert run.missing == lost["trial"].tolist()
        assert not harness.resume("x", dispatch="inline", results=tmp_path).missing
        return
    assert driver.returncode == 0, errors
    assert (run.trials["status"] == "ok").all()
    assert slow["attempts"].tolist() == [2, 1]
    assert slow["lost"].tolist() == [f"attempt 1 on {slow['node'].iloc[0]}", ""]
    assert "the whole block is repeated, attempt 2 of 3" in errors
    # Pairs stay pairs: what had ended before the loss was measured again, with the other.
    assert {(record.seed, record.go) for record in run.records} == {(0, 2), (1, 1)}


def killed(tmp_path: Path, dispatch: str) -> dict[Path, bytes]:
    """Kill the driver of a run in its second trial; return the files that it leaves."""
    driver = start(tmp_path, "--dispatch", dispatch, "--seeds", 2)
    records = tmp_path / "x" / "records"
    wait_for(lambda: list(records.glob("seed0*.json")) and workers(tmp_path, seed=1))
    driver.kill()
    driver.communicate()
    # Its trials do not outlive it.
    wait_for(lambda: not workers(tmp_path))
    before = {path: path.read_bytes() for path in records.glob("*.json")}
    assert len(before) == 1
    return before


def test_a_killed_driver_of_a_cluster_leaves_a_run_to_resume(cli: Cli, tmp_path: Path) -> None:
    before = killed(tmp_path, "ray")
    done = cli("run", "--resume", "x", "--results", tmp_path, "--dispatch", "inline")
    assert done.returncode == 0, done.stderr
    assert Run("x", tmp_path).trials["status"].tolist() == ["ok"] * 2
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_killed_driver_is_resumed(cli: Cli, tmp_path: Path) -> None:
    before = killed(tmp_path, "inline")
    resume = ("run", "--resume", "x", "--results", tmp_path, "--dispatch", "inline")
    refused = cli(*resume, "--set", "epochs=50")
    assert refused.returncode == 2
    assert "`task` differs: run `x` has" in refused.stderr
    assert "`--seeds` differs" in cli(*resume, "--seeds", 5).stderr

    done = cli(*resume)
    assert done.returncode == 0, done.stderr
    trials = Run("x", tmp_path).trials
    assert trials["seed"].tolist() == [0, 1]
    assert trials["status"].tolist() == ["ok"] * 2
    assert all(path.read_bytes() == content for path, content in before.items())
    again = cli(*resume)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run `x`: two blocks of two backends."""
    results = tmp_path_factory.mktemp("pairs")
    harness.run(
        TINY_TASK,
        backends=["reference", "tests.helpers.faulty:AnyDevice"],
        seeds=2,
        rounds=2,
        dispatch="inline",
        results=results,
        run_id="x",
    )
    return results / "x"


def test_what_needed_too_much_memory_no_longer_goes_in_rounds(pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(pairs, tmp_path / "x")
    records = tmp_path / "x" / "records"
    first = records / "seed0-reference-cpu.json"
    content = json.loads(first.read_text())
    first.write_text(json.dumps(content | {"peak_rss_mb": 1e9}))
    (records / "seed1-reference-cpu.json").unlink()
    trials = harness.resume("x", dispatch="inline", results=tmp_path).trials
    assert trials.groupby("seed")["timing"].unique().map(list).tolist() == [["rounds"], ["alone"]]


def test_a_block_with_a_trial_missing_is_run_again_whole(
    cli: Cli, pairs: Path, tmp_path: Path
) -> None:
    shutil.copytree(pairs, tmp_path / "x")
    records = tmp_path / "x" / "records"
    (records / "seed1-reference-cpu.json").unlink()
    before = {path: path.read_bytes() for path in records.glob("*.json")}
    done = cli("run", "--resume", "x", "--results", tmp_path, "--dispatch", "inline")
    assert done.returncode == 0, done.stderr
    trials = Run("x", tmp_path).trials
    assert sorted(trials[["seed", "go", "attempts"]].to_numpy().tolist()) == [
        [0, 1, 1],
        [0, 1, 1],
        [1, 2, 1],
        [1, 2, 2],
    ]
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    ("number", "dispatch"),
    [
        (signal.SIGTERM, "inline"),
        # `test_ctrl_c_leaves_the_terminal_as_it_was` has it in the fast suite.
        pytest.param(signal.SIGINT, "inline", marks=pytest.mark.slow),
        # Ray has a handler of its own, which would abort the process after 3 s.
        pytest.param(signal.SIGTERM, "ray", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "inline", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_keeps_what_is_finished(
    tmp_path: Path, number: int, dispatch: str, cli: Cli
) -> None:
    driver = start(tmp_path, "--dispatch", dispatch, "--seeds", 2)
    records = tmp_path / "x" / "records"
    wait_for(lambda: list(records.glob("*.json")) and workers(tmp_path, seed=1))
    driver.send_signal(number)
    _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert "Traceback" not in errors
    assert "SIGTERM received" not in errors
    assert not workers(tmp_path)
    run = Run("x", tmp_path)
    assert run.trials["seed"].tolist() == [0]
    assert len(pd.read_parquet(tmp_path / "x" / "trials.parquet")) == 1
    (resume,) = shown(errors)
    if (number, dispatch) == (signal.SIGTERM, "inline"):  # In the fast suite: without Ray.
        done = cli(*shlex.split(resume)[3:], "--dispatch", "inline")
    else:
        done = typed(resume)
    assert done.returncode == 0, done.stderr
    assert Run("x", tmp_path).trials["seed"].tolist() == [0, 1]
