"""What the sequential test concludes from made-up pairs, and at which look."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Task
from harness.gate.paired import Pair, Side, SideResult, measure_pair
from harness.gate.sequential_test import LOOKS, SequentialTest
from harness.gate.settings import GateSettings
from harness.gate.verdict import Judgement
from harness.measure.process import Tree
from harness.trial.arms import Arm
from tests.helpers.records import turns_job

ARM = Arm(backend="torch", device="cpu")


def pair(
    log_ratio: float,
    before: Sequence[float] = (1.0,),
    after: Sequence[float] = (1.0,),
    excess: float = 0.0,
    loss_apart: float = 0.1,
) -> Pair:
    """A pair whose first losses are `loss_apart` if its errors differ."""

    def side(step_mse: Sequence[float]) -> SideResult:
        return SideResult(
            epoch_s=1.0,
            losses=(1.0 + loss_apart * (tuple(step_mse) != tuple(before)),),
            step_mse=tuple(step_mse),
            epochs=100,
            epochs_per_turn=1,
            task={},
            sources={},
            versions={},
        )

    return Pair(log_ratio, log_ratio + excess, side(before), side(after), finished=True)


def new_test(without_lag: float = 0.0, **changes: object) -> SequentialTest:
    return SequentialTest(ARM, GateSettings.model_validate(changes), 1, without_lag)


def decide(test: SequentialTest, pairs: Sequence[Pair]) -> dict[str, Judgement]:
    """Add as many of the pairs as the test asks for."""
    remaining = iter(pairs)
    while test.undecided:
        one = next(remaining)
        test.add(one, one.first.step_mse)
    return {judgement.metric: judgement for judgement in test.judgements()}


def noise(spread: float, size: int = LOOKS[-1]) -> np.ndarray:
    return np.random.default_rng(5).normal(0, spread, size)


def test_identical_code_passes_early() -> None:
    found = decide(new_test(), [pair(x) for x in noise(0.004)])
    assert found["train time"].outcome == "pass"
    assert found["accuracy"].outcome == "pass"
    assert "identical to the bit" in found["accuracy"].reason
    assert found["train time"].n <= 6


def test_a_slowdown_is_found_as_soon_as_it_is_sure() -> None:
    small = decide(new_test(), [pair(0.03 + x) for x in noise(0.01)])["train time"]
    large = decide(new_test(), [pair(0.30 + x) for x in noise(0.01)])["train time"]
    assert small.outcome == large.outcome == "regression"
    assert large.n == LOOKS[0] < small.n
    assert small.low is not None
    assert small.high is not None
    assert 0 < small.low < 0.031 < small.high


def test_progress_and_table_give_one_interval() -> None:
    running = new_test()
    for x in (0.01, 0.03):
        running.add(pair(x), (1.0,))
    time, *_, accuracy = running.judgements()
    assert running.progress() == f"{ARM}: 2 pairs, time {time.shown()}"
    assert accuracy.outcome == "inconclusive"
    assert accuracy.reason.endswith(f" A verdict takes at least {LOOKS[0]} pairs.")


def test_faster_passes() -> None:
    assert decide(new_test(), [pair(-0.2 + x) for x in noise(0.01)])["train time"].outcome == "pass"


def test_a_slowdown_shown_to_be_small_passes() -> None:
    found = decide(new_test(), [pair(0.002 + x) for x in noise(0.0001)])["train time"]
    assert found.outcome == "pass"
    assert found.low is not None
    assert found.low > 0


def test_hopeless_noise_is_inconclusive_in_the_end() -> None:
    found = decide(new_test(), [pair(x) for x in noise(0.5)])["train time"]
    assert (found.outcome, found.n) == ("inconclusive", LOOKS[-1])


def test_nothing_is_concluded_between_looks() -> None:
    running = new_test()
    for x in (0.3, 0.301, 0.299):
        running.add(pair(x), (1.0,))
    assert {f.outcome for f in running.judgements()} == {"inconclusive"}


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_times_that_are_all_equal_show_nothing(value: float) -> None:
    found = decide(new_test(), [pair(value) for _ in LOOKS * 5])["train time"]
    assert (found.outcome, found.low, found.p) == ("inconclusive", None, None)
    against = SequentialTest(ARM, GateSettings(), 1, 0.0, np.full(12, 0.1))
    assert decide(against, [pair(x) for x in noise(0.1)])["train time"].outcome == "inconclusive"


def test_the_number_of_pairs_that_would_decide() -> None:
    def after(log_ratios: Sequence[float]) -> int | None:
        running = new_test()
        for x in log_ratios:
            running.add(pair(x), (1.0,))
        return running.pairs_to_decide

    assert after([]) == after([0.1]) == after(noise(0.1)[:3].tolist()) == LOOKS[0]
    assert after([-0.01, 0.01, -0.01, 0.01]) in LOOKS[1:]
    assert after([-0.5, 0.5, -0.5, 0.5]) is None
    assert after(noise(0.1).tolist()) is None


def test_limits_of_one_backend_are_its_own() -> None:
    slower = [pair(0.05 + x) for x in noise(0.004)]
    assert decide(new_test(), slower)["train time"].outcome == "regression"
    lenient = new_test(backend={"torch": {"max_slowdown": "10%"}})
    assert decide(lenient, slower)["train time"].outcome == "pass"


def test_a_worse_error_is_found_and_a_better_one_passes() -> None:
    rng = np.random.default_rng(1)
    seeds = np.exp(rng.normal(0, 0.3, (LOOKS[-1], 4)))
    wobble = np.exp(rng.normal(0, 0.01, (LOOKS[-1], 4)))
    times = noise(0.004)
    worse = decide(
        new_test(), [pair(x, b, 1.5 * b * w) for x, b, w in zip(times, seeds, wobble, strict=True)]
    )
    assert worse["final_mse"].outcome == "regression"
    assert worse["final_mse"].change == pytest.approx(0.5, abs=0.05)
    better = decide(
        new_test(), [pair(x, b, 0.5 * b * w) for x, b, w in zip(times, seeds, wobble, strict=True)]
    )
    assert {f.outcome for f in better.values()} == {"pass"}


def test_one_time_step_that_got_worse_is_named() -> None:
    rng = np.random.default_rng(2)
    seeds = np.exp(rng.normal(0, 0.3, (LOOKS[-1], 50)))
    after = seeds * np.exp(rng.normal(0, 0.01, seeds.shape))
    after[:, 36] *= 2
    pairs = zip(noise(0.004), seeds, after, strict=True)
    found = decide(new_test(), [pair(x, b, a) for x, b, a in pairs])
    assert found["mse per step"].outcome == "regression"
    assert "t = 37" in found["mse per step"].reason
    assert found["final_mse"].outcome != "regression"


def test_the_lag_is_gated_once_it_was_learned() -> None:
    def run(before: float, after: float) -> dict[str, Judgement]:
        rng = np.random.default_rng(3)
        pairs = zip(noise(0.004), rng.normal(0, 0.001, LOOKS[-1]), strict=True)
        limits = new_test(without_lag=1.0, max_accuracy_loss="900%", max_step_accuracy_loss="900%")
        return decide(limits, [pair(x, [before], [after + w]) for x, w in pairs])

    assert run(before=0.1, after=0.3)["lag_skill"].outcome == "regression"
    assert "0.900 became 0.700" in run(before=0.1, after=0.3)["lag_skill"].reason
    assert run(before=0.1, after=0.11)["lag_skill"].outcome == "pass"
    assert "lag_skill" not in run(before=1.5, after=1.6)


@pytest.mark.parametrize(("later", "outcome"), [(True, "regression"), (False, "inconclusive")])
def test_a_version_that_cannot_train(later: bool, outcome: str) -> None:
    running = new_test()
    running.fail("mine on cpu: killed by SIGKILL.", regression=later)
    assert not running.undecided
    assert [(f.outcome, f.metric) for f in running.judgements()] == [(outcome, "training")]


def test_cost_in_rare_calls_is_found() -> None:
    """As if nine calls of two hundred took twenty times as long."""
    rare = np.log1p(0.86)
    found = decide(new_test(), [pair(0.009 + x, excess=rare - x) for x in noise(0.01)])
    assert found["time in rare calls"].outcome == "regression"
    assert found["time in rare calls"].change == pytest.approx(0.86, rel=0.1)


def test_bursts_that_hit_either_side_are_no_rare_calls() -> None:
    bursts = 0.1 * np.random.default_rng(3).standard_t(3, LOOKS[-1])
    found = decide(
        new_test(), [pair(x, excess=b) for x, b in zip(noise(0.01), bursts, strict=True)]
    )
    assert found["time in rare calls"].outcome == "pass"
    assert found["train time"].outcome == "pass"


def reordered(seeds: int) -> list[Pair]:
    """Pairs whose sums are in another order: one seed in six ends somewhere else, by chance."""
    rng = np.random.default_rng(8)
    ends = [float(np.exp(rng.normal(0, 2 if rng.random() < 1 / 6 else 1e-5))) for _ in range(seeds)]
    times = rng.normal(0, 0.005, seeds)
    return [pair(x, after=(e,), loss_apart=5e-7) for x, e in zip(times, ends, strict=True)]


def test_a_change_that_only_adds_in_another_order_passes() -> None:
    found = decide(new_test(), reordered(LOOKS[-1]))
    assert {judgement.outcome for judgement in found.values()} == {"pass"}
    assert found["final_mse"].change == pytest.approx(0.0, abs=1e-4)


def test_rounding_hides_no_loss_of_all_seeds() -> None:
    worse = [pair(x, after=(1.3,), loss_apart=5e-7) for x in noise(0.004)]
    assert decide(new_test(), worse)["final_mse"].outcome == "regression"


def test_a_baseline_is_judged_by_its_seeds_as_they_are() -> None:
    """Its pairs are of two backends, whose losses always differ by rounding."""
    against = SequentialTest(ARM, GateSettings(), 1, 0.0, noise(0.004, 12))
    worse = 1.3 * np.exp(noise(0.01))
    pairs = [pair(x, after=(e,), loss_apart=5e-7) for x, e in zip(noise(0.004), worse, strict=True)]
    assert decide(against, pairs)["final_mse"].outcome == "regression"


def test_a_baseline_is_a_sample_of_its_own() -> None:
    earlier = 3.0 + noise(0.004, 12)
    against = SequentialTest(ARM, GateSettings(), 1, 0.0, earlier)
    found = decide(against, [pair(3.1 + x) for x in noise(0.004)])
    assert found["train time"].outcome == "regression"
    assert found["train time"].change == pytest.approx(np.expm1(0.1), abs=0.01)


@given(st.lists(st.floats(-0.3, 0.3), min_size=LOOKS[-1], max_size=LOOKS[-1]), st.booleans())
def test_any_pairs_come_to_an_end(log_ratios: list[float], same: bool) -> None:
    after = (1.0,) if same else (1.1,)
    found = decide(new_test(without_lag=2.0), [pair(x, after=after) for x in log_ratios])
    assert {f.outcome for f in found.values()} <= {"pass", "regression", "inconclusive"}


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Also where pairs are much noisier than usual."""
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(400):
        found = decide(new_test(), [pair(x) for x in rng.normal(0, 0.012, LOOKS[-1])])
        alarms += found["train time"].outcome == "regression"
    assert alarms <= 8  # 1 % of them would be 4; 9 or more come up once in 50 times then.


def test_a_faster_version_that_trains_something_else_is_no_pass() -> None:
    pairs = [replace(pair(-0.3 + x, after=(1.01,)), apart=(250, 0.31)) for x in noise(0.01)]
    found = decide(new_test(), pairs)
    assert found["train time"].outcome == "pass"
    assert found["final_mse"].outcome == "pass"
    assert found["same training"].outcome == "inconclusive"
    assert "their losses differ by 31 % at epoch 250, more than rounding" in (
        found["same training"].reason
    )
    one = decide(new_test(), [pairs[0], *(pair(x) for x in noise(0.01))])
    assert "In 1 of" in one["same training"].reason


def test_two_versions_that_train_something_else_are_told_apart() -> None:
    """Real processes: the versions are two backends of one name elsewhere."""
    task = Task(n_steps=4, batch_size=4, epochs=40, curve_points=2, eval_paths=20)

    def side(backend: str) -> Side:
        return Side(backend, turns_job(task, backend=backend), Tree.here())

    found = measure_pair(
        side("reference"), side("tests.helpers.unfaithful:EndsEarly"), random.Random(0), (20, 20)
    )
    assert found.apart
    assert found.apart[0] == 20
