"""Every column of the tables is described in docs/results.md."""

from __future__ import annotations

import re

import pytest

from harness.compare import CHANGES
from harness.tables.break_even import BREAK_EVEN
from harness.tables.comparisons import COMPARISONS
from harness.tables.from_records import CHUNKS, CURVES, LAGS, STEPS, TRIALS, trials_table
from harness.tables.profile import PROFILE
from harness.tables.reach import REACH
from harness.tables.scaling import CROSSOVERS, GROWTH
from harness.tables.summary import summarise
from harness.tables.text import summary_tables
from tests.helpers.commands import ROOT
from tests.helpers.records import record

SUMMARY = summarise(trials_table([record(seed) for seed in range(2)]))


def described(section: str) -> set[str]:
    """Return what stands as code in a section of the page."""
    text = (ROOT / "docs" / "results.md").read_text()
    (found,) = re.findall(rf"^## {section}.*?(?=^## |\Z)", text, flags=re.M | re.S)
    return set(re.findall(r"`([^`]+)`", found))


@pytest.mark.parametrize(
    ("section", "columns"),
    [
        ("trials", TRIALS),
        ("curves", CURVES),
        ("steps", STEPS),
        ("lags", LAGS),
        ("chunks", CHUNKS),
        ("profile", PROFILE),
        ("summary", SUMMARY),
        ("comparisons", COMPARISONS),
        ("comparisons", CHANGES),
        ("break_even", BREAK_EVEN),
        ("growth and crossovers", GROWTH),
        ("growth and crossovers", CROSSOVERS),
        ("reach", REACH),
    ],
)
def test_every_column_is_described(section: str, columns: dict[str, str]) -> None:
    assert [name for name in columns if name not in described(section)] == []


def test_every_heading_of_the_printed_summary_is_described() -> None:
    shown = SUMMARY.assign(at_once=2, floor_ratio=1.0, energy_j=1.0, memory=1)
    headings = [name for _, table in summary_tables(shown) for name in table]
    assert [name for name in headings if name not in described("summary")] == []
