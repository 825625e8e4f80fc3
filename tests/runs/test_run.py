"""Whole runs: real processes, real Ray, real faults."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest

import harness
from harness import Run
from tests.helpers import docs, trainings
from tests.helpers.commands import TINY_RUN, Cli, Done, in_this_process
from tests.helpers.processes import inline, workers
from tests.helpers.records import TINY_TASK


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frameworks")


@pytest.fixture(scope="module")
def frameworks(folder: Path) -> Run:
    """A run of PyTorch and JAX by somebody who has set some variables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("MALLOC_ARENA_MAX", "1")
        return harness.run(
            TINY_TASK,
            backends=["torch", "jax"],
            seeds=1,
            rounds=2,
            dispatch="inline",
            results=folder,
        )


def test_the_frameworks_agree(frameworks: Run) -> None:
    assert frameworks.trials["status"].tolist() == ["ok"] * 2
    assert frameworks.trials["final_mse"].max() / frameworks.trials["final_mse"].min() < 1.001


def test_a_cache_of_compiled_code_is_not_used(frameworks: Run, folder: Path) -> None:
    assert not frameworks.failures
    assert not (folder / "cache").exists()


def test_settings_and_variables_are_recorded(frameworks: Run) -> None:
    of = {record.backend: record.environment for record in frameworks.records}
    for environment in of.values():
        assert environment["env:MALLOC_ARENA_MAX"] == "1"
        assert environment["env:CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert "setting:compiler_options" not in environment
    assert of["jax"]["setting:jax.config.jax_default_matmul_precision"] == "highest"
    assert of["jax"]["setting:jax.config.jax_enable_x64"] == "False"
    assert of["torch"]["setting:torch.get_float32_matmul_precision"] == "highest"
    assert of["torch"]["setting:torch.backends.cudnn.rnn.fp32_precision"] == "ieee"


@pytest.mark.parametrize(
    "backends",
    [["reference"], pytest.param(["torch", "jax"], marks=pytest.mark.slow)],
    ids=",".join,
)
def test_inline_and_ray_give_the_same_numbers(
    tmp_path: Path, backends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_ray = Path(tempfile.mkdtemp(dir="/tmp"))  # The paths of sockets are short.
    monkeypatch.setenv("RAY_TMPDIR", str(of_ray))
    both = {
        dispatch: harness.run(
            TINY_TASK,
            backends=backends,
            seeds=1,
            rounds=2,
            dispatch=dispatch,
            results=tmp_path,
            run_id=dispatch,
        )
        for dispatch in ("inline", "ray")
    }
    inline, ray = both["inline"], both["ray"]
    assert inline.trials["status"].tolist() == ["ok"] * len(backends)
    same = ["trial", "block", "backend", "device", "node", "seed", "epochs", "final_mse", "r2"]
    pd.testing.assert_frame_equal(
        inline.trials.sort_values("trial", ignore_index=True)[same],
        ray.trials.sort_values("trial", ignore_index=True)[same],
    )
    keys = ["trial", "epoch", "train_loss", "eval_mse"]
    pd.testing.assert_frame_equal(
        inline.curves.sort_values(keys[:2], ignore_index=True)[keys],
        ray.curves.sort_values(keys[:2], ignore_index=True)[keys],
    )
    # One core each, nothing beside it.
    assert all(record.cores is not None and len(record.cores) == 1 for record in ray.records)
    assert not ray.trials["contended"].any()
    for name in ("trials", "curves", "steps", "chunks"):
        table = getattr(ray, name)
        stored = pd.read_parquet(tmp_path / "ray" / f"{name}.parquet")
        assert list(stored.columns) == list(table.columns)
        assert len(stored) == len(table) == len(pd.read_csv(tmp_path / "ray" / f"{name}.csv"))
    assert all(certificate.passed for certificate in ray.manifest.parity)
    assert ray.manifest.finished_utc
    # Nothing of Ray is left.
    assert list((of_ray / "ray").iterdir()) == []
    shutil.rmtree(of_ray)


def test_packed_fills_the_machine_with_the_same_accuracy(tmp_path: Path) -> None:
    packed = harness.run(
        TINY_TASK,
        backends=["reference"],
        seeds=2,
        packed=True,
        rounds=2,
        dispatch="inline",
        results=tmp_path,
        run_id="packed",
    )
    alone = trainings.run(tmp_path, TINY_TASK, ["reference"], seeds=(0, 1))
    assert packed.trials["contended"].all()
    assert set(packed.trials["timing"]) == {"alone"}
    assert packed.trials["final_mse"].tolist() == alone.trials["final_mse"].tolist()


def test_a_run_without_any_trial_says_why_and_prints_no_table(cli: Cli, tmp_path: Path) -> None:
    given = ("--dispatch", "inline", "--seeds", 1, "--results", tmp_path)
    done = cli(*TINY_RUN, "--backends", "tests.helpers.faulty:WrongSign", *given)
    assert done.returncode == 1
    assert "failed parity" in done.stderr
    assert "backends-disagree" in done.stdout
    assert "train s" not in done.stdout


def test_a_wrong_backend_is_not_timed_and_the_others_are(cli: Cli, tmp_path: Path) -> None:
    backends = "reference,tests.helpers.faulty:WrongSign,tests.helpers.faulty:RaisesInInit"
    done = cli(*TINY_RUN, "--backends", backends, *inline(tmp_path), "--seeds", 1)
    assert done.returncode == 1
    assert "gradient in float64: worst at h0[" in done.stderr
    assert "RuntimeError: no memory for parameters" in done.stderr
    assert Run("x", tmp_path).trials["backend"].tolist() == ["reference"]


FAULTS = [
    "RaisesMidTraining",
    "WrongLossShape",
    "ReturnsNone",
    "Exits",
    "KillsItself",
    "ReturnsNan",
]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Run]:
    """A run in which each backend but one has a fault."""
    results = tmp_path_factory.mktemp("faulty")
    backends = ",".join(["reference", *(f"tests.helpers.faulty:{fault}" for fault in FAULTS)])
    given = ("--backends", backends, *inline(results), "--seeds", 1)
    return in_this_process(*TINY_RUN, *given), Run("x", results)


def test_failing_trials_take_no_other_down(faulty: tuple[Done, Run]) -> None:
    done, run = faulty
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert run.trials["status"].value_counts().to_dict() == {"ok": 1, "diverged": 1, "failed": 5}


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        (
            "RaisesMidTraining",
            "failed",
            "RuntimeError: kernel launch failed (training after epoch 60)",
        ),
        ("WrongLossShape", "failed", "got an array of float64 of shape (9,)"),
        ("ReturnsNone", "failed", "`train` returned None; expected (state, losses)"),
        ("Exits", "failed", "ended by itself with exit code 0 (training after epoch 60)"),
        (
            "KillsItself",
            "failed",
            "killed by SIGKILL (training after epoch 60); its output ends with: about to die",
        ),
        ("ReturnsNan", "diverged", ""),
    ],
)
def test_a_failing_trial_is_a_row(
    faulty: tuple[Done, Run], fault: str, status: str, error: str
) -> None:
    done, run = faulty
    name = f"tests.helpers.faulty:{fault}"
    (record,) = (record for record in run.records if record.backend == name)
    assert record.status == status
    if error:
        assert error in str(record.error)
        assert error in done.stderr
    # What it had measured until then is kept.
    assert (run.trials.set_index("backend")["epochs"] >= 60)[name]
    assert len(run.curves[run.curves["backend"] == name]) >= 6
    if fault == "KillsItself":
        assert "about to die" in str(record.details)


