"""What a run shows: what went wrong, what went well, how that is known, and what to do next.

`harness.diagnosis.rules` looks at each backend at each point of a sweep. Here its observations are
joined with those on the run as a whole: trials that failed or diverged, backends that disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from harness.diagnosis.joined import Observation, joined
from harness.diagnosis.rules import observe
from harness.diagnosis.trainings import by_arm, point_at
from harness.diagnosis.types import Evidence, Findings, Rule
from harness.diagnosis.wording import RUN
from harness.inputs.commands import command
from harness.stats import estimates
from harness.stats.estimates import Estimate
from harness.tables.break_even import break_even, epoch
from harness.tables.metrics import METRICS
from harness.tables.pairs import ARM, ArmKey, pair
from harness.tables.points import points as points_of
from harness.tables.unlike import difference
from harness.trial.events import Certificate
from harness.trial.sweep import SweepPoint

_DIFFER_P, _DIFFER_BY = 0.01, 1.5
_USUAL_RATE = 0.1


def findings(
    trials: pd.DataFrame,
    curves: pd.DataFrame,
    steps: pd.DataFrame,
    points: Sequence[SweepPoint],
    certificates: Iterable[Certificate] = (),
    pilot: int = 0,
    run: Sequence[str] = (),
    lags: pd.DataFrame | None = None,
) -> Findings:
    """Return what a run shows, faults first and what went well last.

    The tables are those of `harness.tables.from_records`, `points` those of the sweep, or the one
    point without a sweep. `pilot` blocks chose the number of blocks. `run` is the run as the
    command line takes it. `lags` is the table of that name, which older runs lack.
    """
    observed = [
        *_uncertified(list(certificates)),
        *_not_ended(trials, points),
        *_diverged(trials, curves, points),
        *_trained_otherwise(trials, points),
        *_disagreements(trials, points),
        *_short_of_break_even(trials, points, pilot),
    ]
    for point, arm, shown in by_arm(trials, curves, steps, points, lags):
        observed += [Observation(*found, (arm,), str(point)) for found in observe(shown)]
    return joined(observed, len(points), run)


_NOT_COMPARED = Rule(
    "failed", "fault", "A backend could not be checked against the reference, so it was not timed."
)
_NOT_THE_SAME = Rule(
    "backends-disagree",
    "fault",
    "A backend does not compute what the reference computes, so it was not timed.",
)


def _uncertified(certificates: list[Certificate]) -> Iterator[Observation]:
    """Yield the backends that passed parity on no node."""
    passed = {(c.backend, c.device) for c in certificates if c.passed}
    for one in certificates:
        if (one.backend, one.device) in passed:
            continue
        arm, node = f"{one.backend} on {one.device}", f"node {one.node}"
        yield Observation(
            _NOT_THE_SAME if one.differs else _NOT_COMPARED,
            Evidence(
                f"{arm}, {node}: {_sentence(one.reason)}",
                f"`{command('parity', '--backends', one.backend)}`",
                node,
            ),
            (arm,),
        )


_NOT_ENDED = {
    "failed": (
        Rule("failed", "fault", "Trials failed."),
        f"Read the whole error: `{command('show', RUN, '--table', 'trials', '--format', 'json')}`",
    ),
    "timeout": (
        Rule("failed", "fault", "Trials took too long and were ended."),
        "Give them longer in a new run, by --timeout: --resume does not repeat what was ended.",
    ),
    "lost": (
        Rule("failed", "warning", "Trials were lost with their node."),
        f"Run what is missing: `{command('run', '--resume', RUN)}`",
    ),
}


def _not_ended(trials: pd.DataFrame, points: Sequence[SweepPoint]) -> Iterator[Observation]:
    """Yield the trials without a result, in one observation if a backend's ended alike."""
    bad = trials[trials["status"].isin(_NOT_ENDED)]
    for key, group in bad.groupby([*ARM, "status", *points[0].values], sort=False):
        backend, device, status, *values = key
        arm, (rule, remedy) = f"{backend} on {device}", _NOT_ENDED[str(status)]
        errors = group["error"].fillna("no error was recorded").value_counts()
        others = f" ({len(errors) - 1} other errors)" if len(errors) > 1 else ""
        text = f"{len(group)} of {arm}, first `{group['trial'].iloc[0]}`: "
        text += _sentence(str(errors.index[0])) + others
        evidence = Evidence(text, remedy, f"{len(group)} of them", len(group))
        yield Observation(rule, evidence, (arm,), str(point_at(points, values)))


