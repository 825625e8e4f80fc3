"""The finding on runs that are too short for the backend that trains faster: made-up records."""

from __future__ import annotations

import pytest

from harness.diagnosis.findings import findings
from harness.diagnosis.types import Finding
from harness.tables.from_records import curves_table, steps_table, trials_table
from harness.trial.record import Record
from tests.helpers.records import PLAN, started


def found(*records: Record) -> list[Finding]:
    trials, curves, steps = trials_table(records), curves_table(records), steps_table(records)
    all_found = findings(trials, curves, steps, PLAN.points)
    return [finding for finding in all_found if finding.rule == "break-even"]


def both(first: float, later: float) -> list[Record]:
    """A run of 1000 epochs: `a` starts 2 s later and takes so many ms less for an epoch."""
    slow_start = [started("a", s, 4.0 + s / 10, 10 - first + s / 50) for s in range(3)]
    return slow_start + [started("b", s, 2.0 + s / 10, 10.0 + later * s / 50) for s in range(3)]


def test_a_run_that_is_too_short_says_so() -> None:
    (finding,) = found(*both(1.0, 2.0))
    assert finding.severity == "info"
    assert finding.subjects == ("a on cpu", "b on cpu")
    assert "a on cpu takes 4.1 s to start and 9.02 ms for an epoch, b on cpu 2.1 s" in (
        finding.evidence
    )
    assert "After the 1000 epochs of this run, b on cpu is ahead." in finding.evidence
    assert finding.remedy.startswith("Take b on cpu for up to 18")
    assert finding.remedy.endswith(" or more; more --seeds narrow down the gap.")


def test_a_run_about_as_long_as_that_says_that_it_is_not_known() -> None:
    (finding,) = found(*both(2.0, 6.0))
    assert "After the 1000 epochs of this run, neither is shown to be ahead." in finding.evidence


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(both(8.0, 1.0), id="long enough"),
        pytest.param(both(0.0, 1.0), id="neither trains faster"),
        pytest.param(both(1.0, 1.0)[:3], id="alone"),
        pytest.param([], id="nothing"),
    ],
)
def test_otherwise_it_is_silent(records: list[Record]) -> None:
    assert found(*records) == []


def test_kinds_of_nodes_are_told_apart() -> None:
    other = {"environment": {"cpu": "other", "cores": "1"}, "node": "m"}
    here = {"environment": {"cpu": "one", "cores": "1"}}
    slow = [record.model_copy(update=here) for record in both(1.0, 2.0)]
    fast = [
        record.model_copy(update=other | {"trial": f"m{record.trial}", "block": record.block + 3})
        for record in both(0.8, 2.0)
    ]
    (finding,) = found(*slow, *fast)
    assert " on other, 1 cores. After " in finding.evidence
    assert " Likewise start-up included, a is ahead of b from " in finding.evidence
