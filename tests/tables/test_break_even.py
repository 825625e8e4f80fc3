"""From how many epochs on a backend is ahead, its start-up included: made-up records."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Task
from harness.tables.break_even import BREAK_EVEN, break_even
from harness.tables.comparisons import compare_arms
from harness.tables.from_records import trials_table
from harness.tables.text import render_break_even, stated
from harness.trial.record import Record
from tests.helpers.records import TASK, started


def trials_of(*records: Record, swept: tuple[str, ...] = ()) -> pd.DataFrame:
    return trials_table(records, swept=swept)


def both(
    a: list[tuple[float, float]], b: list[tuple[float, float]], **changes: Any
) -> pd.DataFrame:
    """Return the trials of `a` and `b`, whose start_s and milliseconds of an epoch are given."""
    return trials_of(
        *(started("a", seed, *one, **changes) for seed, one in enumerate(a)),
        *(started("b", seed, *one, **changes) for seed, one in enumerate(b)),
    )


def only(table: pd.DataFrame) -> dict[str, Any]:
    (row,) = table.to_dict("records")
    return {str(name): value for name, value in row.items()}


times = st.floats(0.001, 100)


@given(starts=st.tuples(times, times), epochs=st.tuples(times, times), turned=st.booleans())
def test_at_the_break_even_both_take_as_long(
    starts: tuple[float, float], epochs: tuple[float, float], turned: bool
) -> None:
    a, b = zip(starts, epochs, strict=True)
    trials = both([a, a], [b, b])
    row = only(break_even(trials[::-1] if turned else trials))
    total, other = (
        row[f"{side}start_s"] + row["at"] * row[f"{side}epoch_s"] for side in ("", "against_")
    )
    if 0 < row["at"] < inf:
        assert total == pytest.approx(other)
    assert row["epoch_s"] <= row["against_epoch_s"]
    if row["at"] == 0:
        assert row["start_s"] <= row["against_start_s"]


SLOW_START = [(4.0, 1.0), (4.1, 1.1), (3.9, 0.9)]
QUICK_START = [(2.0, 5.1), (2.1, 5.0), (1.9, 4.9)]


def test_the_sentence_says_from_when_on_which_is_ahead() -> None:
    words = only(break_even(both(SLOW_START, QUICK_START)))["words"]
    assert words == "start-up included, a is ahead of b from 500 epochs on [471, 534]"


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (
            [(1.0, 1.0), (1.1, 1.0)],
            [(2.0, 5.0), (2.1, 5.1)],
            "a is ahead of b from the first epoch on",
        ),
        (
            [(2.1, 1.0), (1.9, 1.0), (2.0, 1.0)],
            [(1.9, 5.0), (2.1, 5.0), (2.0, 5.0)],
            "a is ahead of b from the first epoch on [the first, 125]",
        ),
        (
            [(2.2, 1.0), (1.9, 1.0), (2.0, 1.0)],
            [(1.9, 5.0), (2.1, 5.0), (2.0, 5.0)],
            "a is ahead of b from 9 epochs on [the first, 165]",
        ),
        (
            [(4.0, 1.0), (4.0, 1.2), (4.0, 1.1)],
            [(2.0, 1.1), (2.0, 1.2), (2.0, 1.3)],
            "b is ahead of a up to 20000 epochs [5740, any]",
        ),
        (
            [(2.0, 1.1), (2.0, 1.2), (2.0, 1.1)],
            [(4.0, 1.2), (4.0, 1.1), (4.0, 1.2)],
            "a is ahead of b at any number of epochs [up to 7890, any]",
        ),
        (
            [(4.0, 1.0), (2.0, 1.2)],
            [(2.0, 1.2), (4.1, 1.1)],
            "no difference shown between a and b "
            "(a ahead from the first epoch on [the first, never])",
        ),
        (
            [(4.0, 1.0)],
            [(2.0, 5.0)],
            "no difference shown between a and b "
            "(a ahead from 500 epochs on, one block: no interval)",
        ),
    ],
)
def test_every_answer_has_its_words(
    a: list[tuple[float, float]], b: list[tuple[float, float]], words: str
) -> None:
    assert only(break_even(both(a, b)))["words"] == f"start-up included, {words}"


def test_it_follows_the_sentence_on_training() -> None:
    trials = both(SLOW_START, QUICK_START)
    sentences = stated(compare_arms(trials), break_even(trials))
    assert sentences[0].startswith("a trains 5.02x faster than b [")
    assert sentences[1].startswith("start-up included, a is ahead of b from 500 epochs on [")
    assert "MSE" in sentences[2]


def test_only_pairs_in_blocks_on_one_node_count() -> None:
    apart = [started("a", s, *one, node="x") for s, one in enumerate(SLOW_START)]
    others = [started("b", s, *one, node="y") for s, one in enumerate(QUICK_START)]
    assert break_even(trials_of(*apart, *others)).empty
    joined = [record.model_copy(update={"node": "x"}) for record in others[:2]]
    assert only(break_even(trials_of(*apart, *joined, *others[2:])))["n"] == 2


def test_what_is_not_comparable_has_no_row() -> None:
    assert break_even(both(SLOW_START, QUICK_START, contended=True)).empty
    assert break_even(both(SLOW_START, QUICK_START, trials_before=1)).empty
    assert break_even(both(SLOW_START, QUICK_START, first_call_s=None)).empty
    assert break_even(both(SLOW_START, QUICK_START, status="failed")).empty
    assert break_even(both(SLOW_START, [])).empty
    assert list(break_even(trials_of())) == list(BREAK_EVEN)
    alone = [started("a", s, *one) for s, one in enumerate(SLOW_START)]
    many = [started("b", s, *one, seeds=(s, s + 10)) for s, one in enumerate(QUICK_START)]
    assert break_even(trials_of(*alone, *many)).empty


def test_seeds_trained_at_once_are_timed_together() -> None:
    records = [
        started(name, 2 * block, *one, block=block, seeds=(2 * block, 2 * block + 1))
        for name, times in (("a", SLOW_START), ("b", QUICK_START))
        for block, one in enumerate(times)
    ]
    points = [
        [
            {"seed": seed, "status": "ok", "points": r.points, "step_mse": (0.1, 0.1)}
            for seed in r.seeds
        ]
        for r in records
    ]
    many = [
        Record.model_validate(record.model_dump() | {"shares": shares})
        for record, shares in zip(records, points, strict=True)
    ]
    row, alone = (only(break_even(t)) for t in (trials_of(*many), both(SLOW_START, QUICK_START)))
    assert (row["n"], row["words"]) == (3, alone["words"])
    assert row["epoch_s"] == pytest.approx(alone["epoch_s"])


def test_devices_kinds_and_points_are_told_apart() -> None:
    gpus = [started("a", s, *one, device="gpu") for s, one in enumerate(SLOW_START)]
    cpus = [started("a", s, *one) for s, one in enumerate(QUICK_START)]
    words = only(break_even(trials_of(*gpus, *cpus)))["words"]
    assert words.startswith("start-up included, a on gpu is ahead of a on cpu from 500 epochs on [")

    def at(hidden: int, slower: float) -> list[Record]:
        task = TASK.changed(hidden=hidden)
        return [
            started(name, s, start, slower * ms, task=task, trial=f"{hidden}{name}{s}")
            for name, times in (("a", SLOW_START), ("b", QUICK_START))
            for s, (start, ms) in enumerate(times)
        ]

    table = break_even(trials_of(*at(8, 1), *at(64, 10), swept=("hidden",)), swept=("hidden",))
    assert table["hidden"].tolist() == [8, 64]
    assert table["at"].tolist() == pytest.approx([500, 50], rel=0.01)
    assert table["words"].iloc[1].endswith(" at hidden = 64")

    trials = both(SLOW_START, QUICK_START)
    slower = both([(s, 10 * ms) for s, ms in SLOW_START], [(s, 10 * ms) for s, ms in QUICK_START])
    trials["node_kind"], slower["node_kind"], slower["block"] = "one", "two", slower["block"] + 5
    kinds = break_even(pd.concat([trials, slower]))
    assert kinds["at"].tolist() == pytest.approx([500, 50], rel=0.01)
    assert kinds["words"].str.endswith(" on two").tolist() == [False, True]


def test_the_run_to_a_precision_uses_the_spread_of_its_pilot() -> None:
    calm = [*SLOW_START, *[(4.0, 1.03)] * 9], [*QUICK_START, *[(2.03, 5.0)] * 9]
    plain, pilot = (only(break_even(both(*calm), pilot=n)) for n in (0, 3))
    assert plain["at"] == pilot["at"]
    assert pilot["low"] < plain["low"]
    assert plain["high"] < pilot["high"]


def test_it_is_printed_and_exported() -> None:
    table = break_even(both(SLOW_START, QUICK_START))
    text = render_break_even(table, "table")
    assert "500 [471, 534]" in text
    assert "4 / 2" in text
    (row,) = json.loads(render_break_even(table, "json"))
    assert (row["backend"], row["against_backend"], row["n"]) == ("a", "b", 3)
    assert row["at"] == pytest.approx(500, rel=0.01)
    task = Task(n_steps=2, hidden=64)
    swept = trials_of(
        *(started(n, s, 1.0, ms, task=task) for n, ms in (("a", 1), ("b", 2)) for s in (0, 1)),
        swept=("hidden",),
    )
    shown = render_break_even(break_even(swept, swept=("hidden",)), "markdown", swept=("hidden",))
    assert shown.startswith("| hidden | backend |")
