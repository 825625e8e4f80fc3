"""The parts of an epoch's time, made of what profilers measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tables.profile import PARTS, limit_s, parts, profile_table
from harness.tables.waterfall import render_profile, side_by_side
from harness.task.task import Task
from harness.trial.profile import Call, Profile, Stretch
from tests.helpers.records import TASK, record

STRETCHES: tuple[Stretch, ...] = Stretch.__args__  # type: ignore[attr-defined]
seconds = st.floats(0, 1e3)
costs = st.dictionaries(
    st.sampled_from(["multiply_add", "tanh", "byte:16384", "byte:4194304", "floor_epoch"]),
    st.floats(1e-12, 1e-3),
)
profiles = st.builds(
    Profile,
    source=st.just("p"),
    epoch_s=seconds,
    profiled_s=seconds,
    seconds=st.dictionaries(st.sampled_from(STRETCHES), seconds),
    counts=st.dictionaries(
        st.sampled_from(["bytes", "kernels", "operators", "page_faults"]), st.floats(0, 1e12)
    ),
    costs=costs,
)


@given(profiles, st.integers(1, 64))
def test_parts_add_up_to_what_was_measured_and_none_is_negative(
    profile: Profile, at_once: int
) -> None:
    found = parts(profile, Task(), at_once)
    assert tuple(found) == PARTS
    assert min(found.values()) >= 0
    assert sum(found.values()) == pytest.approx(sum(profile.seconds.values()))


@given(profiles)
def test_the_arithmetic_is_at_most_the_limit(profile: Profile) -> None:
    found, limit = parts(profile, Task()), limit_s(profile, Task())
    assert found["arithmetic"] <= (limit or 0)
    assert (limit is None) == ("multiply_add" not in profile.costs)


PROFILE = Profile(
    source="torch.profiler",
    epoch_s=100e-6,
    profiled_s=200e-6,
    seconds={"kernels": 40e-6, "calls": 50e-6, "python": 10e-6},
    counts={"operators": 100, "bytes": 1e6, "trips:7": 3},
    costs={"multiply_add": 1e-9, "tanh": 0, "byte:10000": 1e-11, "floor_epoch": 20e-6},
    calls=(Call(name="aten::mm", count=7, seconds=30e-6, where="train (mine.py:3)"),),
)


def test_the_work_inside_operators_is_cut_at_the_limits() -> None:
    # 3 steps fed, 32 paths, 350 multiply-adds each, a nanosecond for each.
    found = parts(PROFILE.model_copy(update={"seconds": {"kernels": 1e-3}}), TASK)
    assert found["arithmetic"] == pytest.approx(33_600e-9)
    assert found["memory"] == pytest.approx(1e6 * 1e-11)
    assert found["rest"] == pytest.approx(1e-3 - 33_600e-9 - 1e-5)


def test_people_see_what_matters_side_by_side() -> None:
    records = [
        record(profile=PROFILE),
        record(backend="c:D", profile=PROFILE.model_copy(update={"seconds": {"waiting": 1e-3}})),
    ]
    table = profile_table(records)
    times, counts, calls = (frame for _, frame in side_by_side(table))
    assert list(times) == ["part", "a:B", "a:B %", "c:D", "c:D %"]
    rows = times.set_index("part")
    assert list(rows.loc["calls", ["a:B", "a:B %"]]) == pytest.approx([50, 50])
    assert list(rows.loc["all parts", ["a:B", "c:D"]]) == pytest.approx([100, 1000])
    assert rows.loc["the floor", "a:B"] == pytest.approx(20)
    assert "copies" not in rows.index
    assert counts["count"].to_list() == ["operators", "bytes"]
    assert calls.iloc[0].to_list()[:4] == ["a:B", "aten::mm", "train (mine.py:3)", 7]
    assert "aten::mm" in render_profile(table, "markdown", 80)
    assert "trips:7" in render_profile(table, "csv", 80)


def test_what_could_not_be_looked_at_says_why() -> None:
    table = profile_table([record(profile=Profile.failed("it was killed"))])
    assert table[table["kind"] == "source"]["where"].to_list() == ["it was killed"]


def test_points_of_a_sweep_have_their_columns() -> None:
    records = [record(task=TASK.changed(hidden=n), profile=PROFILE) for n in (10, 64)]
    (_, times), *_ = side_by_side(profile_table(records, ["hidden"]), ["hidden"])
    assert list(times) == ["part", "a:B 10", "a:B 10 %", "a:B 64", "a:B 64 %"]
