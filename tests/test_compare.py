"""Two runs compared: real folders, made-up values."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import InvalidInput, Run, Task
from harness.compare import CHANGES, Margins, compare_runs
from harness.store.manifest import Manifest
from harness.store.run_writer import RunWriter
from harness.trial.arms import Arm
from harness.trial.plan import Plan
from harness.trial.record import SCHEMA_VERSION, Chunk, CurvePoint
from tests.helpers.commands import Cli
from tests.helpers.records import record

TASK = Task(n_steps=2)
SEEDS = 8
NODE = {"cpu": "AMD EPYC", "cores": "2"}


def scatter(run: str, size: float = 0.003) -> np.ndarray:
    """Return noise on the logarithm of a time, another one for each name."""
    return size * np.random.default_rng(sum(map(ord, run))).standard_normal(SEEDS)


def write(
    results: Path,
    run: str,
    times: dict[str, float],
    *,
    task: Task = TASK,
    seeds: int = SEEDS,
    first_seed: int = 0,
    mse: float = 0.005,
    mse_noise: float = 0.0,
    noise: float = 0.003,
    **changes: Any,
) -> Run:
    """Write a finished run whose backends take about so many seconds."""
    arms = tuple(Arm(backend=name, device="cpu") for name in times)
    plan = Plan(run=run, task=task, arms=arms, seeds=tuple(range(first_seed, first_seed + seeds)))
    with RunWriter.create(results, Manifest(started_utc="-", plan=plan, environment={})) as writer:
        for job in (job for block in plan.blocks() for job in block):
            train_s = times[job.backend] * np.exp(scatter(run + job.backend, noise)[job.seed])
            points = (CurvePoint(epoch=1000, train_s=train_s, train_loss=0.1, eval_mse=mse),)
            shared = {name: getattr(job, name) for name in ("run", "trial", "block", "backend")}
            fields = shared | {
                "seed": job.seed,
                "task": task,
                "points": points,
                "step_mse": (mse * (1 + job.seed) * np.exp(scatter(run, mse_noise)[job.seed]),) * 2,
                "peak_rss_mb": 100.0,
                "environment": NODE,
            }
            writer.add(record(**(fields | changes)))
    return Run(run, results)


def verdicts(a: Run, b: Run, **options: Any) -> dict[tuple[str, str], str]:
    changes = compare_runs(a, b, **options).changes
    keys = zip(changes["metric"], changes["backend"], strict=True)
    return dict(zip(keys, changes["verdict"], strict=True))


def test_runs_with_cut_and_with_whole_calls(tmp_path: Path) -> None:
    def measured(name: str, epochs: int) -> Run:
        call = Chunk(wall_s=1.0, epochs=epochs, round=1, cpu_s=1.0, involuntary_switches=0)
        return write(tmp_path, name, {"x": 1.0}, timing="rounds", chunks=(call,))

    whole, same, cut = measured("whole", 50), measured("same", 50), measured("cut", 10)
    assert "cut" not in " ".join(compare_runs(whole, same).notices)
    (notice,) = (n for n in compare_runs(whole, cut).notices if "cut" in n)
    assert "calls of `whole` were whole, those of `cut` cut to 10 epochs" in notice
    assert not any("whole" in n for n in compare_runs(whole, cut, metrics=["final_mse"]).notices)


def test_what_became_slower_what_stayed_and_what_is_not_known(tmp_path: Path) -> None:
    a = write(tmp_path, "a", {"x": 1.0, "y": 2.0})
    b = write(tmp_path, "b", {"x": 1.1, "y": 2.001})
    assert verdicts(a, b) == {
        ("train_s", "x"): "slower",
        ("train_s", "y"): "same within ±2 %",
        ("final_mse", "x"): "identical",
        ("final_mse", "y"): "identical",
        ("lag_skill", "x"): "identical",
        ("lag_skill", "y"): "identical",
    }
    assert verdicts(b, a)["train_s", "x"] == "faster"
    table = compare_runs(a, b).changes
    row = table.iloc[0]
    assert list(table) == list(CHANGES)
    assert row["value"] == pytest.approx(1.1, rel=0.01)
    assert row["low"] < row["value"] < row["high"]
    assert (row["a"], row["b"]) == pytest.approx((0.001, 0.0011), rel=0.01)
    assert row["p_holm"] == pytest.approx(min(1, 2 * row["p"]))
    noisy = write(tmp_path, "noisy", {"x": 1.0, "y": 2.0}, noise=0.3)
    assert verdicts(a, noisy)["train_s", "x"] == "inconclusive"
    # Shown to be different, and shown to be no different by more than is minded: the same.
    little = write(tmp_path, "little", {"x": 1.012, "y": 2.0})
    row = compare_runs(a, little, ["train_s"]).changes.iloc[0]
    assert row["p_holm"] < 0.05
    assert row["verdict"] == "same within ±2 %"
    assert verdicts(a, little, margins=Margins(time=0.005))["train_s", "x"] == "slower"


def test_accuracy_is_paired_by_seed(tmp_path: Path) -> None:
    a = write(tmp_path, "a", {"x": 1.0})
    worse = write(tmp_path, "worse", {"x": 1.0}, mse=0.0065, mse_noise=1e-5)
    row = compare_runs(a, worse, ["final_mse"]).changes.iloc[0]
    # The seeds differ by a factor of six, the ratio hardly at all.
    assert (row["value"], row["low"], row["high"]) == pytest.approx((1.3, 1.3, 1.3), rel=1e-4)
    assert row["low"] < row["value"] < row["high"]
    assert verdicts(a, worse, metrics=["final_mse"])["final_mse", "x"] == "worse"
    assert verdicts(worse, a, metrics=["lag_skill"])["lag_skill", "x"] == "better"
    near = write(tmp_path, "near", {"x": 1.0}, mse=0.0051)
    assert verdicts(a, near, metrics=["final_mse"])["final_mse", "x"] == "same within ±10 %"
    more = write(tmp_path, "more", {"x": 1.0}, peak_rss_mb=150.0)
    assert verdicts(a, more, metrics=["peak_rss_mb"])["peak_rss_mb", "x"] == "higher"


def test_identical_is_said_of_all_seeds_or_not_at_all(tmp_path: Path) -> None:
    def change(other: str) -> dict[str, Any]:
        (row,) = compare_runs(a, Run(other, tmp_path), ["final_mse"]).changes.to_dict("records")
        return {str(name): value for name, value in row.items()}

    a = write(tmp_path, "a", {"x": 1.0}, seeds=3)
    write(tmp_path, "same", {"x": 1.0}, seeds=3)
    row = change("same")
    assert (row["verdict"], row["value"], row["n_a"], row["n_b"]) == ("identical", 1, 3, 3)
    assert np.isnan(row["p_holm"])
    # One seed in common: two independent samples, however equal the one pair is.
    write(tmp_path, "one", {"x": 1.0}, first_seed=2, seeds=3)
    row = change("one")
    assert (row["n_a"], row["n_b"]) == (3, 3)
    assert row["value"] > 1.5
    assert row["verdict"] == "inconclusive"
    assert 0 < row["p_holm"] <= 1
    # Two: what they have in common is compared, but not all there is.
    write(tmp_path, "two", {"x": 1.0}, first_seed=1, seeds=3)
    row = change("two")
    assert (row["verdict"], row["value"], row["n_a"]) == ("same within ±10 %", 1, 2)
    alone = write(tmp_path, "alone", {"x": 1.0}, seeds=1)
    again = write(tmp_path, "again", {"x": 1.0}, seeds=1)
    assert verdicts(alone, again, metrics=["final_mse"])["final_mse", "x"] == "identical"


def test_epochs_to_the_lag_differ_if_by_more_than_the_distance_of_evaluations(
    tmp_path: Path,
) -> None:
    def run(name: str, epochs: int, first_seed: int = 0) -> Run:
        points = tuple(
            CurvePoint(epoch=e, train_s=e / 1000, train_loss=1.0, eval_mse=float(e < epochs))
            for e in range(50, 1001, 50)
        )
        return write(tmp_path, name, {"x": 1.0}, seeds=3, first_seed=first_seed, points=points)

    a, b, c, d = run("a", 850), run("b", 900), run("c", 850), run("d", 900, first_seed=3)
    metrics = ["epochs_to_lag", "seconds_to_lag"]
    for later in (b, d):  # The same seeds, and others.
        changes = compare_runs(a, later, metrics).changes
        assert set(changes["verdict"]) == {"inconclusive"}
        assert (changes["low"] < 1).all()
        assert (changes["high"] > 1.1).all()
    assert verdicts(a, c, metrics=metrics)["epochs_to_lag", "x"] == "identical"


def test_one_block_is_inconclusive(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, "a", {"x:X": 1.0}, seeds=1)
    write(tmp_path, "b", {"x:X": 2.0}, seeds=1, mse=0.006)
    done = cli("compare", "a", "b", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "inconclusive (one block: no interval)" in done.stdout
    assert "inconclusive (one seed: no interval)" in done.stdout


def test_across_machines_only_ratios_inside_blocks_are_compared(tmp_path: Path) -> None:
    a = write(tmp_path, "a", {"x": 1.0, "y": 2.0})
    # Twice as fast a machine, on which `y` gains less.
    b = write(tmp_path, "b", {"x": 0.5, "y": 1.2}, environment=NODE | {"cpu": "Xeon"}, node="m")
    with pytest.raises(InvalidInput, match="cpu: AMD EPYC there, Xeon here") as caught:
        compare_runs(a, b)
    assert "--across" in str(caught.value)
    changes = compare_runs(a, b, ["train_s"], across="").changes
    assert changes[["backend", "across", "verdict"]].to_numpy().tolist() == [["y", "x", "slower"]]
    assert changes.loc[0, "value"] == pytest.approx(1.2, rel=0.02)
    (row,) = compare_runs(a, b, ["train_s"], across="y").changes.to_dict("records")
    assert (row["backend"], row["across"], row["verdict"]) == ("x", "y", "faster")
    with pytest.raises(InvalidInput, match=r"unknown backend `z`.*known: x, y in both runs"):
        compare_runs(a, b, across="z")
    # Accuracy does not care for the machine.
    assert verdicts(a, b, metrics=["final_mse"])["final_mse", "x"] == "identical"
    threads = write(tmp_path, "threads", {"x": 1.0, "y": 2.0}, threads=2)
    with pytest.raises(InvalidInput, match="threads: 1 there, 2 here"):
        compare_runs(a, threads)
    pinned = write(tmp_path, "pinned", {"x": 1.0, "y": 2.0}, cores=(1,))
    with pytest.raises(InvalidInput, match="pinned to cores: none there, 1 here"):
        compare_runs(a, pinned)


def test_what_cannot_be_compared_is_refused_in_a_sentence(tmp_path: Path) -> None:
    def refused(other: str, **options: Any) -> str:
        with pytest.raises(InvalidInput) as caught:
            compare_runs(Run("a", tmp_path), Run(other, tmp_path), **options)
        return str(caught.value)

    write(tmp_path, "a", {"x": 1.0})
    write(tmp_path, "task", {"x": 1.0}, task=Task(n_steps=2, epochs=500, rho=0.2))
    write(tmp_path, "failed", {"x": 1.0}, status="failed", step_mse=())
    write(tmp_path, "empty", {"x": 1.0}, seeds=0)
    write(tmp_path, "other", {"z": 1.0})
    write(tmp_path, "packed", {"x": 1.0}, contended=True)
    write(tmp_path, "alike", {"x": 1.0})
    assert "unknown run `b`" in refused("b")
    assert "run `a` is given twice" in refused("a")
    tasks = refused("task")
    assert "different tasks: `rho` is 0.1 in `a` and 0.2 in `task`, `epochs` is 1000" in tasks
    assert "no trial of run `failed` ended ok" in refused("failed")
    assert "run `empty` has no finished trial" in refused("empty")
    assert "`a` has x on cpu and `other` has z on cpu" in refused("other")
    assert "trials of run `packed` ran beside others (contended)" in refused("packed")
    assert "`--across` takes two backends that are in both runs" in refused("alike", across="")
    assert "did you mean `wall_s`" in refused("alike", metrics=["wal_s"])


def test_a_copy_of_a_run_is_not_compared_with_it(tmp_path: Path) -> None:
    chunks = (Chunk(wall_s=0.123, cpu_s=0.1, involuntary_switches=0),)
    run = write(tmp_path, "a", {"x": 1.0}, seeds=3, chunks=chunks)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = Run("b", tmp_path)
    with pytest.raises(InvalidInput, match="the same measurement: 3 of 3 trials are copies"):
        compare_runs(run, copy)
    # One more trial was measured since.
    next((tmp_path / "a" / "records").glob("seed1*")).unlink()
    with pytest.raises(InvalidInput, match="2 of 3 trials are copies"):
        compare_runs(Run("a", tmp_path), copy, ["final_mse"])


def test_the_command_line_refuses_with_a_sentence(cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "alike", "newer", "record"):
        write(tmp_path, name, {"x:X": 1.0})
    for path in ("newer/manifest.json", "record/records/seed2-x.X-cpu.json"):
        text = (tmp_path / path).read_text()
        mine, next_one = (f'"schema_version": {SCHEMA_VERSION + n}' for n in (0, 1))
        assert mine in text
        (tmp_path / path).write_text(text.replace(mine, next_one))
    newer = (
        "was written by a newer version of the harness "
        f"(schema {SCHEMA_VERSION + 1}; this one reads up to {SCHEMA_VERSION})"
    )
    for arguments, sentence in (
        (["newer"], newer),
        (["record"], newer),
        (["alike", "--across"], "`--across` takes two backends"),
        (["alike", "--margin", "0%"], "`--margin 0%`: a margin is above 0"),
        (["alike", "--margin", "101%"], "`--margin 101%`: a margin is above 0 and at most 100%"),
        (["alike", "--accuracy-margin", "ten"], "`--accuracy-margin ten`: write a share"),
        (["alike", "--accuracy-margin", "10"], "percent sign: `10%` or `1000%`"),
    ):
        done = cli("compare", "a", *arguments, "--results", tmp_path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert sentence in done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr


def test_useless_timings_are_left_out_and_none_at_all_refused(tmp_path: Path) -> None:
    a = write(tmp_path, "a", {"x": 1.0})
    for number, first_call_s in enumerate((0.0, None, -1.0)):
        bad = write(tmp_path, f"bad{number}", {"x": 1.0}, first_call_s=first_call_s)
        with pytest.raises(InvalidInput, match="`first_call_s`: no trial of run `a` has a value"):
            compare_runs(a, bad, ["first_call_s"])
    some = write(tmp_path, "some", {"x": 1.0}, seeds=3)
    point = CurvePoint(epoch=1000, train_s=0.0, train_loss=0.1, eval_mse=0.5)
    with RunWriter.resume(tmp_path, "some") as writer:
        writer.add(some.records[0].model_copy(update={"points": (point,)}))
    comparison = compare_runs(a, Run("some", tmp_path), ["train_s"])
    assert comparison.changes.loc[0, "n_b"] == 2
    assert "`train_s`: 1 of 3 trials of run `some` lack a value above zero" in comparison.notices[0]


def test_a_task_without_a_lag_has_no_skill_to_compare(tmp_path: Path) -> None:
    task = Task(n_steps=2, lag_weight=0)
    a, b = (write(tmp_path, name, {"x": 1.0}, task=task) for name in "ab")
    assert set(compare_runs(a, b).changes["metric"]) == {"train_s", "final_mse"}
    with pytest.raises(InvalidInput, match="`lag_skill`: no trial of run `a` has a value"):
        compare_runs(a, b, ["lag_skill"])


@pytest.mark.parametrize("kind", ["table", "markdown", "json", "csv"])
def test_compare_in_every_format(cli: Cli, tmp_path: Path, kind: str) -> None:
    write(tmp_path, "a", {"x:X": 1.0, "y:Y": 2.0})
    write(tmp_path, "b", {"x:X": 1.1, "y:Y": 6.0})
    done = cli("compare", "a", "b", "--results", tmp_path, "--format", kind, "--metric", "train_s")
    assert done.returncode == 0, done.stderr
    assert "not in the intervals of times" in done.stderr
    if kind == "json":
        assert [row["verdict"] for row in json.loads(done.stdout)] == ["slower", "slower"]
    elif kind == "csv":
        assert list(next(csv.DictReader(io.StringIO(done.stdout)))) == list(CHANGES)
    else:
        assert "+10." in done.stdout or "+9.9" in done.stdout
        assert "x [" in done.stdout  # Threefold is told as a ratio.
        assert kind == "markdown" or max(map(len, done.stdout.splitlines())) <= 80
