"""How times grow with the size of a task, and where backends overtake others: known laws."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tables.from_records import TRIALS
from harness.tables.scaling import CROSSOVERS, GROWTH, crossovers, growth
from harness.tables.text import FORMATS, render_scaling

SIZES = (10, 64, 256)
Law = Callable[..., float]


def trials_of(
    laws: dict[str, Law],
    grid: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 3,
    noise: float = 0.0,
    shared: float = 3.0,
    rng: int | np.random.Generator = 0,
    **changes: Any,
) -> pd.DataFrame:
    """Return the trials of a sweep whose times of an epoch follow a law for each backend.

    `noise` is the standard deviation of their logarithms, that of blocks is `shared` times as much.
    """
    grid, draw = grid or {"hidden": SIZES}, np.random.default_rng(rng)
    rows = []
    for block, (seed, *point) in enumerate(product(range(seeds), *grid.values())):
        of_block = draw.normal(0, shared * noise)
        for backend, law in laws.items():
            epoch_s = law(*point) * np.exp(of_block + draw.normal(0, noise)) * (1 + seed)
            at = "-".join(map(str, point))
            rows.append(
                dict(zip(grid, point, strict=True))
                | {"trial": f"{at}-seed{seed}-{backend}", "block": block, "seed": seed}
                | {"backend": backend, "device": "cpu", "node": "n", "node_kind": "one"}
                | {"status": "ok", "contended": False, "epochs": 100, "at_once": 1}
                | {"train_s": 100 * epoch_s, "epochs_per_s": 1 / epoch_s, "correction_error": 0.0}
                | changes
            )
    columns = [*TRIALS, *grid]
    return pd.DataFrame(rows, columns=columns)


def power(exponent: float, factor: float = 1e-3) -> Law:
    def law(size: float, *_: object) -> float:
        return factor * math.pow(size, exponent)

    return law


def launch_bound(size: float, *_: object) -> float:
    """Take 3 ms whatever the size, until the work takes longer."""
    return max(3e-3, 3e-3 * math.pow(size / 64, 0.9))


@given(
    exponent=st.floats(-1, 3),
    sizes=st.lists(st.integers(1, 5000), min_size=2, max_size=5, unique=True),
    seeds=st.integers(1, 3),
)
def test_an_exact_power_law_is_recovered(exponent: float, sizes: list[int], seeds: int) -> None:
    table = growth(trials_of({"a": power(exponent)}, {"hidden": sizes}, seeds), ["hidden"])
    (row,) = table.to_dict("records")
    assert row["exponent"] == pytest.approx(exponent, abs=1e-9)
    assert (row["trials"], row["sizes"]) == (len(sizes) * seeds, len(sizes))
    assert "not a power law" not in str(row["words"])
    if len(sizes) * seeds == seeds + 1:
        assert pd.isna(row["low"])
    if not pd.isna(row["low"]):
        assert row["low"] == pytest.approx(row["high"], abs=1e-9)


def test_other_fields_seeds_and_nodes_have_a_factor_of_their_own() -> None:
    grid = {"hidden": SIZES, "n_steps": (50, 100), "cell": ("rnn", "gru")}
    trials = trials_of(
        {"a": lambda h, t, cell: h**0.5 * t * {"rnn": 1, "gru": 7}[cell]}, grid, noise=0.01
    )
    slower = trials["seed"] == 2
    trials.loc[slower, "node"] = "m"
    trials.loc[slower, "epochs_per_s"] /= 20
    # What is missing is missed at one size more than at the others.
    trials.loc[[0, 5, 30], "status"] = "failed"
    table = growth(trials, list(grid)).set_index("field")
    assert list(table.index) == ["hidden", "n_steps"]
    assert table.loc["hidden", "exponent"] == pytest.approx(0.5, abs=0.02)
    assert table.loc["n_steps", "exponent"] == pytest.approx(1, abs=0.1)
    assert table.loc["hidden", "trials"] == 33


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # Each backend is a draw of its own.
    draws = {f"b{n}": power(0.4) for n in range(400)}
    trials = trials_of(draws, {"hidden": (10, 30, 100, 300)}, noise=0.05, shared=0.0)
    table = growth(trials, ["hidden"])
    held = table["low"].le(0.4) & table["high"].ge(0.4)
    # A share of 400 is within three standard deviations, 3.3 %.
    assert 0.917 < held.mean() < 0.983
    assert 0.017 < (table["p_bent"] < 0.05).mean() < 0.083
    # Holm counts all of them.
    assert not table["words"].str.contains("not a power law").any()


def test_a_launch_bound_backend_is_no_power_law() -> None:
    laws = {"launched": launch_bound, "straight": power(0.9)}
    table = growth(trials_of(laws, noise=0.02), ["hidden"]).set_index("backend")
    words = str(table.loc["launched", "words"])
    assert words.startswith("the time of launched is not a power law of hidden: ")
    flat, steep = (float(part.split(" from ")[0]) for part in words.split(": ")[1].split(", "))
    assert flat == pytest.approx(0, abs=0.1)
    assert steep == pytest.approx(0.9, abs=0.1)
    assert "from 10 to 64" in words
    assert "from 64 to 256" in words
    assert str(table.loc["straight", "words"]).startswith("the time of straight goes as hidden^0.")


def test_a_bend_too_small_to_mind_is_none() -> None:
    laws = {"a": lambda h: h**0.9 if h <= 64 else 64**0.9 * (h / 64) ** 0.95}
    (row,) = growth(trials_of(laws, noise=1e-6), ["hidden"]).to_dict("records")
    assert row["p_bent"] < 1e-9
    assert "goes as" in str(row["words"])


def test_equal_times_at_each_size_show_no_bend() -> None:
    """Those of a clock that ticks: 1, 2 and 2 ticks."""
    (row,) = growth(trials_of({"a": lambda h: 1 + (h > 10)}), ["hidden"]).to_dict("records")
    assert pd.isna(row["p_bent"])
    (row,) = growth(trials_of({"a": lambda h: 1.0}), ["hidden"]).to_dict("records")
    assert row["words"] == "the time of a goes as hidden^0.00, without an interval"


def test_what_does_not_matter_is_said_not_to() -> None:
    trials = trials_of({"a": lambda rho: 1.0}, {"rho": (-0.5, 0.0, 0.1, 0.5)}, 4, noise=0.02, rng=1)
    (row,) = growth(trials, ["rho"]).to_dict("records")
    assert row["sizes"] == 2  # Those that have a logarithm.
    assert str(row["words"]).startswith("no change of the time of a with rho shown")


def test_one_seed_gives_an_exponent_and_only_what_can_be_known() -> None:
    (row,) = growth(trials_of({"a": launch_bound}, seeds=1), ["hidden"]).to_dict("records")
    assert row["trials"] == 3
    assert row["low"] < row["exponent"] < row["high"]
    assert pd.isna(row["p_bent"])
    two = trials_of({"a": power(1)}, {"hidden": (10, 20)}, seeds=1)
    (row,) = growth(two, ["hidden"]).to_dict("records")
    assert row["words"] == "the time of a goes as hidden^1.00, without an interval"


def test_sizes_that_were_varied_with_the_node_are_not_told_apart_from_it() -> None:
    trials = trials_of({"a": power(1)})
    trials["node"] = "n" + trials["hidden"].astype(str)
    (row,) = growth(trials, ["hidden"]).to_dict("records")
    assert pd.isna(row["exponent"])
    assert "cannot be told" in str(row["words"])


def test_a_crossover_is_found_where_it_is() -> None:
    # 4 ms whatever the size, against 0.1 ms for each: equal at 40.
    laws = {"big": lambda h: 4e-3, "small": power(1, 1e-4)}
    (row,) = crossovers(trials_of(laws, noise=0.02), ["hidden"]).to_dict("records")
    assert (row["faster_below"], row["faster_above"]) == ("small", "big")
    assert (row["surely_below"], row["surely_above"]) == (10, 64)
    assert row["at"] == pytest.approx(40, rel=0.1)
    assert row["p_holm"] < 0.05
    assert row["words"] == (
        f"big overtakes small between hidden = 10 and 64 (at about {row['at']:.0f})"
    )
    assert row["hidden"] is None


@given(
    at=st.floats(11, 900),
    exponents=st.tuples(st.floats(-1, 0.5), st.floats(0.6, 2)),
    turned=st.booleans(),
)
def test_the_size_of_an_exact_crossover_is_recovered(
    at: float, exponents: tuple[float, float], turned: bool
) -> None:
    flat, steep = exponents
    laws = {"flat": power(flat, at**-flat), "steep": power(steep, at**-steep)}
    if turned:
        laws = dict(reversed(list(laws.items())))
    trials = trials_of(laws, {"hidden": (10, 100, 1000)}, noise=1e-9)
    (row,) = crossovers(trials, ["hidden"]).to_dict("records")
    assert (row["faster_below"], row["faster_above"]) == ("steep", "flat")
    assert row["at"] == pytest.approx(at, rel=1e-6)
    assert row["surely_below"] <= at * (1 + 1e-9)
    assert at <= row["surely_above"] * (1 + 1e-9)


def experiments(laws: dict[str, Law], count: int, **options: Any) -> Iterator[pd.DataFrame]:
    for n in range(count):
        yield crossovers(trials_of(laws, rng=n, **options), ["hidden"])


def test_noise_has_no_crossover() -> None:
    same = {"a": power(0.5), "b": power(0.5)}
    assert all(table.empty for table in experiments(same, 40, noise=0.05))


def test_what_is_stated_holds_the_truth() -> None:
    # The ratio is 1 at 50, and near it at 30 and 100.
    laws = {"a": power(0.3, 50**-0.3), "b": power(0.6, 50**-0.6)}
    sizes = {"hidden": (3, 10, 30, 100, 300)}
    found = pd.concat(list(experiments(laws, 25, grid=sizes, noise=0.05)), ignore_index=True)
    assert len(found) > 12
    assert (found["faster_below"] == "b").all()
    assert (found["surely_below"].lt(50) & found["surely_above"].gt(50)).mean() >= 0.95
    # Sizes that are not surely on a side are not in what is stated.
    assert found["surely_above"].max() == 300
    assert np.exp(np.log(found["at"]).mean()) == pytest.approx(50, rel=0.1)


def test_who_is_faster_everywhere_overtakes_nobody() -> None:
    laws = {"a": power(0.5), "b": power(0.6)}
    assert crossovers(trials_of(laws, noise=0.01), ["hidden"]).empty


def test_one_seed_shows_no_crossover() -> None:
    laws = {"a": power(0, 4e-3), "b": power(1, 1e-4)}
    assert crossovers(trials_of(laws, seeds=1), ["hidden"]).empty


def test_a_backend_may_be_overtaken_at_some_values_of_the_other_fields_only() -> None:
    laws = {
        "big": lambda h, cell: 4e-3,
        "small": lambda h, cell: h * (1e-4 if cell == "rnn" else 1e-3),
    }
    grid = {"hidden": SIZES, "cell": ("rnn", "gru")}
    table = crossovers(trials_of(laws, grid, noise=0.02), list(grid))
    assert list(table.columns) == ["hidden", "cell", *CROSSOVERS]
    (row,) = table.to_dict("records")
    assert (row["field"], row["hidden"], row["cell"]) == ("hidden", None, "rnn")
    assert str(row["words"]).endswith(", cell = rnn")


def test_kinds_of_nodes_and_devices_are_kept_apart() -> None:
    laws = {"big": lambda h: 4e-3, "small": power(1, 1e-4)}
    faster = {"big": lambda h: 4e-3, "small": power(1, 1e-5)}
    cpu = trials_of(laws, noise=0.02)
    gpu = trials_of(faster, noise=0.02, node="m", node_kind="two", device="gpu")
    gpu["block"] += 100
    gpu["trial"] += "-gpu"
    trials = pd.concat([cpu, gpu], ignore_index=True)
    (row,) = crossovers(trials, ["hidden"]).to_dict("records")
    assert (row["device"], row["node_kind"]) == ("cpu", "one")
    assert "big overtakes small on cpu on one between" in row["words"]
    table = growth(trials, ["hidden"])
    assert set(zip(table["backend"], table["node_kind"], strict=True)) == {
        (backend, kind) for backend in laws for kind in ("one", "two")
    }
    assert "nodes B: two" in render_scaling(table, crossovers(trials, ["hidden"]), "table")


def test_contended_failed_and_missing_times_do_not_count() -> None:
    laws = {"big": lambda h: 4e-3, "small": power(1, 1e-4)}
    trials = trials_of(laws, noise=0.02)
    contended = trials.assign(contended=True)
    assert growth(contended, ["hidden"]).empty
    assert crossovers(contended, ["hidden"]).empty
    assert growth(trials.assign(status="failed"), ["hidden"]).empty
    one_size = trials.assign(status=np.where(trials["hidden"] == 10, "ok", "failed"))
    assert growth(one_size, ["hidden"]).empty
    assert crossovers(one_size, ["hidden"]).empty
    nothing = trials.assign(train_s=np.nan, epochs_per_s=np.nan)
    assert growth(nothing, ["hidden"]).empty
    assert crossovers(nothing, ["hidden"]).empty


def test_seeds_that_were_trained_at_once_are_one_trial() -> None:
    trials = trials_of({"a": power(0.7)}, noise=0.02, at_once=8)
    many = trials.loc[trials.index.repeat(8)].reset_index(drop=True)
    pd.testing.assert_frame_equal(growth(many, ["hidden"]), growth(trials, ["hidden"]))


def test_without_trials_or_numbers_the_tables_are_empty() -> None:
    none = trials_of({})
    assert list(growth(none.astype({"hidden": float}), ["hidden"])) == list(GROWTH)
    assert list(crossovers(none, ["hidden"])) == ["hidden", *CROSSOVERS]
    text = trials_of({"a": lambda c: 1.0, "b": lambda c: 2.0}, {"cell": ("rnn", "gru")})
    assert growth(text, ["cell"]).empty
    assert crossovers(text, ["cell"]).empty


@pytest.mark.parametrize("kind", FORMATS)
def test_it_is_rendered(kind: str) -> None:
    trials = trials_of({"big": lambda h: 4e-3, "small": power(1, 1e-4)}, noise=0.02)
    both = growth(trials, ["hidden"]), crossovers(trials, ["hidden"])
    text = render_scaling(*both, kind)
    if kind == "json":
        read = json.loads(text)
        assert [row["backend"] for row in read["growth"]] == ["big", "small"]
        assert read["crossovers"][0]["surely_above"] == 64
    elif kind == "csv":
        first, second = text.split("\n\n")
        assert list(pd.read_csv(io.StringIO(first))) == list(GROWTH)
        assert list(pd.read_csv(io.StringIO(second))) == ["hidden", *CROSSOVERS]
    else:
        for words in (*both[0]["words"], *both[1]["words"]):
            assert words in text
        lonely = render_scaling(both[0], both[1].iloc[:0], kind)
        assert "no backend is shown to overtake another" in lonely
