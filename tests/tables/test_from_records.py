from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Task, yardsticks
from harness.tables.break_even import break_even
from harness.tables.comparisons import COMPARISONS, compare_arms
from harness.tables.from_records import (
    CURVES,
    STEPS,
    TRIALS,
    curves_table,
    steps_table,
    trials_table,
)
from harness.tables.side_by_side import (
    curves_by_arm,
    spread_out,
    steps_by_arm,
    without_twins,
)
from harness.tables.summary import summarise
from harness.tables.text import (
    FORMATS,
    render,
    render_break_even,
    render_comparisons,
    render_summary,
    stated,
)
from harness.trial.record import CurvePoint, Share
from tests.helpers.records import TASK, timed

FAST_AND_SLOW = [timed("fast", s, 1.0 + s / 10) for s in range(3)] + [
    timed("slow", s, 4 * (1.0 + s / 10) * (1 + s * 1e-9)) for s in range(3)
]


def test_the_columns_are_those_of_the_design() -> None:
    assert " ".join(TRIALS) == (
        "run trial block backend device node seed status error "
        "epochs import_s setup_s first_call_s start_s train_s eval_s wall_s epochs_per_s "
        "final_mse r2 lag_skill epochs_to_lag seconds_to_lag "
        "peak_rss_mb peak_gpu_mb threads contended cpu_s lost_share noisy noise attempts "
        "node_kind lost go trials_before at_once train_at_once_s energy_j "
        "initial_state_moved timing rounds train_mean_s lag_step cut_to correction_error "
        "apart_from apart_epoch apart_by memory"
    )
    assert " ".join(CURVES) == "trial backend device seed epoch train_s train_loss eval_mse"
    assert (
        " ".join(STEPS)
        == "trial backend device seed t mse variance memoryless without_lag wrong_sign"
    )
    for table, columns in (
        (trials_table([]), TRIALS),
        (curves_table([]), CURVES),
        (steps_table([]), STEPS),
    ):
        assert list(table.columns) == list(columns)


def test_derived_figures() -> None:
    exact = yardsticks(TASK)
    row = trials_table([timed("a", 0, 2.0, mse=0.005)]).iloc[0]
    assert row["final_mse"] == pytest.approx(0.005)
    assert row["r2"] == pytest.approx(1 - 0.005 / exact.variance.mean())
    assert row["lag_skill"] == pytest.approx(1 - 0.005 / exact.memoryless.mean())
    assert row["epochs_per_s"] == 500
    assert (row["epochs_to_lag"], row["seconds_to_lag"], row["lag_step"]) == (1000, 2.0, 500)


@given(
    import_s=st.floats(0, 10),
    setup_s=st.floats(0, 10),
    compile_s=st.floats(0, 100),
    epoch_s=st.floats(1e-6, 1),
    predict_s=st.floats(0, 1),
    at_once=st.integers(1, 3),
)
def test_start_up_is_all_but_the_usual_work(
    import_s: float,
    setup_s: float,
    compile_s: float,
    epoch_s: float,
    predict_s: float,
    at_once: int,
) -> None:
    # The curve has two points, and a chunk is one twentieth of the epochs.
    epochs = TASK.chunk_epochs(at_once)
    assert epochs == 50
    fields: dict[str, object] = {
        "import_s": import_s,
        "setup_s": setup_s,
        "first_call_s": compile_s + epochs * epoch_s + predict_s,
        "eval_s": 2 * predict_s,
    }
    together = timed("a", 0, 1000 * epoch_s, **fields)  # type: ignore[arg-type]
    if at_once > 1:
        shares = [
            Share(seed=seed, status="ok", points=together.points, step_mse=(0.1, 0.1))
            for seed in range(at_once)
        ]
        seeds = tuple(range(at_once))
        together = together.model_copy(update={"seeds": seeds, "shares": tuple(shares)})
    trials = trials_table([together])
    assert trials["start_s"].tolist() == pytest.approx([import_s + setup_s + compile_s] * at_once)
    assert trials["train_at_once_s"].tolist() == pytest.approx([1000 * epoch_s] * at_once)