def test_a_run_in_which_everything_diverges_is_a_result(cli: Cli, tmp_path: Path) -> None:
    given = ("--backends", "reference", *inline(tmp_path), "--seeds", 1)
    done = cli(*TINY_RUN, "--set", "optimiser=sgd", "--set", "learning_rate=1e6", *given)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "0/1" in done.stdout


def test_a_folder_that_is_no_run_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    done = cli(*TINY_RUN, "--backends", "reference", "--devices", "gpu", *inline(tmp_path))
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert (tmp_path / "x" / "notes.txt").read_text() == "mine"


def test_a_hanging_trial_is_killed_when_its_time_is_up(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        *(*TINY_RUN, "--backends", "tests.helpers.faulty:Hangs,reference", *inline(tmp_path)),
        *("--seeds", 1, "--timeout", 10),
    )
    assert done.returncode == 1
    trials = Run("x", tmp_path).trials.set_index("backend")
    assert trials.loc["tests.helpers.faulty:Hangs", "status"] == "timeout"
    assert "still running after 10 s" in str(trials.loc["tests.helpers.faulty:Hangs", "error"])
    assert trials.loc["reference", "status"] == "ok"
    assert not workers(tmp_path)


def test_a_third_partys_package_is_a_backend_like_the_others(program: Cli, tmp_path: Path) -> None:
    docs.install_example(site := tmp_path / "site")
    assert "example " in program("list", PYTHONPATH=str(site)).stdout
    given = ("--backends", "example", *inline(tmp_path), "--seeds", 1)
    done = program(*TINY_RUN, *given, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert set(Run("x", tmp_path).trials["backend"]) == {"example"}
