"""The size of a plan: computed, never counted, and bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import InvalidInput, Task
from harness.runs.settings import Settings
from harness.store.manifest import parse_manifest
from harness.trial.arms import Arm
from harness.trial.plan import Plan
from tests.helpers.records import MANIFEST, PLAN

ARMS = [Arm(backend=name, device=device) for name in ("a:B", "c") for device in ("cpu", "gpu")]
SWEPT = {"hidden": (1, 2, 3), "rho": (0.1, -0.5), "cell": ("rnn", "lstm")}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    arms = draw(st.lists(st.sampled_from(ARMS), min_size=1, unique=True))
    names = draw(st.lists(st.sampled_from(sorted(SWEPT)), unique=True))
    return Plan(
        run="r",
        task=Task(),
        arms=tuple(arms),
        seeds=tuple(draw(st.lists(st.integers(0, 99), max_size=12, unique=True))),
        sweep={name: SWEPT[name][: draw(st.integers(1, 3))] for name in names},
        at_once=draw(st.none() | st.integers(1, 13)),
        many=tuple(draw(st.lists(st.sampled_from(arms), unique=True))),
    )


@given(plans())
def test_the_size_is_the_number_of_trials_each_with_its_own_name(plan: Plan) -> None:
    trials = [job.trial for block in plan.blocks() for job in block]
    assert list(plan.trials()) == trials
    assert plan.names == set(trials)
    assert plan.size == len(trials) == len(set(trials))


@given(plans())
def test_the_points_of_blocks_are_those_of_their_names(plan: Plan) -> None:
    for block in plan.blocks():
        for job in block:
            values = {name: getattr(job.task, name) for name in plan.sweep}
            assert job.point == "".join(f"{name}={value}, " for name, value in values.items())


SIX_FIELDS: dict[str, Any] = {
    name: list(range(1, 201))
    for name in ("hidden", "layers", "n_steps", "eval_paths", "batch_size", "curve_points")
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sweep": SIX_FIELDS}, "`sweep` has a billion or more points; at most 100,000"),
        ({"seeds": list(range(1_000_001))}, "seeds: Tuple should have at most 1000000 items"),
        ({"seeds": [1, 1]}, "seeds: Value error, name none of them twice"),
        (
            {"seeds": list(range(101)), "sweep": {"hidden": list(range(1, 10_001))}},
            "the run would have 1,010,000 trials (10,000 points of the sweep, 101 seeds, "
            "1 backends on devices); at most 1,000,000 are possible",
        ),
        ({"sweep": {"hidden": [0]}}, "`hidden` = 0: should be greater than or equal to 1"),
        ({"sweep": {"hidden": [10**1000]}}, "`hidden` = 1000"),
        ({"sweep": {"../x": [1]}}, "`sweep`: unknown name `../x`"),
        ({"sweep": {"hidden": []}}, "`sweep` hidden: name at least one value"),
        (
            {
                "sweep": {name: [value] for name, value in vars(Task()).items()},
                "arms": [{"backend": "b" * 90, "device": "cpu"}],
            },
            "a trial would have a name of",
        ),
        ({"at_once": -5}, "at_once: Input should be greater than or equal to 1"),
    ],
)
def test_a_manifest_whose_plan_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    manifest = MANIFEST.model_dump(mode="json")
    manifest["plan"] |= changes
    with pytest.raises(InvalidInput) as refused:
        parse_manifest("x", _json(manifest))
    assert said in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_run_of_too_many_trials_is_refused_before_its_points_are_made() -> None:
    settings = Settings(
        backends=("torch", "jax"), seeds=100_000, sweep={"hidden": tuple(range(1, 100_001))}
    )
    with pytest.raises(InvalidInput, match="a billion or more trials"):
        settings.plan("r", Task(), has_gpu=False)


def test_a_plan_of_a_million_trials_is_possible() -> None:
    plan = PLAN.model_copy(update={"seeds": tuple(range(1_000_000))})
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again.size == 1_000_000


def _json(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest).encode()