def test_start_up_has_no_negative_part_and_is_not_guessed() -> None:
    fields: dict[str, object] = {"import_s": 1.0, "setup_s": 2.0, "eval_s": 1.0}
    quick = timed("a", 0, 1000.0, first_call_s=0.0, **fields)  # type: ignore[arg-type]
    assert trials_table([quick])["start_s"].tolist() == [3.0]
    for unknown in (
        {"first_call_s": None},
        {"first_call_s": 9.0, "trials_before": 1},
        {"first_call_s": 9.0, "status": "failed", "points": ()},
    ):
        record = quick.model_copy(update=unknown)
        assert trials_table([record])["start_s"].isna().all()


def test_without_a_lag_term_there_is_no_skill_to_speak_of() -> None:
    row = trials_table([timed("a", 0, 2.0, task=Task(n_steps=2, lag_weight=0))]).iloc[0]
    assert pd.isna(row["lag_skill"])
    assert pd.isna(row["epochs_to_lag"])


def test_a_failed_trial_is_a_row_that_keeps_what_it_measured() -> None:
    failed = timed("a", 0, 2.0, status="failed", error="boom", step_mse=())
    row = trials_table([failed]).iloc[0]
    assert (row["status"], row["error"], row["epochs"], row["train_s"]) == (
        "failed",
        "boom",
        1000,
        2,
    )
    assert pd.isna(row["final_mse"])
    assert len(curves_table([failed])) == 2
    summary = summarise(trials_table([failed, *FAST_AND_SLOW]))
    assert summary.set_index("backend").loc["a", "seeds"] == 0


def test_ratios_are_formed_inside_blocks() -> None:
    # Seed 2 is three times slower for both: the ratio does not care.
    summary = summarise(trials_table(FAST_AND_SLOW)).set_index("backend")
    assert summary.loc["fast", "time_ratio"] == 1
    slow = summary.loc["slow"]
    assert slow["time_ratio"] == pytest.approx(4)
    assert slow["time_ratio_low"] == pytest.approx(4)
    assert slow["time_ratio_high"] == pytest.approx(4)


def test_a_ratio_across_nodes_is_never_formed() -> None:
    records = [timed("fast", 0, 1.0, node="x"), timed("slow", 0, 4.0, node="y")]
    summary = summarise(trials_table(records)).set_index("backend")
    assert summary["time_ratio"].isna()["slow"]


def trials_of(**arms: list[float]) -> pd.DataFrame:
    """Return trials whose training times, a block each, are as given."""
    records = [timed(name, s, time) for name, times in arms.items() for s, time in enumerate(times)]
    return trials_table(records)


def words(trials: pd.DataFrame, metric: str = "train_s", pilot: int = 0) -> list[str]:
    table = compare_arms(trials, pilot)
    return table.loc[table["metric"] == metric, "words"].tolist()


times = st.lists(st.floats(0.01, 100), min_size=2, max_size=10)


def trials_to_the_lag(**arms: list[int]) -> pd.DataFrame:
    """Return trials of 1000 epochs, evaluated every 50, that got to the lag at these epochs."""
    records = [
        timed(
            backend,
            seed,
            2.0,
            points=tuple(
                CurvePoint(epoch=e, train_s=e / 500, train_loss=1.0, eval_mse=float(e < epoch))
                for e in range(50, 1001, 50)
            ),
        )
        for backend, epochs in arms.items()
        for seed, epoch in enumerate(epochs)
    ]
    return trials_table(records)


