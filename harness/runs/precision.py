"""How many blocks a run needs for the precision asked for (Stein's two-stage sample size).

A pilot measures how much the ratios scatter between blocks; that alone decides the number of
blocks, once. A run that stopped as soon as its interval happened to be narrow would miss the truth
more often than the interval says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.runs.seeds import MOST_SEEDS
from harness.tables.numbers import exact_duration, percent
from harness.trial.limits import MOST_TRIALS
from harness.trial.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

PILOT = 8
"""Blocks of a pilot: with 7 degrees of freedom Student's t is 2.36, a fifth above its limit of
1.96. With fewer blocks the spread is so uncertain that more blocks are needed in the end."""

_LEAST_PAIRS = 4
"""If there are several kinds of nodes, one with fewer pairs is left out: its scatter is unknown."""


def extend(seeds: Sequence[int], blocks: int) -> tuple[int, ...]:
    """Return the seeds with as many more as it takes, upwards from the largest."""
    first = max(seeds, default=-1) + 1
    return (*seeds, *range(first, first + blocks - len(seeds)))


def blocks_needed(trials: pd.DataFrame, plan: Plan) -> int:
    """Return how many blocks the plan needs, from the trials of its pilot; at least the pilot's.

    Backends that share fewer than two blocks with the fastest are left out: their scatter is
    unknown. Each kind of node is judged by itself.
    """
    from harness.stats.estimates import stein_size
    from harness.tables.metrics import METRICS
    from harness.tables.pairs import KIND, by_speed, pair, usable

    assert plan.precision is not None
    more, several = [0], trials[KIND].nunique() > 1
    for _, alike in usable(trials, METRICS["train_s"]).groupby(KIND):
        fastest, *others = by_speed(alike) or [("", "")]
        for arm in others:
            sample = pair(alike, arm, fastest, METRICS["train_s"]).differences
            if len(sample) >= (_LEAST_PAIRS if several else 2):
                lacking = stein_size(sample, math.log1p(plan.precision)) - len(sample)
                # Each kind of node is expected to get the same share of the blocks as so far.
                share = alike["block"].nunique() / trials["block"].nunique()
                more.append(math.ceil(lacking / share))
    return len(plan.seeds) + max(more)


def most_blocks(plan: Plan) -> int:
    """Return how many blocks a run with these arms may have."""
    return min(MOST_SEEDS, MOST_TRIALS // len(plan.arms))


def conclusion(plan: Plan, comparisons: pd.DataFrame) -> str:
    """Return a sentence on how well the time ratios are known; empty without `precision`."""
    if plan.precision is None or not plan.settled:
        return ""
    ratios = comparisons[comparisons["metric"] == "train_s"]
    widest = (ratios["high"] / ratios["value"] - 1).max(skipna=False)
    blocks = f"{len(plan.seeds)} block" + "s" * (len(plan.seeds) != 1)
    known = f"the widest interval is ±{percent(widest)}"
    if not widest < math.inf:  # There are no ratios, or one has fewer than two blocks.
        known = "not every ratio has an interval"
    elif widest <= plan.precision * (1 + 1e-9):
        return f"every ratio is known to within ±{percent(plan.precision)} after {blocks}"
    if plan.budget_spent:
        return (
            f"the budget of {exact_duration(plan.budget_s or 0)} is spent after {blocks}: {known}"
        )
    why = (
        "a run may have no more"
        if len(plan.seeds) >= most_blocks(plan)
        else "a trial did not end ok, another backend came out fastest than in the pilot, or the "
        "state of the machine changed"
    )
    return f"{known} after {blocks}, not ±{percent(plan.precision)}: {why}"
