"""The waterfall of an epoch's time, from profiles that nobody measured."""

from __future__ import annotations

import pytest

from harness.charts import figures
from harness.report import run_page
from harness.tables.profile import profile_table
from harness.trial.profile import Profile, Stretch
from harness.trial.record import Record
from tests.helpers.records import TASK, record

COSTS = {"multiply_add": 1e-9, "tanh": 1e-8, "floor_epoch": 2e-4}


def profiled(backend: str, /, epoch_s: float, **seconds: float) -> Record:
    stretches: dict[Stretch, float] = dict(seconds)  # type: ignore[assignment]
    profile = Profile(
        source="s", epoch_s=epoch_s, profiled_s=epoch_s, seconds=stretches, costs=COSTS
    )
    return record(backend=backend, trial=backend, profile=profile)


def test_each_part_begins_where_the_one_before_it_ends() -> None:
    records = [
        profiled("slow", epoch_s=0.9, kernels=0.1, calls=0.7, python=0.1),
        profiled("fast", epoch_s=0.01, kernels=0.008, waiting=0.002),
    ]
    figure = figures.profile(profile_table(records))
    assert figure is not None
    bars = figure.table.groupby("series")
    assert bars["begin"].first().to_dict() == {"slow": 0, "fast": 0}
    assert bars["end"].last().to_dict() == pytest.approx({"slow": 1, "fast": 1})
    for _, mine in bars:
        assert list(mine["begin"])[1:] == pytest.approx(list(mine["end"])[:-1])
    assert list(bars.get_group("slow")["part"]) == ["arithmetic", "calls", "python", "rest"]
    assert figure.words.startswith("fast: 10000 us an epoch, most of it rest, 50.0 x the floor")
    assert "slow: 900000 us an epoch, most of it calls, 4,500 x the floor" in figure.words


def test_what_no_profiler_saw_is_not_drawn() -> None:
    seen = profiled("seen", epoch_s=0.01, python=0.01)
    failed = record(backend="failed", trial="failed", profile=Profile.failed("no room"))
    figure = figures.profile(profile_table([failed, seen]))
    assert figure is not None
    assert set(figure.table["series"]) == {"seen"}
    assert figures.profile(profile_table([failed])) is None
    assert figures.profile(profile_table([record()])) is None


def test_points_of_a_sweep_stand_below_each_other() -> None:
    records = [
        profiled("b", epoch_s=0.01, python=0.01).model_copy(
            update={"task": TASK.changed(hidden=hidden), "trial": f"{hidden}"}
        )
        for hidden in (64, 8)
    ]
    figure = figures.profile(profile_table(records, ["hidden"]), ["hidden"])
    assert figure is not None
    assert set(figure.table["series"]) == {"b, hidden=8", "b, hidden=64"}


def test_the_chart_prints() -> None:
    figure = figures.profile(profile_table([profiled("<b>", epoch_s=0.01, python=0.01)]))
    assert figure is not None
    figure.chart.to_dict()  # Raises where the schema is violated.
    svg = dict(run_page.plots([figure]))["plots/profile.svg"].decode()
    assert "&lt;b&gt;: 10000 us an epoch" in svg
    assert "python" in svg
    assert "dashed: the floor" in svg