def test_epochs_to_the_lag_are_known_to_the_distance_of_evaluations() -> None:
    trials = trials_to_the_lag(early=[850, 850], late=[900, 900])
    table = compare_arms(trials).set_index("metric")
    for metric in ("epochs_to_lag", "seconds_to_lag"):
        row = table.loc[metric]
        assert not row["shown"]
        assert row["p"] > 0.1
        high, low = sorted((row["low"], row["high"]), reverse=True)
        assert low < 0.9 < 1.1 < high
    assert words(trials, "epochs_to_lag")[0].startswith(
        "no difference in the number of epochs to the lag shown"
    )
    many = compare_arms(trials_to_the_lag(early=[700] * 8, late=[900] * 8)).set_index("metric")
    assert many.loc["epochs_to_lag", "shown"]


@given(st.lists(st.integers(1, 20), min_size=2, max_size=8))
@settings(max_examples=8)
def test_equal_epochs_to_the_lag_are_the_same_but_not_known_better(points: list[int]) -> None:
    epochs = [50 * point for point in points]
    table = compare_arms(trials_to_the_lag(a=epochs, b=epochs)).set_index("metric")
    row = table.loc["epochs_to_lag"]
    assert (row["value"], row["p"], row["shown"]) == (1.0, 1.0, False)
    assert "have the same number of epochs to the lag" in row["words"]
    assert row["low"] < 1 < row["high"]


# Each takes two whole tables of comparisons; of their mathematics, `tests/stats` tries far more.
@given(times.filter(lambda values: min(values) < 0.999 * max(values)))
@settings(max_examples=8)
def test_the_interval_holds_the_mean_and_turns_round_with_the_ratio(ratios: list[float]) -> None:
    def interval(a: list[float], b: list[float]) -> tuple[float, float, float]:
        table = compare_arms(trials_of(a=a, b=b))
        row = table.loc[table["metric"] == "train_s"].iloc[0]
        bounds = row[["low", "value", "high"]].to_numpy(dtype=float)
        return tuple(1 / bounds[::-1] if row["backend"] == "a" else bounds)

    ones = [1.0] * len(ratios)
    low, value, high = interval(ones, ratios)
    assert low <= value * (1 + 1e-12)
    assert value <= high * (1 + 1e-12)
    assert value == pytest.approx(np.exp(np.mean(np.log(ratios))), rel=1e-9)
    assert interval(ratios, ones) == pytest.approx((1 / high, 1 / value, 1 / low), rel=1e-6)


def test_the_sentences_say_who_is_faster_and_how_surely() -> None:
    clear = trials_of(fast=[1.0, 1.1, 0.9], slow=[4.0, 4.5, 3.5])
    assert words(clear) == ["fast trains 3.99x faster than slow [3.75, 4.25]"]
    alike = trials_of(fast=[1.0, 1.0, 1.1], slow=[1.2, 1.01, 0.9])
    (sentence,) = words(alike)
    assert sentence.startswith("no difference shown between ")
    assert "x [" in sentence
    none = "no difference shown between slow and fast (4.00x, {}: no interval)"
    assert words(trials_of(fast=[1.0], slow=[4.0])) == [none.format("one block")]
    ticks = trials_of(fast=[1.0] * 9, slow=[4.0] * 9)
    assert words(ticks) == [none.format("9 blocks are equal")]


def test_the_faster_one_is_named_first_whichever_the_median_favours() -> None:
    # By the median over all trials `a` is the faster one, but not where both have run.
    records = [timed("a", s, 2.0 + s / 1000) for s in range(4)]
    records += [timed("b", s, 1.9 + s / 1000) for s in range(4)]
    records += [timed("a", s, 1.0) for s in range(10, 16)]
    assert words(trials_table(records))[0].startswith("b trains 1.05x faster than a [")


def test_with_many_comparisons_the_corrected_p_value_decides() -> None:
    base, noise = np.ones(4), np.array([-0.08, 0.02, 0.05, 0.13])
    several = {f"x{n}": list(base + 0.1 + np.roll(noise, n)) for n in range(4)}
    table = compare_arms(trials_of(fast=list(base), **several))
    rows = table[table["metric"] == "train_s"]
    assert (rows["p"] < 0.06).all()
    assert (rows["p_holm"] >= rows["p"]).all()
    # Five arms are 10 pairs, and the smallest p-value is among those shown.
    assert rows["p_holm"].min() == pytest.approx(min(1, 10 * rows["p"].min()))
    assert rows["words"].str.startswith("no difference shown").all()


