"""Which batch goes to which node, and which nodes are admitted: rules without a cluster."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Task
from harness.dispatch.admission import Admission
from harness.dispatch.placement import Batch, Node, Scheduler
from harness.store.run_folder import counting
from harness.trial.epoch_time import epoch_s
from harness.trial.events import Certificate, Check, Progress, Refused, Started
from harness.trial.jobs import ParityJob, TrialJob
from harness.trial.record import CurvePoint, Record

TASK = Task(n_steps=2)


def trial(seed: int, backend: str = "a", device: str = "cpu", exclusive: bool = True) -> TrialJob:
    return TrialJob.model_validate(
        {
            "task": TASK,
            "backend": backend,
            "device": device,
            "threads": 1,
            "exclusive": exclusive,
            "run": "r",
            "trial": f"seed{seed}-{backend}-{device}",
            "block": seed,
            "seed": seed,
        }
    )


def record(job: TrialJob, status: str = "ok", attempt: int = 1) -> Record:
    shared = job.model_dump(include={"run", "trial", "block", "backend", "device", "seed"})
    return Record.model_validate(
        shared
        | {"task": TASK, "node": "n", "started_utc": "-", "wall_s": 1.0, "threads": 1}
        | {"contended": False, "status": status, "attempt": attempt}
    )


def placed(made: Scheduler, nodes: Sequence[Node]) -> list[tuple[int, str]]:
    found = []
    for batch, node in made.place(nodes):
        job = batch.jobs[0]
        assert isinstance(job, TrialJob)
        found.append((job.seed, node.name))
    return found


def scheduler(*batches: Batch) -> Scheduler:
    made = Scheduler(allows=lambda *_: True)
    for batch in batches:
        made.add(batch)
    return made


NODES = st.lists(
    st.builds(Node, st.uuids().map(str), st.just("n"), st.integers(1, 8), st.integers(0, 4)),
    min_size=1,
    max_size=5,
)
JOBS = st.lists(st.tuples(st.booleans(), st.sampled_from(["cpu", "gpu"])), max_size=30)


@given(NODES, JOBS)
def test_no_node_is_given_more_than_it_has(nodes: list[Node], jobs: list[tuple[bool, str]]) -> None:
    batches = [Batch((trial(n, "a", device, alone),)) for n, (alone, device) in enumerate(jobs)]
    made = scheduler(*batches)
    placements = list(made.place(nodes))
    for node in nodes:
        here = [batch for batch, at in placements if at.id == node.id]
        assert len(here) <= (1 if any(b.need.exclusive for b in here) else node.cpus)
        assert sum(batch.need.gpus for batch in here) <= node.gpus
    # Whatever waits, waits for a reason: no node could take it now.
    assert not list(made.place(nodes))
    assert len(placements) + sum(made.waiting().values()) == len(jobs) == made.open


def test_work_that_needs_a_gpu_gets_it_first() -> None:
    plain, gpu = Node("1", "plain", 1, 0), Node("2", "gpu", 1, 1)
    made = scheduler(
        *(Batch((trial(seed),)) for seed in range(2)), Batch((trial(9, device="gpu"),))
    )
    assert sorted(placed(made, [gpu, plain])) == [(0, "plain"), (9, "gpu")]


def test_exclusive_work_avoids_a_node_that_others_use() -> None:
    busy = Node("1", "busy", 4, 0, taken=1)
    assert placed(scheduler(Batch((trial(0),))), [busy]) == []
    assert placed(scheduler(Batch((trial(0, exclusive=False),))), [busy]) == [(0, "busy")]


def test_a_lost_batch_is_repeated_whole_on_another_node_if_possible() -> None:
    a, b = trial(0, "a"), trial(0, "b")
    batch = Batch((a, b))
    for event in (Started(job=a), record(a), Started(job=b)):
        batch.update(event)
    again = batch.repeated("1")
    assert [getattr(job, "attempt", 0) for job in again.jobs] == [2, 2]
    assert again.go == 2
    assert {getattr(job, "go", 0) for job in again.jobs} == {2}
    here, other = Node("1", "here", 1, 0), Node("2", "other", 1, 0)
    assert placed(scheduler(again), [here, other]) == [(0, "other")]
    assert placed(scheduler(batch.repeated("1")), [here]) == [(0, "here")]
    # A node that others use may never be free, so it is not preferred.
    taken = Node("2", "other", 1, 0, taken=1)
    assert placed(scheduler(batch.repeated("1")), [here, taken]) == [(0, "here")]


def test_work_that_no_node_can_take_is_found_and_dropped() -> None:
    node = Node("1", "n", 1, 0)
    made = scheduler(Batch((trial(0),)), Batch((trial(1),)), Batch((trial(2, device="gpu"),)))
    assert placed(made, [node]) == [(0, "n")]
    ((need, bound),) = made.hopeless([node])
    assert (need.device, bound) == ("gpu", None)
    assert [batch.need.device for batch in made.drop(made.hopeless([node]))] == ["gpu"]
    assert made.open == 2


def test_a_block_counts_whole_or_not_at_all() -> None:
    def of(seed: int, backend: str, go: int, attempt: int, status: str = "ok") -> Record:
        done = record(trial(seed, backend), status, attempt)
        return done.model_copy(update={"go": go})

    first = [of(0, "a", 1, 1), of(0, "b", 1, 1, "lost")]
    second = [of(0, "a", 2, 2, "lost"), of(0, "b", 2, 2)]
    untouched = [of(1, "a", 1, 1), of(1, "b", 1, 1)]
    made = sorted([*first, *second], key=lambda r: (r.trial, r.attempt))
    assert counting([*made, *untouched]) == [second[0], second[1], *untouched]


def test_a_lost_block_has_a_record_of_each_trial_without_one() -> None:
    a, b, c = trial(0, "a"), trial(0, "b"), trial(0, "c")
    batch = Batch((a, b, c))
    point = CurvePoint(epoch=50, train_s=1.0, train_loss=0.1, eval_mse=0.5)
    for event in (Started(job=a), record(a), Started(job=b), Progress(job=b, point=point)):
        batch.update(event)
    lost = list(batch.lost("n", "gone"))
    assert [(r.backend, r.status, r.error, r.points) for r in lost] == [
        ("b", "lost", "gone (training after epoch 50)", (point,)),
        ("c", "lost", "gone (starting)", ()),
    ]


@pytest.mark.parametrize(
    ("jobs", "timing"),
    [
        ((trial(0, "a"), trial(0, "b")), "rounds"),
        ((trial(0, "a"),), "alone"),
        ((trial(0, "a", exclusive=False),), "alone"),
    ],
)
def test_a_lost_trial_has_no_time_but_a_beginning(jobs: tuple[TrialJob, ...], timing: str) -> None:
    batch = Batch(jobs)
    point = CurvePoint(epoch=50, train_s=1.0, train_loss=0.1, eval_mse=0.5)
    for event in (Started(job=jobs[0]), Progress(job=jobs[0], point=point)):
        batch.update(event)
    batch.begun[jobs[0].trial] = began = "2026-01-02T03:04:05+00:00"
    lost = list(batch.lost("n", "gone"))
    assert {record.timing for record in lost} == {timing}
    assert lost[0].started_utc == began
    assert [epoch_s(record) for record in lost] == [None] * len(jobs)


def test_a_lost_trial_has_the_number_of_its_attempt() -> None:
    batch = Batch((trial(0).model_copy(update={"attempt": 3}), trial(0, "b")))
    assert attempts(*batch.lost("n", "gone")) == [3, 1]  # Not begun yet.
    assert attempts(*batch.repeated("").jobs) == [3, 1]
    batch.update(Started(job=batch.jobs[0]))
    assert attempts(*batch.lost("n", "gone")) == [3, 1]
    assert attempts(*batch.repeated("").jobs) == [4, 1]


def attempts(*given: object) -> list[int]:
    return [item.attempt for item in given if isinstance(item, Record | TrialJob)]


def parity(backend: str, device: str = "cpu") -> ParityJob:
    return ParityJob.model_validate(
        {"task": TASK, "backend": backend, "device": device, "threads": 1, "exclusive": False}
    )


def passed(backend: str, node: str, error: float = 0.0, **versions: str) -> Certificate:
    check = Check.model_validate(
        {"quantity": "outputs", "dtype": "float64", "element": "y", "got": 1.0, "want": 1.0}
        | {"error": error, "tolerance": 0.5}
    )
    return Certificate(backend=backend, device="cpu", node=node, checks=(check,), versions=versions)


def admission(*outcomes: Certificate | Refused) -> Admission:
    made = Admission((parity("a"), parity("b")))
    for outcome in outcomes:
        made.add(outcome)
    return made


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (passed("b", "z", torch="2.12"), "torch is 2.12 there and 2.13 elsewhere"),
        (passed("b", "z", error=1.0), "b on cpu failed parity there: outputs in float64"),
        (
            Refused(job=parity("b"), message="backend `b` needs torch.", node="z"),
            "backend `b` needs torch.",
        ),
    ],
)
def test_a_node_that_is_unlike_the_others_is_left_out_by_name(
    odd: Certificate | Refused, reason: str
) -> None:
    alike = [passed(b, n, torch="2.13+cpu") for b in "ab" for n in "xy"]
    made = admission(*alike, passed("a", "z"), odd)
    (message,) = made.settle()
    assert message.startswith("node z is left out on the cpu: ")
    assert reason in message
    assert [made.allows(node, "cpu") for node in "xyz"] == [True, True, False]


def test_a_refusal_that_comes_late_does_not_replace_a_certificate() -> None:
    # It is about a node that died and came back under the same name.
    late = Refused(job=parity("b"), message="b on cpu: node x is gone.", node="x")
    made = admission(*(passed(b, n) for b in "ab" for n in "xy"), late)
    assert made.settle() == []
    assert made.allows("x", "cpu")


def test_builds_of_one_version_for_other_hardware_are_alike() -> None:
    made = admission(*(passed(b, n, torch=f"2.13+{n}") for b in "ab" for n in ("cpu", "cu130")))
    assert made.settle() == []


def test_a_backend_that_passes_nowhere_keeps_no_node_out() -> None:
    made = admission(*(passed("a", n) for n in "xy"), *(passed("b", n, error=1.0) for n in "xy"))
    assert made.settle() == []
    assert made.allows("x", "cpu")


def test_a_node_that_was_not_asked_is_not_admitted() -> None:
    made = admission(passed("a", "x"), passed("b", "x"))
    made.settle()
    assert not made.allows("late", "cpu")
    for backend in "ab":
        made.add(passed(backend, "late"))
    assert made.allows("late", "cpu")


def test_a_run_goes_on_with_the_versions_that_it_began_with() -> None:
    made = admission(*(passed(b, "new", torch="2.14") for b in "ab"))
    made.expect([passed("a", "old", torch="2.13")])
    assert made.settle() == [
        "node new is left out on the cpu: torch is 2.14 there and 2.13 elsewhere"
    ]
