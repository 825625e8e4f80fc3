"""The command `explain`, of runs and of predictions that were made elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness import Task
from harness.backend.protocol import Array
from harness.cli import cli
from harness.diagnosis.lag_terms import Coefficient
from harness.diagnosis.outputs import coefficients
from harness.diagnosis.predictions import explain
from harness.diagnosis.predictions_file import Predictions
from tests.helpers import docs
from tests.helpers.commands import ROOT, TINY_RUN
from tests.helpers.predictions import Function, W, predictions, right, write
from tests.helpers.trainings import run


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["explain", *map(str, words)])


def rules(given: Predictions, **task: Any) -> list[str]:
    return [finding.rule for finding in explain(given, Task(**task))]


# ---- of a run


def test_a_run_in_words(tmp_path: Path) -> None:
    run(tmp_path, Task.preset("posted-gradient-mended", epochs=2000, n_steps=30))
    done = invoke("r", "--results", tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("FAULT wrong-sign: floor on cpu\n")
    assert "Next: Fix the loss:\n  `python -m harness run --preset corrected" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    (told,) = json.loads(invoke("r", "--results", tmp_path, "--format", "json").stdout)
    assert set(told) == {
        *("rule", "severity", "headline", "evidence", "remedy", "subjects", "where")
    }
    assert told["subjects"] == ["floor on cpu"]
    markdown = invoke("r", "--results", tmp_path, "--format", "markdown").stdout
    assert markdown.startswith("### Fault: ")
    assert r"train\_sign = -1" in markdown
    found = harness.load("r", tmp_path).findings()
    assert " ".join(str(found).split()) == " ".join(done.stdout.split())
    assert str(found[0]) == repr(found).partition("\n\n")[0].rstrip() + "\n"
    assert found._repr_markdown_() == markdown


def test_a_run_without_findings(tmp_path: Path) -> None:
    run(tmp_path, Task(), seeds=())
    assert invoke("r", "--results", tmp_path).stdout == "No trial has ended yet.\n"
    assert invoke("r", "--results", tmp_path, "--format", "json").stdout == "[]\n"
    run(tmp_path / "short", Task(n_steps=5, epochs=4, eval_paths=20))
    done = invoke("r", "--results", tmp_path / "short")
    assert done.stdout.startswith("Nothing is known to be wrong")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "name a run, or a file"),
        (("example", "--predictions", "x.csv"), "one of them"),
        (("example", "--set", "rho=0.5"), "a run has its task already"),
        (("exmple",), "did you mean `example`?"),
        (("wrong.csv",), "`python -m harness explain --predictions wrong.csv`"),
        (("pyproject.toml",), "is no run, but a file: for predictions, run `python -m"),
        (("my file.csv",), "explain --predictions 'my file.csv'`"),
        (("--predictions", "nowhere.csv"), "cannot be read: No such file"),
        (("--predictions", "harness"), "cannot be read: Is a directory"),
        (("--predictions", "x.csv", "--set", "rho=2"), "`rho`"),
    ],
)
def test_bad_usage(words: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = invoke(*words)
    assert done.exit_code == 2
    assert problem in done.stderr
    assert done.stderr.startswith("error: ")


# ---- of predictions


MADE: dict[str, tuple[Function, list[str]]] = {
    "right": (right, ["learned"]),
    "wrong sign": (lambda x, b: x**2 - W * b**2, ["wrong-sign"]),
    "no memory": (lambda x, b: x**2 + W, ["memoryless"]),
    "half": (lambda x, b: x**2 + W / 2 * b**2, ["other-lag"]),
    "constant": (lambda x, b: 0 * x + 1.1, ["no-input"]),
    "dead": (lambda x, b: 0 * x, ["no-input"]),
    "nonsense": (lambda x, b: 0.1 * x - 5, ["other-present", "worse-than-constant"]),
    "saturated": (lambda x, b: np.minimum(x**2, 4) + W * b**2, ["other-present"]),
    "imprecise": (lambda x, b: x**2 + W * b**2 + 0.3 * np.sin(9 * x), ["imprecise"]),
    "too large": (lambda x, b: x**2 + W * b**2 + 0.5, ["other-constant"]),
}


@pytest.mark.parametrize("name", MADE)
def test_what_predictions_are_made_of(name: str) -> None:
    function, expected = MADE[name]
    assert rules(predictions(function, paths=200)) == expected


def test_an_error_that_is_a_constant() -> None:
    (finding,) = explain(predictions(lambda x, b: x**2 + W * b**2 - 0.5), Task())
    assert "They are 0.5 too small everywhere: the constant in them is -0.5 [-0.5" in (
        finding.evidence
    )
    assert "bias of the last layer" in finding.remedy
    no_lag = predictions(lambda x, b: x**2 + 0.5)
    assert rules(no_lag, lag_weight=0) == ["other-constant"]


def test_the_level_is_beside_the_error_that_is_below_it() -> None:
    (finding,) = explain(predictions(right), Task())
    assert "against x_t^2. The first, " in finding.evidence


def test_one_step_holds_and_two_hold() -> None:
    assert "t = 50 holds " in explain(with_error(at(49, 1)), Task())[0].evidence
    assert "t = 50 to 51 hold " in explain(with_error(at(slice(49, 51), 1)), Task())[0].evidence


def test_rounding_is_no_coefficient() -> None:
    assert str(Coefficient(6.9e-16, 5.3e-16, 8.5e-16)) == "0 [0, 0]"
    assert str(Coefficient(-0.1, -0.11, 1e-4)) == "-0.1 [-0.11, 0.0001]"


def test_without_a_lag() -> None:
    assert rules(predictions(lambda x, b: x**2), lag_weight=0) == ["learned"]
    assert rules(predictions(lambda x, b: x**2 + 0.1 * b**2), lag_weight=0)[0] == "other-lag"


def test_inputs_of_another_process() -> None:
    made = predictions(right, rho=0.6)
    other, learned = explain(made, Task())
    assert (other.rule, learned.rule) == ("other-inputs", "learned")
    estimate = float(other.remedy.rpartition("=")[2])
    assert estimate == pytest.approx(0.6, abs=0.07)
    assert rules(made, rho=0.6) == ["learned"]
    level = harness.yardsticks(Task(rho=estimate, n_steps=40)).memoryless.mean()
    assert f"below {level:.2g}" in learned.evidence


def test_inputs_of_another_scale() -> None:
    made = predictions(right, 50, 100)
    doubled = Predictions(**vars(made) | {"x_R": 2 * made.x_R, "before_R": 2 * made.before_R})
    finding = explain(doubled, Task())
    assert "other-inputs" in [f.rule for f in finding]
    assert any("the variance 4" in f.evidence or "the variance 3.9" in f.evidence for f in finding)


def test_few_paths_are_reported() -> None:
    noisy: Function = lambda x, b: x**2 + W * b**2 + 0.5 * np.sin(20 * x)  # noqa: E731
    assert rules(predictions(noisy, paths=1, steps=20)) == ["unsure"]
    assert rules(predictions(noisy, paths=1, steps=4)) == ["unsure"]
    assert rules(predictions(noisy, paths=3, steps=1)) == ["unsure"]


def two_steps(first: int, x_0: Array) -> str:
    """Return a file of exact predictions for paths of two rows, from t = `first` on."""
    x_1 = np.random.default_rng(0).standard_normal(len(x_0))
    lines = ["path,t,x,prediction"]
    for path, (before, now) in enumerate(zip(x_0, x_1, strict=True)):
        target = now**2 + W * before**2
        lines += [f"{path},{first},{before},0", f"{path},{first + 1},{now},{target}"]
    return "\n".join(lines)


@pytest.mark.parametrize("weight", [W, 0])
@pytest.mark.parametrize(
    ("first", "x_0", "what"),
    [
        (0, np.zeros(100), "x_(t-1) is 0 in all rows that are scored"),
        (1, np.zeros(100), "x_(t-1) is 0 in all rows"),
        (7, np.full(100, -2.0), "x_(t-1) is -2 in all rows"),
        (7, np.where(np.arange(100) % 2, 0.5, -0.5), "x_(t-1) is 0.5 or -0.5 in all rows"),
    ],
)
def test_nothing_is_learned_where_no_row_tells_the_lag(
    first: int, x_0: Array, what: str, weight: float, tmp_path: Path
) -> None:
    (tmp_path / "mine.csv").write_text(two_steps(first, x_0))
    done = invoke("--predictions", tmp_path / "mine.csv", "--set", f"lag_weight={weight}",
                  "--format", "json")  # fmt: skip
    unsure = next(f for f in json.loads(done.stdout) if f["rule"] == "unsure")
    assert "learned" not in done.stdout
    assert what in unsure["evidence"]
    assert unsure["remedy"].startswith("Give longer paths")


def test_two_steps_tell_the_lag_if_it_varies(tmp_path: Path) -> None:
    given = two_steps(7, np.random.default_rng(1).standard_normal(100))
    (tmp_path / "mine.csv").write_text(given)
    done = invoke("--predictions", tmp_path / "mine.csv", "--format", "json")
    assert [finding["rule"] for finding in json.loads(done.stdout)] == ["learned"]


def test_predictions_that_do_not_depend_on_the_inputs() -> None:
    (finding,) = explain(predictions(lambda x, b: 0 * x + 1.1), Task())
    assert finding.evidence.startswith("Every prediction is 1.1. The error is ")
    made = predictions(right)
    (finding,) = explain(replace(made, prediction_R=1 / made.t_R), Task())
    assert finding.evidence.startswith("At each time step the predictions of all paths are the sam")
    assert "same time step and path" not in finding.remedy


# ---- over time


def with_error(error_T: Array, function: Function = right) -> Predictions:
    """Return predictions that are off by so much at each time step."""
    made = predictions(function, 50, len(error_T))
    noise = 0.02 * np.random.default_rng(1).standard_normal(len(made.t_R))
    return replace(made, prediction_R=made.prediction_R + error_T[made.t_R - 1] + noise)


def at(steps: slice | int, error: Any) -> Array:
    error_T = np.zeros(100)
    error_T[steps] = error
    return error_T


@pytest.mark.parametrize(
    ("error_T", "expected"),
    [
        (at(slice(3), [1, 0.5, 0.25]), ["first-steps"]),
        (at(slice(3), 0.1), ["first-steps"]),
        (at(0, 1), ["first-steps"]),
        (np.linspace(0, 0.1, 100), ["error-grows"]),
        (np.linspace(0, 1, 100), ["error-grows"]),
        (at(slice(49, 52), 0.5), ["few-steps"]),
        (at(99, 1), ["few-steps"]),
        (at(49, 3), ["few-steps"]),
        (at(slice(3), 0.02), ["learned"]),
        (np.zeros(100), ["learned"]),
    ],
    ids=range(10),
)
def test_errors_at_some_steps(error_T: Array, expected: list[str]) -> None:
    """An error at a few steps, or one that drifts, is small on average, but nothing is good."""
    assert rules(with_error(error_T)) == expected


@pytest.mark.parametrize("steps", [slice(3), slice(49, 52)])
def test_errors_of_next_to_nothing_are_no_fault(steps: slice) -> None:
    made = predictions(right, 50, 100)
    tiny = replace(made, prediction_R=made.prediction_R + at(steps, 1e-6)[made.t_R - 1])
    assert rules(tiny) == ["learned"]


def test_both_faults_of_a_program_are_seen_in_its_predictions() -> None:
    """The error against the target that it follows shows the second one."""
    made = with_error(at(slice(3), [0.3, 0.3, 0.2]), MADE["wrong sign"][0])
    sign, steps = explain(made, Task.preset("posted"))
    assert (sign.rule, steps.rule) == ("wrong-sign", "first-steps")
    assert "x_t^2 + 0.1*x_(t-1)^2, as the evaluation does" in sign.remedy
    assert "errors against x_t^2 - 0.1*x_(t-1)^2, which the predictions follow" in steps.evidence
    assert "in Flux, call the network as [m(x) for x in xs]" in steps.remedy


@pytest.mark.parametrize("name", MADE)
def test_every_answer_has_the_error_per_step(name: str) -> None:
    first, *others = explain(predictions(MADE[name][0], paths=200), Task())
    assert "The error per step, and the memoryless yardstick there: t = 1: " in first.evidence
    assert "; t = 19 to 21: " in first.evidence
    assert "; t = 38 to 40: " in first.evidence
    assert not any("The error per step" in finding.evidence for finding in others)


def test_an_answer_without_findings_has_the_error_per_step(tmp_path: Path) -> None:
    made = write(tmp_path / "a.csv", predictions(lambda x, b: x**2 + 0.3 * np.sin(9 * x), paths=99))
    words = " ".join(invoke("--predictions", made, "--set", "lag_weight=0").stdout.split())
    assert words.startswith("Nothing is known to be wrong, and nothing was shown to be learned. ")
    assert "The error per step, and the variance of the target there: t = 1: 0.0" in words
    done = invoke("--predictions", made, "--set", "lag_weight=0", "--format", "json")
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("steps", [1, 3, 4, 9])
def test_the_error_per_step_of_short_paths(steps: int) -> None:
    first = explain(predictions(right, 200, steps), Task())[0]
    shown = first.evidence.partition("yardstick there: ")[2].count("; ") + 1
    assert shown == {1: 1, 3: 3, 4: 4, 9: 5}[steps]


def test_paths_of_unlike_length_are_not_compared() -> None:
    """The few paths that are longer have larger errors: that is no growth with time."""
    short = predictions(right, 60, 40)
    long = predictions(MADE["imprecise"][0], 6, 100)
    both = Predictions(
        np.concatenate([short.path_R, long.path_R + 60]),
        np.concatenate([short.t_R, long.t_R]),
        np.concatenate([short.x_R, long.x_R]),
        np.concatenate([short.before_R, long.before_R]),
        np.concatenate([short.prediction_R, long.prediction_R]),
        starts_at_zero=True,
    )
    assert rules(both) == ["learned"]


@given(seed=st.integers(0, 2**32), paths=st.integers(1, 60), heavy=st.floats(0, 1.5))
def test_luck_is_no_error_at_some_steps(seed: int, paths: int, heavy: float) -> None:
    """Errors that grow with x, and come in bursts, are large at some steps by luck."""
    rng = np.random.default_rng(seed)

    def function(x: Array, before: Array) -> Array:
        size = 0.02 * (1 + x**2) * np.exp(heavy * rng.standard_normal(len(x)))
        return x**2 + W * before**2 + size * rng.standard_normal(len(x))

    found = rules(predictions(function, paths, 60, seed=seed))
    assert not {"first-steps", "few-steps", "error-grows"} & set(found)


@given(
    c=st.floats(-3, 3),
    a=st.floats(-3, 3),
    b=st.floats(-1, 1),
    paths=st.integers(2, 30),
    rho=st.floats(-0.9, 0.9),
    seed=st.integers(0, 99),
)
def test_the_coefficient_is_found(
    c: float, a: float, b: float, paths: int, rho: float, seed: int
) -> None:
    exact = predictions(lambda x, before: a * x**2 + c * before**2 + b, paths, 20, rho, seed)
    found = coefficients(exact)
    assert found is not None
    for term, value in ((found.before, c), (found.now, a), (found.constant, b)):
        assert term.low - 1e-9 <= value <= term.high + 1e-9
        assert term.value == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("paths", [5, 40])
def test_the_interval_holds_as_often_as_it_says(paths: int) -> None:
    """With errors as networks make them: they depend on x, and grow with it."""
    held = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)

        def function(x: Array, before: Array, rng: np.random.Generator = rng) -> Array:
            error = 0.05 * (1 + x**2) * rng.standard_normal(len(x))
            return x**2 - 0.1 * before**2 + error

        found = coefficients(predictions(function, paths, 30, 0.3, seed))
        assert found is not None
        held += found.before.low <= -0.1 <= found.before.high
    assert 0.91 <= held / 400 <= 0.98


@given(weight=st.floats(0.05, 2), sign=st.sampled_from([1, -1]), seed=st.integers(0, 999))
def test_the_sign_is_never_mistaken(weight: float, sign: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = predictions(
        lambda x, b: x**2 + sign * weight * b**2 + 0.1 * weight * rng.standard_normal(len(x)),
        seed=seed,
    )
    assert rules(made, lag_weight=weight) == (["learned"] if sign > 0 else ["wrong-sign"])


def test_a_trained_network(tmp_path: Path) -> None:
    """The diagnosis of the preset `posted` is the wrong sign, with its coefficient."""
    from backends.floor import FloorBackend
    from harness.task import data

    task = Task.preset("posted-gradient-mended", n_steps=30, epochs=6000)
    backend = FloorBackend(task.model, "cpu")
    state = backend.init(data.initial_params(task.model, 0))
    for first in range(0, task.epochs, 500):
        state, _ = backend.train(state, *data.training_chunk(task, 0, first, 500))
    x_TN, _ = data.evaluation_paths(task, 0)
    output_TN = backend.predict(state, x_TN)
    table = pd.DataFrame(
        [
            (path, t, x_TN[t, path], output_TN[t, path])
            for path in range(100)
            for t in range(task.n_steps + 1)
        ],
        columns=["path", "t", "x", "prediction"],
    )
    table.to_csv(tmp_path / "mine.csv", index=False)
    done = invoke("--predictions", tmp_path / "mine.csv", "--format", "json")
    (finding,) = json.loads(done.stdout)
    assert finding["rule"] == "wrong-sign"
    estimate = float(finding["evidence"].split()[3])
    assert estimate == pytest.approx(-0.1, abs=0.01)


def test_as_a_program(cli: Callable[..., Any], tmp_path: Path) -> None:
    """In a process of its own, of a run that was measured in processes of their own."""
    results = ("--results", tmp_path)
    measured = cli(*TINY_RUN, "--backends", "reference", "--dispatch", "inline", "--seeds", 1,
                   "--run-id", "tiny", "--set", "train_sign=-1", *results)  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    done = cli("explain", "tiny", *results)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("FAULT wrong-sign: reference on cpu")


def test_the_snippet_of_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [b for b in docs.blocks(ROOT / "docs" / "diagnosis.md") if b.language == "python"]
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", block.text], check=True)
    done = invoke("--predictions", "predictions.csv", "--format", "json")
    assert [finding["rule"] for finding in json.loads(done.stdout)] == ["wrong-sign"]