def test_accuracy_is_paired_by_seed_also_when_the_times_are_contended() -> None:
    records = [
        timed(name, s, speed, mse=0.005 * factor * (1 + s) ** (1 + factor * 1e-9), contended=True)
        for name, speed, factor in (("a", 1.0, 1.0), ("b", 2.0, 1.5))
        for s in range(4)
    ]
    table = compare_arms(trials_table(records)).set_index("metric")
    assert "train_s" not in table.index
    assert "seconds_to_lag" not in table.index
    assert table.loc["final_mse", "value"] == pytest.approx(1.5)
    assert table.loc["final_mse", "words"] == "the MSE of b is 1.50x that of a [1.50, 1.50]"
    assert table.loc["lag_skill", "kind"] == "difference"
    assert summarise(trials_table(records))["time_ratio"].isna().all()


def test_equal_accuracy_is_said_to_be_equal() -> None:
    assert words(trials_of(a=[1, 1], b=[2, 2]), "final_mse") == [
        "b and a have the same MSE (2 seeds)"
    ]
    rounding = [timed("a", s, 1.0, mse=0.01) for s in range(3)]
    rounding += [timed("b", s, 2.0, mse=0.010001 + s * 1e-9) for s in range(3)]
    assert words(trials_table(rounding), "final_mse") == [
        "b and a have the same MSE to within 1% (3 seeds)"
    ]


def test_the_way_to_the_lag_is_compared_where_both_got_there() -> None:
    records = [timed(n, s, v, mse=0.005) for n, v in (("a", 1.0), ("b", 2.0)) for s in range(4)]
    records[0] = timed("a", 0, 1.0, mse=0.5)
    table = compare_arms(trials_table(records)).set_index("metric")
    assert (table.loc["seconds_to_lag", "n"], table.loc["seconds_to_lag", "of"]) == (3, 4)
    assert "3 of 4 seeds got there" in str(table.loc["seconds_to_lag", "words"])


def test_only_the_pilot_tells_how_far_a_ratio_is_known_if_it_chose_the_number() -> None:
    slow = [2.0, 2.2, 1.9, *[2.03] * 9]
    trials = trials_of(fast=[1.0] * 12, slow=slow)
    plain, stein = compare_arms(trials).iloc[0], compare_arms(trials, pilot=3).iloc[0]
    assert stein["value"] == plain["value"]
    logs = np.log(slow)
    half = 4.302653 * logs[:3].std(ddof=1) / np.sqrt(12)
    assert np.log(stein["high"] / stein["value"]) == pytest.approx(half, rel=1e-6)
    # A failed trial makes the pilot smaller; accuracy had no say in the number of blocks.
    fewer = trials[~((trials["backend"] == "slow") & (trials["block"] == 1))]
    half = 12.706205 * logs[[0, 2]].std(ddof=1) / np.sqrt(11)
    row = compare_arms(fewer, pilot=3).iloc[0]
    assert np.log(row["high"] / row["value"]) == pytest.approx(half, rel=1e-6)


def test_nothing_to_compare_is_an_empty_table() -> None:
    for trials in (trials_table([]), trials_of(a=[1.0, 2.0])):
        assert list(compare_arms(trials)) == list(COMPARISONS)
        assert compare_arms(trials).empty


