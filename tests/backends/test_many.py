"""Many seeds at once: `--vectorize`, the second protocol."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import harness
from benchmarks.helpers.histories import copy
from benchmarks.helpers.looped import Looped
from harness import ContractViolation, InvalidInput, Task
from harness.backend import registry
from harness.backend.model import Model
from harness.backend.single_seed import many_seeds
from harness.compare import compare_runs
from harness.measure import parity
from harness.measure.training import Training
from harness.measure.trial import Trial
from harness.store import results_folder
from harness.task.data import evaluation_paths, initial_params
from harness.trial.epoch_time import epoch_s
from tests.helpers.commands import Cli
from tests.helpers.doubles import FakeBackend, ManualClock
from tests.helpers.many import MixesSeeds, NoDouble
from tests.helpers.records import trial_job, turns_job
from tests.helpers.trainings import Here

TASK = Task(epochs=100, n_steps=5, eval_paths=20, curve_points=4, hidden=3)
LOOPED, ALONE = "tests.helpers.many:Looped", "reference"


def measured(folder: Path, backends: list[str], **more: object) -> harness.Run:
    options: dict[str, object] = {"seeds": 3, "rounds": 2, "dispatch": "inline"}
    return harness.run(TASK, backends=backends, results=folder, **(options | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> harness.Run:
    """Three seeds, two at once: groups of two and one."""
    folder = tmp_path_factory.mktemp("results")
    return measured(folder, [LOOPED, ALONE], vectorize=2, run_id="many")


def test_a_trial_holds_the_seeds_that_were_trained_at_once(run: harness.Run) -> None:
    groups = sorted((r.seeds or (r.seed,)) for r in run.records if r.backend == LOOPED)
    assert groups == [(0, 1), (2,)]
    assert sorted(r.seed for r in run.records if r.backend == ALONE) == [0, 1, 2]
    assert run.trials.groupby("backend").size().to_dict() == {LOOPED: 3, ALONE: 3}
    assert not run.missing
    # A block whose backends train unlike numbers of seeds cannot take turns.
    assert run.trials.groupby("block")["timing"].unique().map(list).to_dict() == {
        0: ["alone"],
        1: ["rounds"],
    }


def test_a_seed_has_the_numbers_that_it_has_alone(run: harness.Run) -> None:
    many, alone = (
        run.trials[run.trials["backend"] == name].sort_values("seed") for name in (LOOPED, ALONE)
    )
    np.testing.assert_array_equal(many["final_mse"], alone["final_mse"])
    for table, value in ((run.curves, "eval_mse"), (run.curves, "train_loss"), (run.steps, "mse")):
        by_backend = table.set_index(["backend", "seed", "epoch" if "epoch" in table else "t"])
        np.testing.assert_array_equal(by_backend.loc[LOOPED][value], by_backend.loc[ALONE][value])


def test_time_is_shared_out_among_the_seeds(run: harness.Run) -> None:
    group = run.trials.query("backend == @LOOPED and seed < 2")
    record = next(r for r in run.records if r.seeds == (0, 1))
    whole = TASK.epochs * (epoch_s(record) or 0.0)
    assert group["train_at_once_s"].tolist() == pytest.approx([whole, whole])
    assert group["train_s"].tolist() == pytest.approx([whole / 2, whole / 2])
    assert group["epochs_per_s"].tolist() == pytest.approx([2 * TASK.epochs / whole] * 2)
    curve = run.curves.query("backend == @LOOPED and seed == 1")["train_s"]
    assert curve.max() == pytest.approx(whole / 2)


def test_blocks_are_groups_of_seeds(run: harness.Run) -> None:
    by_seed = run.trials.groupby("seed")["block"].unique().map(list).to_dict()
    assert by_seed == {0: [0], 1: [0], 2: [1]}
    ratios = run.comparisons().query("metric == 'train_s'")
    assert ratios[["n", "of"]].to_numpy().tolist() == [[2, 2]]
    skills = run.comparisons().query("metric == 'final_mse'")
    assert skills["n"].tolist() == [3]


def test_who_cannot_is_said_and_trains_one_by_one(tmp_path: Path, cli: Cli) -> None:
    done = cli(
        *("run", "--backends", f"{LOOPED},{ALONE}", "--seeds", 2, "--vectorize"),
        *("--set", "epochs=4", "--set", "n_steps=3", "--set", "hidden=2", "--rounds", 2),
        *("--dispatch", "inline", "--results", tmp_path, "--run-id", "r"),
    )
    assert done.returncode == 0, done.stderr
    assert "reference on cpu cannot train seeds at once: it trains one by one" in done.stderr
    assert "2 seeds at once (0 to 1): ok" in done.stderr
    assert "all at once s" in done.stdout
    assert {path.stem for path in (tmp_path / "r" / "records").iterdir()} == {
        "seeds0to1-tests.helpers.many.Looped-cpu",
        *(f"seed{n}-reference-cpu" for n in range(2)),
    }


def test_if_nobody_can_the_blocks_are_single_seeds(tmp_path: Path, cli: Cli) -> None:
    alone = measured(tmp_path, [ALONE], vectorize=True, seeds=2, run_id="alone")
    assert alone.manifest.plan.many == ()
    assert alone.trials["block"].nunique() == 2
    # The same words again name the same run.
    words = ("run", "--resume", "alone", "--results", tmp_path, "--dispatch", "inline")
    again = cli(*words, "--vectorize", "--seeds", "2")
    assert (again.returncode, "is complete" in again.stderr) == (0, True), again.stderr
    other = cli(*words, "--vectorize", "3", "--seeds", "3")
    assert other.returncode == 2
    assert "`--seeds` differs" in other.stderr


def test_one_seed_alone_is_none_at_once(tmp_path: Path) -> None:
    one = measured(tmp_path, [LOOPED], vectorize=True, seeds=1)
    assert one.manifest.plan.at_once is None


def test_seeds_that_were_timed_together_are_one_time(tmp_path: Path) -> None:
    a = measured(tmp_path, [LOOPED], vectorize=2, seeds=4)
    copy(a, tmp_path, "b", 1, noise=0.01)
    b = harness.load("b", tmp_path)
    changes = compare_runs(a, b, metrics=["train_s", "wall_s", "final_mse"]).changes.set_index(
        "metric"
    )
    assert changes["n_a"].to_dict() == {"train_s": 2, "wall_s": 2, "final_mse": 4}


def test_times_of_other_groups_of_seeds_are_not_compared(run: harness.Run, tmp_path: Path) -> None:
    # Groups of two and of one: a run of several kinds is one run nevertheless.
    other = measured(tmp_path, [LOOPED], vectorize=3, seeds=3)
    with pytest.raises(InvalidInput, match=r"on cpu: seeds at once: 1 and 2 there, 3 here"):
        compare_runs(run, other)
    assert len(compare_runs(run, other, metrics=["final_mse"]).changes) == 1


def test_epochs_that_cannot_be_cut_for_so_many_seeds_are_refused(cli: Cli) -> None:
    words = ("run", "--backends", LOOPED, "--set", "epochs=1060", "--seeds", "64", "--vectorize")
    done = cli(*words, "--dispatch", "inline")
    assert done.returncode == 2
    assert "cannot be cut into equal chunks for 64 seeds at once; the nearest that can is 1" in (
        " ".join(done.stderr.split())
    )


def test_an_odd_number_of_held_out_paths_is_scored_whole() -> None:
    seeds, task = 200, Task(epochs=1, n_steps=100, eval_paths=211, curve_points=1, hidden=1)
    job = turns_job(task, backend=LOOPED, seeds=tuple(range(seeds)))
    backend = Looped(task.model, "cpu")
    training = Training(job, lambda kind, value: None)
    got, _ = training.evaluate()
    for seed in (0, 7):
        x_TN, y_TN = evaluation_paths(task, seed)
        output = backend.predict(backend.init(initial_params(task.model, seed)), x_TN)
        np.testing.assert_allclose(got[seed], ((output[1:] - y_TN) ** 2).mean(axis=1), rtol=1e-5)


def test_a_run_of_many_seeds_is_resumed(run: harness.Run, tmp_path: Path) -> None:
    shutil.copytree(run.location, tmp_path / "many")
    (tmp_path / "many" / "records" / "seeds0to1-tests.helpers.many.Looped-cpu.json").unlink()
    resumed = harness.resume("many", dispatch="inline", results=tmp_path)
    before, after = (r.trials.set_index(["backend", "seed"])["final_mse"] for r in (run, resumed))
    assert after.to_dict() == before.to_dict()


def test_a_seed_that_diverges_leaves_the_others_alone(run: harness.Run, tmp_path: Path) -> None:
    others = run.trials.set_index(["backend", "seed"]).loc[ALONE]
    run = measured(tmp_path, ["tests.helpers.many:SecondDiverges"], vectorize=True)
    mine = run.trials.set_index("seed")
    assert mine["status"].to_dict() == {0: "ok", 1: "diverged", 2: "ok"}
    assert mine["epochs"].to_dict()[1] < TASK.epochs
    assert mine.drop(1)["final_mse"].to_dict() == others.drop(1)["final_mse"].to_dict()
    assert run.summary().set_index("backend").loc["tests.helpers.many:SecondDiverges", "seeds"] == 2
    assert not run.failures


def test_a_trial_of_many_seeds_that_fails_is_a_row_for_each(tmp_path: Path) -> None:
    run = measured(tmp_path, [LOOPED], vectorize=True, seeds=3, timeout_s=0.01)
    # Parity is under the same limit: what is not certified is not timed.
    assert not run.records
    assert run.manifest.plan.many == ()


def test_parity_tells_seeds_that_are_mixed_up() -> None:
    failed = [c for c in parity.compare(MixesSeeds, "cpu", TASK, at_once=4) if not c.passed]
    assert {check.at_once for check in failed} == {4}
    assert failed[0].quantity == "gradient"
    assert "of 4 seeds at once" in str(failed[0])
    # In float64: the reference trains 17 seeds for it, which takes seconds.
    right = list(islice(parity.compare(Looped, "cpu", TASK, at_once=64), 8))
    assert {check.at_once for check in right} == {1, 17}
    assert not [c for c in right if not c.passed]


def test_a_device_that_lacks_float64_passes_in_float32_and_is_refused_in_float64(
    tmp_path: Path, cli: Cli
) -> None:
    assert {c.dtype for c in parity.compare(NoDouble, "cpu", TASK)} == {"float32"}
    done = cli(
        *("run", "--backends", "tests.helpers.many:NoDouble", "--set", "dtype=float64"),
        *("--dispatch", "inline", "--results", tmp_path),
    )
    assert done.returncode == 2
    assert "does not train a network with `dtype` = float64; it does with float32" in done.stderr
    assert not results_folder.run_folders(tmp_path)


@pytest.mark.parametrize("value", ["1", "0", "many", "2.5"])
def test_a_bad_number_of_seeds_is_refused(value: str, tmp_path: Path, cli: Cli) -> None:
    done = cli("run", f"--vectorize={value}", "--results", tmp_path)
    assert done.returncode == 2
    assert f"`--vectorize {value}`: should be a number of seeds, 2 or more, or `all`" in done.stderr


def test_one_that_cannot_says_so_when_it_is_asked() -> None:
    with pytest.raises(ContractViolation, match="cannot train many seeds at once"):
        many_seeds(registry.load("reference")(Model(), "cpu"))


def test_only_the_call_is_on_the_clock_of_many_seeds_too() -> None:
    clock = ManualClock()

    class Many(FakeBackend):
        def init_many(self, params):  # type: ignore[no-untyped-def]
            return self.init(params)

        def train_many(self, state, x_ERTB, y_ERTB):  # type: ignore[no-untyped-def]
            state, losses_E = self.train(state, x_ERTB, y_ERTB)
            return state, np.repeat(losses_E[:, None], x_ERTB.shape[1], axis=1)

        def predict_many(self, state, x_RTN):  # type: ignore[no-untyped-def]
            return self.predict(state, x_RTN)

        def params_many(self, state):  # type: ignore[no-untyped-def]
            return self.start

    job = trial_job(TASK, seeds=(0, 1, 2))
    trial = Trial(job, Here(job, lambda _: lambda: Many(clock), clock), "here", lambda event: None)
    trial.start()
    for number in range(1, 5):
        trial.take_turn(number, None)
    record = trial.record("rounds", None)
    assert [chunk.wall_s for chunk in record.chunks] == [25.0] * 4
    assert [share.seed for share in record.shares] == [0, 1, 2]
