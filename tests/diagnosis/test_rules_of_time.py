"""What is said of profiles, rule by rule, and where nothing is said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from benchmarks.profiles import PLANTED, profiled, task_of
from harness.diagnosis.findings_on_time import on_time
from harness.diagnosis.joined import joined
from harness.diagnosis.rules_of_time import evaluation, observe
from harness.diagnosis.timed import Timed, TimedCall
from harness.diagnosis.types import Id
from harness.tables.from_records import trials_table
from harness.tables.profile import PARTS, profile_table
from harness.task.task import Task
from harness.trial.profile import Profile, Stretch
from harness.trial.sweep import SweepPoint
from tests.helpers.commands import ROOT
from tests.helpers.records import TASK, record

HEALTHY = Timed(
    arm="mine on cpu",
    backend="mine",
    device="cpu",
    task=Task(),
    threads=1,
    at_once=1,
    source="torch.profiler",
    epoch_s=1e-3,
    parts=dict.fromkeys(PARTS, 0.0) | {"arithmetic": 0.3e-3, "calls": 0.4e-3, "rest": 0.3e-3},
    counts={"operators": 1000, "caller_s": 1e-3},
    calls=[
        TimedCall("aten::mm", 200, 1e-4, ""),
        TimedCall("aten::detach", 500, 1e-4, "f (a.py:1)"),
    ],
    limit_s=0.3e-3,
    timed_s=1e-3,
    eval_s=0.1,
    train_s=1.0,
)


def said(
    counts: Mapping[str, float] | None = None,
    called: Sequence[TimedCall] = HEALTHY.calls,
    task: Task = HEALTHY.task,
    device: str = "cpu",
    **milliseconds: float,
) -> list[str]:
    """Return the rules that apply to a backend that differs so from a healthy one."""
    parts: Any = {**HEALTHY.parts, **{name: ms / 1e3 for name, ms in milliseconds.items()}}
    counted = {**HEALTHY.counts, **(counts or {})}
    timed = replace(HEALTHY, parts=parts, counts=counted, calls=called, task=task, device=device)
    return [rule.id for rule, _ in observe(timed)]


def test_nothing_is_said_of_a_healthy_one_that_no_part_dominates() -> None:
    assert said() == []


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("copies", {"copies": 0.06}),
        ("garbage", {"collection": 0.06, "counts": {"collections": 1}}),
        ("allocation", {"system": 0.06, "counts": {"page_faults": 30}}),
        ("sleeps", {"waiting": 0.06}),
        ("predicts", {"prediction": 0.06, "counts": {"predictions": 1}}),
        ("recompiles", {"compilation": 0.06, "counts": {"compilations": 0.02}}),
        ("double-precision", {"counts": {"float64": 60}}),
        ("threads-fight", {"counts": {"fought_s": 0.4e-3}}),
        ("call-bound", {"calls": 0.51}),
        ("python-bound", {"python": 0.51}),
        ("memory-bound", {"memory": 0.51}),
        ("slow-kernels", {"rest": 0.51}),
        ("arithmetic-bound", {"arithmetic": 0.51}),
    ],
)
def test_a_rule_applies_above_its_threshold_and_not_below(
    rule: str, changes: dict[str, Any]
) -> None:
    assert said(**changes)[:1] == [rule]
    less: dict[str, Any] = {
        name: {n: value / 4 for n, value in amount.items()} if name == "counts" else amount / 2
        for name, amount in changes.items()
    }
    assert rule not in said(**less)


@pytest.mark.parametrize(
    ("rule", "call"),
    [
        ("path-loop", TimedCall("aten::mm", 3200, 1e-4, "")),
        ("repeated-call", TimedCall("aten::detach", 2000, 2e-4, "train (mine.py:1)")),
    ],
)
def test_what_is_called_too_often_is_named_and_half_as_often_is_not(
    rule: str, call: TimedCall
) -> None:
    assert said(called=[call])[:1] == [rule]
    assert said(called=[call._replace(times=call.times / 2)]) == []


def test_the_largest_waste_is_named_first_and_what_bounds_it_last() -> None:
    assert said(copies=0.1, waiting=0.2, calls=0.6) == ["sleeps", "copies", "call-bound"]


def test_double_precision_that_was_asked_for_is_none() -> None:
    assert said(task=Task(dtype="float64"), counts={"float64": 900}) == []


def test_a_device_that_computes_is_no_sleep() -> None:
    assert said(device="gpu", waiting=0.4) == []


def test_beside_a_device_threads_do_not_fight() -> None:
    assert said(device="gpu", counts={"fought_s": 0.4e-3}) == []


def test_several_layers_need_more_calls_in_a_step() -> None:
    calls = [TimedCall("aten::mm", 808, 1e-4, "")]
    assert said(task=Task(batch_size=8, layers=4), called=calls) == []


def test_few_paths_are_no_loop_over_them() -> None:
    assert said(task=Task(batch_size=4), called=[TimedCall("aten::mm", 400, 1e-4, "")]) == []


def test_an_evaluation_that_is_dearer_than_the_training_is_told() -> None:
    assert evaluation.look(HEALTHY) is None
    dear = evaluation.look(replace(HEALTHY, eval_s=2.0))
    assert dear is not None
    assert "2 s" in dear.text


def profile(**seconds: float) -> Profile:
    total, stretches = sum(seconds.values()), cast("dict[Stretch, float]", seconds)
    return Profile(
        source="XLA", epoch_s=total, profiled_s=total, seconds=stretches, counts={"kernels": 1000}
    )


def test_the_slower_one_is_told_why_the_largest_part_first() -> None:
    records = [
        record(profile=profile(kernels=1e-3, calls=1e-3)),
        record(backend="slow:S", profile=profile(kernels=2e-3, calls=7e-3, python=0.05e-3)),
    ]
    table, trials = profile_table(records), trials_table(records)
    found = joined(on_time(table, trials, [SweepPoint({}, TASK)]), 1)
    (why,) = (f for f in found if f.rule == "slower-because")
    assert why.subjects == ("a:B on cpu", "slow:S on cpu")
    assert why.headline == "Why slow:S on cpu is slower than a:B on cpu."
    assert why.evidence.startswith("4.52x as much time: 9.05 ms an epoch against 2 ms (")
    first, second = why.evidence.index("making calls (6 ms"), why.evidence.index("beyond their")
    assert first < second
    assert "Python" not in why.evidence


def test_equal_ones_need_no_reason() -> None:
    records = [
        record(profile=profile(kernels=1e-3)),
        record(backend="b:C", profile=profile(calls=1e-3)),
    ]
    found = on_time(profile_table(records), trials_table(records), [SweepPoint({}, TASK)])
    assert "slower-because" not in [one.rule.id for one in found]


def test_a_run_without_profiles_has_nothing_to_say() -> None:
    nothing = profile_table([record()])
    assert list(on_time(nothing, trials_table([record()]), [SweepPoint({}, TASK)])) == []


def test_what_could_not_be_looked_at_is_not_judged() -> None:
    records = [record(profile=Profile.failed("killed"))]
    assert not list(on_time(profile_table(records), trials_table(records), [SweepPoint({}, TASK)]))


@pytest.mark.slow
@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_waste_is_named_first(rule: Id) -> None:
    backends = [f"benchmarks.helpers.wasteful:{name}" for name in PLANTED[rule]]
    found = profiled(backends, task_of(rule))
    assert {name: one.found[:1] for name, one in found.items()} == {
        name: [rule] for name in backends
    }


def test_the_benchmark_names_its_options() -> None:
    command = [sys.executable, "-m", "benchmarks.profiles", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "planted" in done.stdout