def test_the_mean_mse_stays_and_the_interval_is_that_of_the_geometric_mean() -> None:
    records = [timed("a", s, 1.0, mse=mse) for s, mse in enumerate([0.01, 0.02, 0.04])]
    row = summarise(trials_table(records)).iloc[0]
    assert row["final_mse"] == pytest.approx(0.07 / 3)
    assert row["final_mse_geo"] == pytest.approx(0.02)
    half = 4.302653 * np.log(2) / np.sqrt(3)
    assert row["final_mse_high"] == pytest.approx(0.02 * np.exp(half), rel=1e-6)
    assert row["lag_skill_low"] < row["lag_skill"] < row["lag_skill_high"]
    one = summarise(trials_table(records[:1])).iloc[0]
    assert pd.isna(one["final_mse_low"])
    assert "0.01 " in render_summary(summarise(trials_table(records[:1])), "table")


def test_backends_stand_side_by_side() -> None:
    steps = steps_by_arm(steps_table(FAST_AND_SLOW))
    assert list(steps)[:3] == ["t", "fast", "slow"]
    assert list(steps)[3:] == ["variance", "memoryless", "without_lag", "wrong_sign"]
    # At lag 1, two of them are the same: people see one.
    assert list(without_twins(steps))[3:] == ["variance", "memoryless", "wrong_sign"]
    curves = curves_by_arm(curves_table(FAST_AND_SLOW))
    assert list(curves) == [
        "epoch",
        *(f"{a} {c}" for a in ("fast", "slow") for c in ("loss", "mse", "s")),
    ]
    assert curves["slow s"].tolist() == pytest.approx([2.2, 4.4])
    both = steps_by_arm(steps_table([timed("a", 0, 1), timed("a", 0, 1, device="gpu")]))
    assert list(both)[1:3] == ["a cpu", "a gpu"]


def test_some_time_steps_always_hold_the_first_two_and_the_last() -> None:
    for last in (1, 2, 3, 100, 1000):
        chosen = spread_out(pd.DataFrame({"t": range(1, last + 1)}))["t"].tolist()
        assert {1, min(2, last), last} <= set(chosen)
        assert len(chosen) <= 14


@pytest.mark.parametrize("kind", FORMATS)
def test_every_table_renders_in_every_format_even_empty(kind: str) -> None:
    for records in ([], FAST_AND_SLOW):
        t = trials_table(records)
        tables = [curves_by_arm(curves_table(records)), steps_by_arm(steps_table(records))]
        texts = [render(table, kind) for table in tables] + [
            render_summary(summarise(t), kind, sentences=stated(compare_arms(t), break_even(t))),
            render_break_even(break_even(t), kind),
            render_comparisons(compare_arms(t), kind),
        ]
        for text in texts:
            assert text.endswith("\n")
            if kind == "json":
                json.loads(text)
            if kind == "table":
                assert max(map(len, text.splitlines()), default=0) <= 80


def test_a_wide_table_is_cut_between_columns_not_through_them() -> None:
    records = [timed(f"backend-number-{n}", 0, 1.0) for n in range(8)]
    text = render(steps_by_arm(steps_table(records)), "table", width=80)
    assert max(map(len, text.splitlines())) <= 80
    for n in range(8):
        assert f"backend-number-{n}" in text


def test_an_interval_that_says_nothing_is_not_printed_but_explained() -> None:
    trials = trials_of(fast=[1.0, 1.0], slow=[3.0, 27.0])
    (sentence,) = words(trials)
    assert sentence == (
        "no difference shown between slow and fast (9.00x, 2 blocks are too few for an interval: "
        "at least 3)"
    )
    summary = summarise(trials)
    assert "9.00x [too few]" in render_summary(summary, "table")
    assert "9.00x [too few]" in render_comparisons(compare_arms(trials), "table")
    # Two that agree know it well.
    assert words(trials_of(fast=[1.0, 1.0], slow=[3.0, 3.1])) == [
        "fast trains 3.05x faster than slow [2.48, 3.76]"
    ]


def test_the_last_time_of_the_curves_is_that_of_the_summary() -> None:
    records = [timed("a", seed, train_s) for seed, train_s in enumerate((1.0, 2.0, 9.0))]
    last = curves_by_arm(curves_table(records)).iloc[-1]
    assert last["a s"] == summarise(trials_table(records))["train_s"].iloc[0] == 2.0
