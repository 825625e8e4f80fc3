"""Paths that begin in the middle of a series, and paths that overlap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from harness import Task
from harness.backend.protocol import Array
from harness.cli import cli
from harness.diagnosis.beginning import settle
from harness.diagnosis.outputs import coefficients
from harness.diagnosis.predictions import explain
from harness.diagnosis.predictions_file import Predictions, read

W = 0.5
ZERO = "taken to be 0, and the data agree"
OTHER = "it is not 0"
UNKNOWN = "the data do not tell whether it is 0"


def series(steps: int, paths: int, rho: float, rng: np.random.Generator) -> Array:
    """Return paths from x_0 = 0 on [steps + 1, paths]."""
    x = np.zeros((steps + 1, paths))
    for t in range(1, steps + 1):
        x[t] = rho * x[t - 1] + rng.standard_normal(paths)
    return x


def cut(
    begin: int,
    paths: int = 100,
    steps: int = 20,
    rho: float = 0.1,
    noise: float = 0.02,
    seed: int = 0,
    w: float = W,
) -> Predictions:
    """Return predictions at steps begin + 1, begin + 2, ... as if they were t = 1, 2, ..."""
    rng = np.random.default_rng(seed)
    x = series(begin + steps, paths, rho, rng)[begin:]
    output = x[1:] ** 2 + w * x[:-1] ** 2
    output += noise * (1 + x[1:] ** 2) * rng.standard_normal(output.shape)
    before = x[:-1].copy()
    before[0] = 0
    path_R, t_R = np.repeat(np.arange(paths), steps), np.tile(np.arange(1, steps + 1), paths)
    x_R, before_R, output_R = (each.T.ravel() for each in (x[1:], before, output))
    return Predictions(path_R, t_R, x_R, before_R, output_R, True, t_R == 1)


def note(given: Predictions, w: float = W) -> str:
    return " ".join(settle(given, w).notes)


def test_windows_have_the_coefficient_of_the_whole_paths(tmp_path: Path) -> None:
    """With x_0 = 0 in the place of what was cut off, it would be 0.45."""
    given = cut(begin=60, steps=5)
    wrong = coefficients(given)
    assert wrong is not None
    assert wrong.before.value < 0.46
    table = pd.DataFrame(
        {"path": given.path_R, "t": given.t_R, "x": given.x_R, "prediction": given.prediction_R}
    )
    table.to_csv(tmp_path / "windows.csv", index=False)
    words = ["explain", "--predictions", str(tmp_path / "windows.csv"), "--set", "lag_weight=0.5"]
    done = CliRunner().invoke(cli, words)
    told = " ".join(done.stdout.split())
    assert told.startswith("GOOD learned: your predictions")
    assert "Your predictions contain 0.5 [0.49" in told
    assert "x_0 is not in the file, and it is not 0 to the network: its outputs at t = 1" in told
    assert "the first row of each such path is an input only, and counts as t = 0 here." in told


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (cut(0), ZERO),
        (cut(0, rho=0.9), ZERO),
        (cut(0, noise=0), ZERO),
        (cut(0, steps=2), ZERO),
        (cut(60), OTHER),
        (cut(60, noise=0), OTHER),
        (cut(60, rho=0.9), "x is as large at t = 1 as it is later"),
        (cut(60, steps=2), OTHER),
        (cut(0, paths=5), UNKNOWN),
        (cut(60, paths=5), UNKNOWN),
        (cut(60, noise=3), UNKNOWN),
        (cut(0, steps=1), "x_0 is not in the file; it is taken to be 0."),
        (cut(60, rho=0.9, w=0.0), OTHER),
    ],
    ids=range(13),
)
def test_what_the_data_say_of_the_beginning(given: Predictions, expected: str) -> None:
    assert expected in note(given)


def test_without_a_lag_term_the_beginning_does_not_matter() -> None:
    assert "Without a lag term it does not matter" in note(cut(0, w=0.0), w=0.0)


def test_an_initial_state_that_is_not_trained_is_no_window() -> None:
    """It makes outputs at t = 1 another function of x_1, but still a function of it."""
    given = cut(0)
    off_R = np.where(given.t_R == 1, 0.6 * np.tanh(given.x_R + 1), 0)
    bad = replace(given, prediction_R=given.prediction_R + off_R)
    assert ZERO in note(bad)
    assert [finding.rule for finding in explain(bad, Task(lag_weight=W))] == ["first-steps"]


def test_some_paths_are_windows() -> None:
    """Each path was split in four: the first part begins with x_0 = 0, the other three do not."""
    parts = [cut(begin, paths=40, steps=10, seed=begin) for begin in (0, 10, 20, 30)]
    rows = [
        (40 * number + part.path_R, part.t_R, part.x_R, part.before_R, part.prediction_R)
        for number, part in enumerate(parts)
    ]
    path_R, t_R, x_R, before_R, output_R = map(np.concatenate, zip(*rows, strict=True))
    split = Predictions(path_R, t_R, x_R, before_R, output_R, True, t_R == 1)
    assert OTHER in note(split)


@pytest.mark.parametrize("begin", [0, 60])
def test_the_coefficient_of_windows_holds_as_often_as_it_says(begin: int) -> None:
    """And the beginning is not mistaken."""
    wrong = ZERO if begin else OTHER
    held, mistaken = 0, 0
    for seed in range(90):
        paths, steps, rho = ((100, 2, 0.1), (50, 20, 0.9), (30, 5, 0.5))[seed % 3]
        given = settle(cut(begin, paths, steps, rho, 0.1, seed), W)
        mistaken += wrong in given.notes[0]
        terms = coefficients(given)
        assert terms is not None
        held += terms.before.holds(W)
    assert mistaken == 0
    assert 0.9 <= held / 90 <= 0.99


def rolling(length: int, steps: int, seed: int) -> Predictions:
    """Return all windows of so many steps of one path; each begins with an x that is known."""
    rng = np.random.default_rng(seed)
    x = series(length, 1, 0.1, rng)[:, 0]
    output = x[1:] ** 2 + W * x[:-1] ** 2 + 0.3 * rng.standard_normal(length)
    rows = (np.arange(length - steps + 1)[:, None] + np.arange(steps)).ravel()
    paths = len(rows) // steps
    path_R, t_R = np.repeat(np.arange(paths), steps), np.tile(np.arange(1, steps + 1), paths)
    return Predictions(path_R, t_R, x[rows + 1], x[rows], output[rows], True)


def test_a_step_in_many_windows_counts_once() -> None:
    """Windows that overlap are not independent: the interval of paths would be far too narrow."""
    held = 0
    for seed in range(40):
        terms = coefficients(rolling(200, 20, seed))
        assert terms is not None
        held += terms.before.holds(W)
    assert 0.9 <= held / 40 <= 1
    (finding, *_) = explain(rolling(2000, 20, 0), Task(lag_weight=W))
    assert finding.rule == "learned"
    assert "Paths overlap: 39,620 rows hold 2,000 different steps." in finding.evidence


@pytest.mark.parametrize("decimals", [0, 1, 2, 3, 9])
def test_rounded_inputs_are_not_taken_for_windows_that_overlap(decimals: int) -> None:
    given = cut(60, paths=200, steps=50)
    rounded = replace(given, x_R=given.x_R.round(decimals), before_R=given.before_R.round(decimals))
    assert rounded.steps == len(rounded.x_R)


def test_a_file_of_windows(tmp_path: Path) -> None:
    """Windows by their own t: the first row of each is an input only."""
    x = series(300, 1, 0.1, np.random.default_rng(0))[:, 0]
    rows = [
        f"{number},{t},{x[t]},{x[t] ** 2 + W * x[t - 1] ** 2}"
        for number in range(25)
        for t in range(37 + 10 * number, 47 + 10 * number)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["path,t,x,prediction", *rows]))
    first, *others = explain(read(tmp_path / "a.csv"), Task(lag_weight=W))
    assert (first.rule, others) == ("learned", [])
    assert "contain 0.5 [0.5, 0.5] times" in first.evidence
    assert "Paths begin at t = 37 to 277, and the x before that is not in the file" in (
        first.evidence
    )
