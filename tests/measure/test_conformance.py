"""What a process gets wrong of the protocol is found from its answers, and named."""

from __future__ import annotations

import sys

import pytest

from harness import Model
from harness.backend.command import Command
from harness.backend.process import ProcessWorker
from harness.measure.conformance import problems
from tests.helpers.commands import ROOT

ODD = ROOT / "tests" / "helpers" / "odd_worker.py"
SORTED = "arrays in the order W_1 W_2 W_hh W_xh b_1 b_2 b_h h0, which is not that of the line"


def found(fault: str, model: Model) -> list[str]:
    worker = ProcessWorker(Command("mine", (sys.executable, str(ODD), fault)))
    try:
        return problems(worker, model, "cpu")
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("fault", "phrases"),
    [
        ("none", []),
        (
            "big-endian",
            [
                "it reads parameters as big-endian",
                "it reads `x` and `y` as big-endian",
                "it writes arrays as big-endian",
            ],
        ),
        ("writes-big-endian", ["it writes arrays as big-endian"]),
        (
            "reads-big-endian",
            ["it reads parameters as big-endian", "it reads `x` and `y` as big-endian"],
        ),
        (
            "column-major",
            [
                "it reads parameters in column-major order",
                "it reads `x` and `y` in column-major order",
                "it writes arrays in column-major order",
            ],
        ),
        ("writes-column-major", ["it writes arrays in column-major order"]),
        (
            "reads-column-major",
            [
                "it reads parameters in column-major order",
                "it reads `x` and `y` in column-major order",
            ],
        ),
        ("reads-sorted", [f"it reads {SORTED}"]),
        (
            "writes-sorted",
            [f"it writes {SORTED}"],
        ),
        ("reads-y-first", ["it reads arrays in the order y x, which is not that of the line"]),
    ],
)
def test_a_wrong_way_is_named(fault: str, phrases: list[str]) -> None:
    assert found(fault, Model()) == phrases


def test_both_precisions_have_values_that_make_sense_backwards() -> None:
    assert found("writes-big-endian", Model(dtype="float64")) == ["it writes arrays as big-endian"]


def test_each_wrong_answer_is_listed() -> None:
    phrases = found("transposed", Model())
    assert [phrase.partition("answered ")[2].partition(" with")[0] for phrase in phrases] == [
        *("`params`", "`predict`")
    ]


def test_what_is_wrong_elsewhere_is_not_explained() -> None:
    assert found("doubles", Model()) == []