_DIVERGED = Rule("diverged", "fault", "Training diverged: the loss became infinite or undefined.")


def _diverged(
    trials: pd.DataFrame, curves: pd.DataFrame, points: Sequence[SweepPoint]
) -> Iterator[Observation]:
    """Yield the backends whose loss, or error, was not finite any more."""
    keys = [*ARM, *points[0].values]
    asked = trials.groupby(keys, sort=False).size().to_dict()
    for key, group in trials[trials["status"] == "diverged"].groupby(keys, sort=False):
        backend, device, *values = key
        point = point_at(points, values)
        rate = point.task.learning_rate
        text = f"{len(group)} of {asked[key]} seeds diverged.{_when(curves, group)}"
        remedy = (
            f"Lower the learning rate, which is {rate:g}: "
            f"--set learning_rate={min(rate / 10, _USUAL_RATE):.1g}"
        )
        alike = trials[(trials[list(point.values)] == values).all(axis=1)] if values else trials
        if other := _did_not_diverge(alike, group):
            remedy = (
                f"Look for the cause in {backend}: from the same starts and data, {other} did not "
                f"diverge. `{command('parity', '--backends', backend)}` checks 20 steps; what "
                f"passes it goes wrong later. {remedy} may only hide it."
            )
        evidence = Evidence(text, remedy, f"{len(group)} seeds", len(group))
        yield Observation(_DIVERGED, evidence, (f"{backend} on {device}",), str(point))


def _did_not_diverge(trials: pd.DataFrame, diverged: pd.DataFrame) -> str:
    """Return a backend in which all of these seeds ended ok ("jax on cpu"); "" if none is."""
    ok = trials[(trials["status"] == "ok") & trials["seed"].isin(diverged["seed"])]
    for (backend, device), group in ok.groupby(ARM, sort=False):
        if group["seed"].nunique() == diverged["seed"].nunique():
            return f"{backend} on {device}"
    return ""


def _when(curves: pd.DataFrame, diverged: pd.DataFrame) -> str:
    """Say when trials diverged, and what the last measurements were, as far as they are known."""
    own, text = curves.merge(diverged[["trial", "seed"]]), ""
    if len(own):
        ended = own.groupby("seed")["epoch"].max()
        low, high = int(ended.min()), int(ended.max())
        epochs = str(low) if low == high else f"{low} to {high}"
        text = f" The loss was found not to be finite by epoch {epochs}."
    finite = own[np.isfinite(own["train_loss"]) & np.isfinite(own["eval_mse"])]
    if len(finite):
        last = finite.sort_values("epoch").groupby("seed").tail(1).iloc[0]
        text += (
            f" Seed {last['seed']} was last seen finite at epoch {last['epoch']}, with loss "
            f"{last['train_loss']:.3g} and error {last['eval_mse']:.3g}."
        )
    return text


_TRAINED_OTHERWISE = Rule(
    "backends-disagree",
    "fault",
    "A backend did not train as others of its block did, so its speed is not stated.",
)


def _trained_otherwise(trials: pd.DataFrame, points: Sequence[SweepPoint]) -> Iterator[Observation]:
    """Yield the backends that `harness.trial.trajectory` found to train something else."""
    for values, group in points_of(trials, list(points[0].values)):
        point = str(point_at(points, list(values.values()))) if values else ""
        for (backend, device), mine in group.groupby(ARM, sort=False):
            unlike = mine[mine["apart_by"].notna()].sort_values("block", kind="stable")
            if unlike.empty:
                continue
            arm, blocks = f"{backend} on {device}", unlike["block"].nunique()
            of = f"{blocks} of {mine['block'].nunique()} blocks"
            yield Observation(
                _TRAINED_OTHERWISE,
                Evidence(
                    f"{difference(arm, unlike.iloc[0])} ({of}).",
                    "Look for what changes with the number of steps or the length of a call: "
                    "steps that are left out, the state of the optimiser, precision.",
                    of,
                    weight=blocks,
                ),
                (arm,),
                point,
            )


