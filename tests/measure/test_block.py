"""Blocks in rounds: real processes of small backends, driven in this process."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import Task
from harness.measure import machine
from harness.measure.block import can_take_turns, measure
from harness.measure.process import JobFailed
from harness.measure.trainer import Trainer
from harness.measure.trial import Host
from harness.tables.from_records import trials_table
from harness.trial.epoch_time import of_training, turns
from harness.trial.events import Event, Started
from harness.trial.jobs import TrialJob, TurnsJob
from harness.trial.record import Record
from tests.helpers import trainings
from tests.helpers.commands import TINY_FIELDS
from tests.helpers.paced import LOG
from tests.helpers.records import trial_job

TASK = Task(**TINY_FIELDS)


def job(backend: str, task: Task = TASK, **changes: object) -> TrialJob:
    name = backend if backend.islower() else f"tests.helpers.paced:{backend}"
    return trial_job(task, backend=name, trial=backend, **changes)


def measured(*jobs: TrialJob) -> dict[str, Record]:
    events: list[Event] = []
    measure(jobs, Host("here"), events.append)
    assert sum(isinstance(event, Started) for event in events) == len(jobs)
    records = [event for event in events if isinstance(event, Record)]
    assert len(records) == len(jobs)
    return {record.trial: record for record in records}


def in_one_go(job: TrialJob) -> Record:
    """Train without turns, in this process."""
    return trainings.measure(job)


# ---- the turns


def test_every_second_round_reverses_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    rounds, names = 12, ["Paced", "Second", "Third"]
    records = measured(*(job(name, rounds=rounds) for name in names))
    calls = (tmp_path / "log").read_text().split()[2 * len(names) :]  # Those before the turns.
    orders = np.reshape(calls[: rounds * len(names)], (rounds, len(names))).tolist()
    assert all(sorted(order) == names for order in orders)
    assert all(orders[k + 1] == orders[k][::-1] for k in range(0, rounds, 2))
    assert len(set(map(tuple, orders[::2]))) > 1  # Once in 7776 runs, chance says otherwise.
    for record in records.values():
        assert (record.timing, record.status, record.cores) == (
            "rounds",
            "ok",
            machine.usable_cores()[-1:],
        )
        assert [chunk.round for chunk in record.chunks] == list(range(1, rounds + 1))
        assert all(chunk.interpreter_s and chunk.memory_s for chunk in record.chunks)


@pytest.fixture(scope="module")
def block() -> dict[str, Record]:
    """A block of six rounds in which arms go wrong in the third."""
    jobs = [
        *(job(name, rounds=6) for name in ("reference", "Paced", "Raises", "Exits", "Diverges")),
        job("Hangs", rounds=6, timeout_s=8),
    ]
    return measured(*random.sample(jobs, len(jobs)))


def test_a_short_chunk_is_trained_several_times_in_a_turn(block: dict[str, Record]) -> None:
    chunks = block["reference"].chunks
    calls = Counter(chunk.round for chunk in chunks)
    assert set(calls) == {1, 2, 3, 4, 5, 6}
    (each,) = set(calls.values())
    assert each > 2
    assert [chunk.counted for chunk in chunks] == [False, *[True] * (each - 1)] * 6
    assert [turn.round for turn in turns(block["reference"])] == [1, 2, 3, 4, 5, 6]


def test_what_is_learned_does_not_depend_on_the_turns(block: dict[str, Record]) -> None:
    alone = in_one_go(job("reference"))
    for name in ("reference", "Paced"):
        record = block[name]
        assert record.status == "ok"
        assert record.step_mse == alone.step_mse
        assert record.initial_state_moved == alone.initial_state_moved
        assert [(p.epoch, p.train_loss, p.eval_mse) for p in record.points] == [
            (p.epoch, p.train_loss, p.eval_mse) for p in alone.points
        ]


def test_one_that_goes_wrong_leaves_the_others_alone(block: dict[str, Record]) -> None:
    assert {name: record.status for name, record in block.items()} == {
        "reference": "ok",
        "Paced": "ok",
        "Raises": "failed",
        "Exits": "failed",
        "Diverges": "diverged",
        "Hangs": "timeout",
    }
    assert [chunk.round for chunk in block["Paced"].chunks] == [1, 2, 3, 4, 5, 6]
    assert {record.timing for record in block.values()} == {"rounds"}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Raises", "RuntimeError: kernel launch failed (training after epoch 20)"),
        ("Exits", "ended by itself with exit code 3 (training after epoch 20)"),
        ("Hangs", "still running after 8 s (training after epoch 20)"),
        ("Diverges", None),
    ],
)
def test_what_is_known_of_one_that_went_wrong(
    block: dict[str, Record], name: str, error: str | None
) -> None:
    record = block[name]
    assert error is None if record.error is None else record.error.endswith(error or "-")
    # What it had measured until then is kept.
    rounds = [1, 2] if error else [1, 2, 3]
    assert [chunk.round for chunk in record.chunks] == rounds
    assert [point.epoch for point in record.points] == [10 * n for n in rounds]
    if name in {"Raises", "Diverges"}:  # The others had no time to say it.
        assert record.environment["version:numpy"]
        assert record.environment["cores_used"] == str(machine.usable_cores()[-1])


def test_a_trial_that_fails_after_its_training_has_no_final_errors() -> None:
    (record,) = measured(job("FailsWhenTimed", rounds=3)).values()
    assert (record.status, record.chunks) == ("failed", ())
    assert record.points[-1].epoch == TASK.epochs
    assert (record.step_mse, record.initial_state_moved) == ((), None)
    assert trials_table([record])["final_mse"].isna().all()


def test_a_long_chunk_is_cut_for_all_alike() -> None:
    task = TASK.changed(epochs=10, curve_points=1)
    records = measured(*(job(name, task, rounds=3) for name in ("Long", "Paced")))
    chunks = {name: record.chunks for name, record in records.items()}
    assert {chunk.epochs for name in chunks for chunk in chunks[name]} == {5}
    assert [chunk.round for chunk in chunks["Long"]] == [1, 2, 3]
    assert trials_table(list(records.values()))["cut_to"].tolist() == [5, 5]
    # Two such calls are a training: the third is timed after it.
    assert [point.epoch for point in records["Long"].points] == [10]
    assert of_training(records["Long"], "cpu_s") == pytest.approx(
        sum(chunk.cpu_s for chunk in chunks["Long"]) / 15 * 10
    )
    assert records["Paced"].step_mse == in_one_go(job("reference", task)).step_mse


def test_only_its_own_time_counts_for_a_timeout() -> None:
    with Trainer(TurnsJob.of(job("Hangs", timeout_s=60))) as trainer:
        trainer.ready()
        trainer.job = trainer.job.model_copy(update={"timeout_s": trainer.spent_s + 1})
        time.sleep(1)
        assert len(trainer.train(10).losses_ER) == 10
        with pytest.raises(JobFailed, match="still running after") as failed:
            trainer.train(100)
    assert failed.value.status == "timeout"


# ---- what cannot take turns


@pytest.mark.parametrize(
    ("changes", "can"),
    [
        ([{}, {}], True),
        ([{"seeds": (0, 1)}, {"seeds": (0, 1)}], True),
        ([{"seeds": (0, 1)}, {}], False),
        ([{"exclusive": False}, {"exclusive": False}], False),
        ([{"memory_mb": 100.0}, {}], True),
        ([{"memory_mb": 1e9}, {}], False),
    ],
)
def test_which_trials_take_turns(changes: list[dict[str, Any]], can: bool) -> None:
    assert can_take_turns([job("reference", **change) for change in changes]) == can


@pytest.mark.parametrize(
    ("needed_mb", "free", "can"),
    [
        ((1000.0, 1000.0), "2862", True),  # MiB: 3000 MB, 500 of each for its context.
        ((1000.0, 1000.0), "2861", False),
        ((None, None), "954", True),
        ((None, None), "953", False),
        ((1e9, 1e9), "[N/A]", True),
        ((1e9, 1e9), None, True),
    ],
)
def test_which_trials_take_turns_on_a_gpu(
    needed_mb: tuple[float | None, ...],
    free: str | None,
    can: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho {free}\n" if free else "#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs = [job("reference", device="gpu", gpu_mb=mb) for mb in needed_mb]
    assert can_take_turns(jobs) == can


def test_what_cannot_take_turns_is_timed_alone() -> None:
    records = measured(*(job(name, rounds=2, exclusive=False) for name in ("reference", "Paced")))
    for record in records.values():
        assert (record.timing, record.status, record.cores) == ("alone", "ok", None)
        assert record.contended
        assert {chunk.round for chunk in record.chunks} == {1}
        assert all(chunk.interpreter_s is None for chunk in record.chunks)


def test_the_driver_has_its_own_cores_back() -> None:
    before = os.sched_getaffinity(0)
    measured(job("reference", rounds=1))
    assert os.sched_getaffinity(0) == before


# ---- the same training

OTHERS = "tests.helpers.unfaithful:"


@pytest.mark.slow
def test_backends_of_real_frameworks_that_train_something_else() -> None:
    """They pass the parity of old; JAX and PyTorch train as the others do."""
    names = ["jax", "floor", "torch"]
    wrong = ["TorchSkipsSome", "TorchClips", "JaxEndsEarly", "JaxBfloat16"]
    task = Task(n_steps=20, batch_size=16, epochs=400, eval_paths=200, learning_rate=3e-3)
    backends = [*names, f"{OTHERS}TorchFaithful", *(OTHERS + name for name in wrong)]
    records = measured(
        *(job(n, task, rounds=2).model_copy(update={"backend": n}) for n in backends)
    )
    trials = trials_table(list(records.values())).set_index("backend")
    told = trials.index[trials["apart_by"].notna()]
    assert sorted(told) == sorted(OTHERS + name for name in wrong)
    assert trials.loc[told, "train_s"].isna().all()
    assert trials.loc[[*names, f"{OTHERS}TorchFaithful"], "train_s"].notna().all()


NUDGED = Task(n_steps=4, batch_size=4, epochs=40, curve_points=2, eval_paths=20)


def nudged(*names: str, seeds: Sequence[int] = (0, 0)) -> dict[str, Record]:
    """Measure two backends on a small task; return their records by these names."""
    return measured(
        *(
            job("reference", NUDGED, rounds=2, seed=seed).model_copy(
                update={"trial": name, "backend": name if name.islower() else OTHERS + name}
            )
            for name, seed in zip(names, seeds, strict=True)
        )
    )


def test_a_block_is_nudged_only_if_it_did_not_train_alike(block: dict[str, Record]) -> None:
    assert {record.nudged for record in block.values()} == {()}
    records = nudged("reference", "EndsEarly")
    assert {len(losses) for one in records.values() for losses in one.nudged} == {2}
    assert {len(record.nudged) for record in records.values()} == {3}
    assert trials_table([*records.values()])["apart_epoch"].notna().sum() == 1


def test_trials_of_unlike_seeds_are_not_nudged() -> None:
    """Those of many seeds at once, beside some one by one."""
    records = nudged("reference", "Faithful", seeds=(0, 1))
    assert [record.nudged for record in records.values()] == [(), ()]


def test_a_nudged_training_that_fails_leaves_the_trial_as_it_was() -> None:
    records = nudged("reference", "ExitsNudged")
    ended = records["ExitsNudged"]
    assert (ended.status, ended.error, ended.nudged) == ("ok", None, ())
    assert len(ended.step_mse) == NUDGED.n_steps
    assert len(records["reference"].nudged) == 3
    assert trials_table([*records.values()])["apart_epoch"].notna().sum() == 1
