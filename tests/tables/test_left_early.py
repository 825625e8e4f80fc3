"""What a sentence about speed says of the rounds: who left them early, and calls that were cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from harness.tables.comparisons import compare_arms
from harness.tables.from_records import trials_table
from harness.tables.summary import summarise
from harness.trial.record import Chunk, Record
from tests.helpers.records import record

BLOCKS = 4
SPREAD = 1e-3
"""Of the ratios of the blocks, so that there is an interval."""


def trial(backend: str, block: int, rounds_s: Sequence[float], **changes: object) -> Record:
    """A trial whose turns took so long."""
    chunks = [
        Chunk(wall_s=s, epochs=50, round=n, cpu_s=s, involuntary_switches=0)
        for n, s in enumerate(rounds_s, 1)
    ]
    names = {"trial": f"{backend}{block}", "backend": backend, "block": block}
    return record(block, **names | {"timing": "rounds", "chunks": tuple(chunks)} | changes)


def quieter_later(epoch_s: float, rounds: int = 20) -> list[float]:
    """Turns that take twice as long in the first 12 rounds."""
    return [epoch_s * (2.0 if n < 12 else 1.0) for n in range(rounds)]


def run(status: str, rounds: int, **changes: object) -> list[Record]:
    """Two backends that stay, and one that leaves after some rounds, three times as slow."""
    return [
        one
        for block in range(BLOCKS)
        for one in (
            trial("stays", block, quieter_later(1.0)),
            trial("other", block, quieter_later(1.5 + block * SPREAD)),
            trial(
                "leaves",
                block,
                quieter_later(3.0 + block * SPREAD, rounds),
                **{"status": status, "step_mse": ()} | changes,
            ),
        )
    ]


def train_s(records: Sequence[Record]) -> dict[str, tuple[float, str]]:
    """Return the ratio of each backend to the fastest, and the sentence about it."""
    found = compare_arms(trials_table(records))
    found = found[found["metric"] == "train_s"].set_index("backend")
    assert set(found["against_backend"]) <= {"stays"}
    return dict(zip(found.index, zip(found["value"], found["words"], strict=True), strict=True))


@pytest.mark.parametrize(("status", "rounds"), [("diverged", 10), ("timeout", 12)])
def test_the_ratio_is_of_common_rounds(status: str, rounds: int) -> None:
    told = train_s(run(status, rounds))
    value, words = told["leaves"]
    assert value == pytest.approx(3.0, rel=2 * SPREAD)
    assert words.startswith("stays trains 3.00x faster than leaves [")
    assert f"; from at least {rounds} common rounds" in words
    # The others are compared as if it had not been there.
    without = [r for r in run(status, rounds) if r.backend != "leaves"]
    assert told["other"] == train_s(without)["other"]
    summary = summarise(trials_table(run(status, rounds))).set_index("backend")
    assert list(summary.index) == ["stays", "other", "leaves"]
    assert summary["time_ratio"]["leaves"] == pytest.approx(3.0, rel=2 * SPREAD)
    assert summary["seeds"].tolist() == [BLOCKS, BLOCKS, 0]


NO_RATIO: list[Callable[[], list[Record]]] = [
    lambda: run("diverged", 9),
    lambda: run("timeout", 0),
    lambda: run("failed", 19),
    lambda: run("diverged", 20, timing="alone"),
]


@pytest.mark.parametrize("records", NO_RATIO)
def test_too_few_rounds_or_a_failure_give_none(records: Callable[[], list[Record]]) -> None:
    assert set(train_s(records())) == {"other"}
    summary = summarise(trials_table(records())).set_index("backend")
    assert summary["time_ratio"].isna().to_dict() == {
        "stays": False,
        "other": False,
        "leaves": True,
    }


def test_only_a_time_of_an_epoch_is_known_of_it() -> None:
    found = compare_arms(trials_table(run("diverged", 12)))
    assert set(found.loc[found["backend"] == "leaves", "metric"]) == {"train_s"}


def test_one_that_never_ends_ok_is_not_what_others_are_compared_with() -> None:
    fast = [
        trial(
            "fast", block, quieter_later(0.1 + block * SPREAD, 12), status="diverged", step_mse=()
        )
        for block in range(BLOCKS)
    ]
    told = train_s(run("diverged", 12) + fast)
    assert told["fast"][1].startswith("fast trains 9.85x faster than stays")


def test_the_sentence_says_that_calls_were_cut() -> None:
    def told(*epochs: int) -> str:
        """Say how much faster one is, if the calls of each block train so many epochs."""
        records = []
        for one in run("failed", 0):
            calls = epochs[one.block % len(epochs)]
            chunks = [replace(chunk, epochs=calls) for chunk in one.chunks]
            records.append(one.model_copy(update={"chunks": tuple(chunks)}))
        return train_s(records)["other"][1]

    assert "cut" not in told(50)
    assert told(25).endswith("; calls cut to 25 epochs")
    assert told(25, 50).endswith("; some calls cut to 25 epochs")
    assert told(25, 10).endswith("; calls cut to 10 or 25 epochs")