def _disagreements(trials: pd.DataFrame, points: Sequence[SweepPoint]) -> Iterator[Observation]:
    """Yield the backends whose error differs from that of the best, from the same start and data.

    They are compared as in `harness.tables.comparisons.compare_arms`, corrected for all pairs
    at all points: the data that are tested have chosen which is the best.
    """
    metric, pairs = METRICS["final_mse"], []
    ok = trials[trials["status"] == "ok"]
    for values, group in points_of(ok, list(points[0].values)):
        point = str(point_at(points, list(values.values()))) if values else ""
        errors = group.assign(error=metric.values(group)).groupby(ARM)["error"].mean()
        ranked = errors.sort_values().index
        for better, worse in combinations(ranked, 2):
            estimate = pair(group, worse, better, metric).estimate(0)
            pairs.append((point, worse, better, estimate, better == ranked[0]))
    corrected = estimates.holm([estimate.p_different() for *_, estimate, _ in pairs])
    for (point, worse, better, estimate, with_best), p in zip(pairs, corrected, strict=True):
        if with_best and p < _DIFFER_P and estimate.value > np.log(_DIFFER_BY):
            yield _disagreement(point, worse, better, estimate, p)


def _disagreement(
    point: str, worse: ArmKey, better: ArmKey, estimate: Estimate, p: float
) -> Observation:
    arms = (" on ".join(worse), " on ".join(better))
    check = command("parity", "--backends", f"{worse[0]},{better[0]}")
    ratio, (low, high) = np.exp(estimate.value), np.exp(estimate.interval())
    return Observation(
        Rule(
            "backends-disagree",
            "fault",
            f"{arms[0]} ends with a larger error than {arms[1]}, from the same start and data.",
        ),
        Evidence(
            f"{ratio:.3g} times as large, 95 % interval {low:.3g} to {high:.3g} over {estimate.n} "
            f"seeds, each with the same data and the same start on both (p = {p:.1g}, corrected "
            "for the number of comparisons). Rounding moves single seeds either way, and not all "
            "of them the same.",
            f"`{check}` checks 20 steps: what passes it goes wrong later. "
            "Look for what changes with the number of steps: the "
            "state of the optimiser, precision, learning rate.",
            f"{ratio:.3g} times",
            weight=float(ratio),
        ),
        arms,
        point,
    )


_BREAK_EVEN = Rule("break-even", "info", "Which backend is faster depends on the number of epochs.")


def _short_of_break_even(
    trials: pd.DataFrame, points: Sequence[SweepPoint], pilot: int
) -> Iterator[Observation]:
    """Yield the backends that train faster, but may not be ahead yet after the run's epochs."""
    swept = list(points[0].values)
    for _, row in break_even(trials, pilot, swept).iterrows():
        point = point_at(points, [row[name] for name in swept])
        epochs = point.task.epochs
        if not row["shown"] or row["at"] < 1 or not epochs < row["high"] < np.inf:
            continue
        arm, against = f"{row['backend']} on {row['device']}", _against(row)
        first = f"{against} is" if epochs < row["low"] else "neither is shown to be"
        evidence = Evidence(
            f"{arm} takes {row['start_s']:.3g} s to start and {1000 * row['epoch_s']:.3g} ms for "
            f"an epoch, {against} {row['against_start_s']:.3g} s and "
            f"{1000 * row['against_epoch_s']:.3g} ms: {row['words']}. After the {epochs} epochs of "
            f"this run, {first} ahead.",
            _choice(row, arm, against),
            row["words"],
            weight=float(row["at"]),
        )
        yield Observation(_BREAK_EVEN, evidence, (arm, against), str(point))


def _against(row: pd.Series[Any]) -> str:
    return f"{row['against_backend']} on {row['against_device']}"


def _choice(row: pd.Series[Any], arm: str, against: str) -> str:
    high, most = epoch(row["high"]), row["low"] - 1
    if most < 1:
        return f"Take {arm} for {high} epochs or more; more --seeds tell from when on."
    up_to = f"Take {against} for up to {epoch(most)} epochs, {arm} for {high} or more"
    return f"{up_to}; more --seeds narrow down the gap."


def _sentence(text: str) -> str:
    """Return an error on one line, as the end of a sentence."""
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else text + "."
