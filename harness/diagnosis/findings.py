"""A run in plain words: what went wrong, what went well, how that is known, and what to do next.

`harness.diagnosis.rules` says what each backend shows at each point of a sweep; here the same is
said once, and joined by what only the run as a whole shows: trials that failed or diverged,
backends that do not agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.diagnosis.rules import Severity, Symptom, symptoms
from harness.diagnosis.trainings import Case
from harness.stats import estimates
from harness.stats.estimates import Estimate
from harness.tables.metrics import METRICS
from harness.tables.summary import ARM, ArmKey, pair
from harness.tables.summary import points as points_of
from harness.trial.events import Certificate
from harness.trial.sweep import SweepPoint

if TYPE_CHECKING:
    from harness.runs.results import Run

_ORDER: tuple[Severity, ...] = ("fault", "warning", "good")
_DIFFER_P, _DIFFER_BY = 0.01, 1.5
_USUAL_RATE = 0.1
_NAMED_POINTS, _BRIEFLY = 4, 3


@dataclass(frozen=True)
class Finding:
    """What a run shows, in words."""

    rule: str
    """Its name in docs/diagnosis.md: "wrong-sign", "not-converged", ..."""
    severity: Severity
    headline: str
    """One plain sentence."""
    evidence: str
    """Sentences with the figures."""
    remedy: str
    """What to do next; "" if nothing."""
    subjects: tuple[str, ...]
    """Whom it concerns: "jax on cpu", ..."""
    where: str
    """At which points of a sweep; "" without one."""


@dataclass(frozen=True)
class _Told:
    """A symptom, and whose it is."""

    symptom: Symptom
    subjects: tuple[str, ...]
    point: str


def findings(run: Run) -> list[Finding]:
    """Return what a run shows, the worst first and what went well last."""
    return diagnose(
        run.trials,
        run.curves,
        run.steps,
        run.manifest.plan.points,
        run.swept,
        run.manifest.parity,
    )


def diagnose(
    trials: pd.DataFrame,
    curves: pd.DataFrame,
    steps: pd.DataFrame,
    points: Sequence[SweepPoint],
    swept: Sequence[str] = (),
    certificates: Iterable[Certificate] = (),
) -> list[Finding]:
    """Return the findings of tables as `harness.tables.from_records` makes them, worst first.

    `points` are those of the sweep over the fields `swept`, with their tasks.
    """
    told = [
        *_uncertified(list(certificates)),
        *_not_ended(trials, swept),
        *_diverged(trials, curves, points, swept),
        *_disagreements(trials, swept),
    ]
    for point, arm, case in cases(trials, curves, steps, points, swept):
        told += [_Told(symptom, (arm,), str(point)) for symptom in symptoms(case)]
    name = str(trials["run"].iloc[0]) if len(trials) else "RUN"
    found = _merged(told, len(points))
    return [replace(one, remedy=one.remedy.replace("RUN", name)) for one in found]


def cases(
    trials: pd.DataFrame,
    curves: pd.DataFrame,
    steps: pd.DataFrame,
    points: Sequence[SweepPoint],
    swept: Sequence[str],
) -> Iterator[tuple[SweepPoint, str, Case]]:
    """Yield each backend at each point of which a trial ended ok."""
    keys = [*swept, *ARM]
    ok = trials[trials["status"] == "ok"]
    asked = trials.groupby(keys, sort=False).size().to_dict()
    tables = [
        dict(iter(table.merge(ok[["trial", "seed"]]).groupby(keys, sort=False)))
        for table in (curves, steps)
    ]
    by_arm = ok.groupby(keys, sort=False)
    for key, there in by_arm:
        if not all(key in table for table in tables):
            continue
        *values, backend, device = key
        point = next(p for p in points if list(p.values.values()) == list(values))
        not_ok = int(asked[key]) - len(there)
        case = _case(point, there, tables[0][key], tables[1][key], not_ok)
        if case is not None:
            yield point, f"{backend} on {device}", case


def _case(
    point: SweepPoint, trials: pd.DataFrame, curves: pd.DataFrame, steps: pd.DataFrame, not_ok: int
) -> Case | None:
    """Lay the rows of some trials side by side; None if there are not as many of each."""
    curves = curves.sort_values(["seed", "epoch"], kind="stable")
    steps = steps.sort_values(["seed", "t"], kind="stable")
    trials = trials.sort_values("seed", kind="stable")
    seeds = trials["seed"]
    even = curves.groupby("seed").size().nunique() == 1
    if not even or len(steps) != len(seeds) * point.task.n_steps:
        return None
    alike = trials["node_kind"].nunique() == 1 and not trials["contended"].any()
    square = {
        name: curves[name].to_numpy(dtype=float).reshape(len(seeds), -1)
        for name in ("epoch", "train_s", "train_loss", "eval_mse")
    }
    return Case(
        task=point.task,
        seeds=tuple(int(seed) for seed in seeds),
        epochs_K=square["epoch"][0],
        seconds_SK=square["train_s"] * trials["at_once"].to_numpy()[:, None] if alike else None,
        loss_SK=square["train_loss"],
        mse_SK=square["eval_mse"],
        step_mse_ST=steps["mse"].to_numpy(dtype=float).reshape(len(seeds), -1),
        not_ok=not_ok,
    )


def _uncertified(certificates: list[Certificate]) -> Iterator[_Told]:
    """Yield the backends that passed parity nowhere."""
    passed = {(c.backend, c.device) for c in certificates if c.passed}
    for one in certificates:
        if (one.backend, one.device) in passed:
            continue
        compared = one.error is None
        yield _Told(
            Symptom(
                "backends-disagree" if compared else "failed",
                "fault",
                "A backend does not compute what the reference computes, so it was not timed."
                if compared
                else "A backend could not be held against the reference, so it was not timed.",
                f"{one.backend} on {one.device}, node {one.node}: {_sentence(one.reason)}",
                f"python -m harness parity --backends {one.backend}",
                f"node {one.node}",
            ),
            (f"{one.backend} on {one.device}",),
            "",
        )


_WHOLE = "Read the whole error: python -m harness show RUN --table trials --format json"
_MISSING = "Run what is missing: python -m harness run --resume RUN"
_LONGER = "Give them longer in a new run, by --timeout: --resume does not repeat what was ended."
_ENDS = {
    "failed": ("fault", "Trials failed.", _WHOLE),
    "timeout": ("fault", "Trials took too long and were ended.", _LONGER),
    "lost": ("warning", "Trials were lost with their node.", _MISSING),
}


def _not_ended(trials: pd.DataFrame, swept: Sequence[str]) -> Iterator[_Told]:
    """Yield the trials that came to no result, those of one backend with one error together."""
    bad = trials[trials["status"].isin(_ENDS)]
    keys = [*ARM, "status", *swept]
    for key, group in bad.groupby(keys, sort=False):
        backend, device, status, *values = key
        severity, headline, remedy = _ENDS[str(status)]
        errors = group["error"].fillna("no error was recorded").value_counts()
        first = str(errors.index[0])
        others = f" ({len(errors) - 1} other errors)" if len(errors) > 1 else ""
        yield _Told(
            Symptom(
                "failed",
                "fault" if severity == "fault" else "warning",
                headline,
                f"{len(group)} of {backend} on {device}, first `{group['trial'].iloc[0]}`: "
                f"{_sentence(first)}{others}",
                remedy,
                f"{len(group)} of them",
                weight=float(len(group)),
            ),
            (f"{backend} on {device}",),
            _at(swept, values),
        )


def _diverged(
    trials: pd.DataFrame, curves: pd.DataFrame, points: Sequence[SweepPoint], swept: Sequence[str]
) -> Iterator[_Told]:
    """Yield the backends whose loss, or error, ceased to be finite."""
    bad = trials[trials["status"] == "diverged"]
    for key, group in bad.groupby([*ARM, *swept], sort=False):
        backend, device, *values = key
        task = next(p for p in points if list(p.values.values()) == values).task
        own = curves.merge(group[["trial", "seed"]])
        finite = own[np.isfinite(own["train_loss"]) & np.isfinite(own["eval_mse"])]
        last = finite.sort_values("epoch").groupby("seed").tail(1)
        ended = own.groupby("seed")["epoch"].max()
        parts = [f"{len(group)} of {_count(trials, key, swept)} seeds diverged."]
        if len(ended):
            parts.append(f"The loss was found not to be finite by epoch {_epochs(ended)}.")
        if len(last):
            row = last.iloc[0]
            parts.append(
                f"Seed {row['seed']} was last seen finite at epoch {row['epoch']}, with loss "
                f"{row['train_loss']:.3g} and error {row['eval_mse']:.3g}."
            )
        yield _Told(
            Symptom(
                "diverged",
                "fault",
                "Training diverged: the loss became infinite or undefined.",
                " ".join(parts),
                f"Lower the learning rate, which is {task.learning_rate:g}: "
                f"--set learning_rate={min(task.learning_rate / 10, _USUAL_RATE):.1g}",
                f"{len(group)} seeds",
                weight=float(len(group)),
            ),
            (f"{backend} on {device}",),
            _at(swept, values),
        )


def _count(trials: pd.DataFrame, key: Sequence[Any], swept: Sequence[str]) -> int:
    return int((trials[[*ARM, *swept]] == list(key)).all(axis=1).sum())


def _epochs(ended: pd.Series[Any]) -> str:
    low, high = int(ended.min()), int(ended.max())
    return str(low) if low == high else f"{low} to {high}"


def _disagreements(trials: pd.DataFrame, swept: Sequence[str]) -> Iterator[_Told]:
    """Yield the backends whose error differs from that of the best, from the same start and data.

    They are compared as `harness.tables.summary.compare_arms` does it, and corrected for all pairs
    at all points: the data that are tested have chosen which is the best.
    """
    pairs = []
    for values, there in points_of(trials[trials["status"] == "ok"], swept):
        errors = METRICS["final_mse"].values(there)
        ranked = there.assign(error=errors).groupby(ARM)["error"].mean().sort_values().index
        for better, worse in combinations(ranked, 2):
            estimate = _ratio(there, worse, better)
            pairs.append((_at(swept, values.values()), worse, better, estimate, ranked[0]))
    corrected = estimates.holm([estimate.p_different() for *_, estimate, _ in pairs])
    for (at, worse, better, estimate, best), p in zip(pairs, corrected, strict=True):
        if better == best and p < _DIFFER_P and estimate.value > np.log(_DIFFER_BY):
            yield _disagreement(at, (worse, better), estimate, p)


def _ratio(trials: pd.DataFrame, arm: ArmKey, other: ArmKey) -> Estimate:
    return pair(trials, arm, other, METRICS["final_mse"]).estimate(0)


def _disagreement(at: str, arms: tuple[ArmKey, ArmKey], estimate: Estimate, p: float) -> _Told:
    (worse, better), ratio = (" on ".join(arm) for arm in arms), np.exp(estimate.value)
    low, high = np.exp(estimate.interval())
    return _Told(
        Symptom(
            "backends-disagree",
            "fault",
            f"{worse} ends with a larger error than {better}, from the same start and data.",
            f"{ratio:.3g} times as large, 95 % interval {low:.3g} to {high:.3g} over {estimate.n} "
            f"seeds, each with the same data and the same start on both (p = {p:.1g}, corrected "
            "for the number of comparisons). Rounding moves single seeds either way, and not all "
            "of them the same.",
            f"python -m harness parity --backends {arms[0][0]},{arms[1][0]} checks 20 steps: what "
            "passes it goes wrong later. Look for what changes with the number of steps: the "
            "state of the optimiser, precision, learning rate.",
            f"{ratio:.3g} times",
            weight=float(ratio),
        ),
        (worse, better),
        at,
    )


def _merged(told: Iterable[_Told], points: int) -> list[Finding]:
    """Say once what is the same for several backends or at several points of a sweep."""
    groups: dict[tuple[str, str, str], list[_Told]] = defaultdict(list)
    for one in told:
        groups[one.symptom.rule, one.symptom.severity, one.symptom.headline].append(one)
    found = [_one(group, points) for group in groups.values()]
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def _one(group: Sequence[_Told], points: int) -> Finding:
    first = max(group, key=lambda one: one.symptom.weight)
    symptom = first.symptom
    subjects = tuple(dict.fromkeys(subject for one in group for subject in one.subjects))
    where = list(dict.fromkeys(one.point for one in group if one.point))

    def label(one: _Told) -> str:
        whose = ", ".join(one.subjects) if len(subjects) > len(one.subjects) else ""
        return ", ".join(filter(None, (whose, one.point if where[1:] else "")))

    evidence = symptom.evidence
    if group[1:]:
        others = [f"{label(o)}: {o.symptom.brief}" for o in group if o is not first]
        more = [f"and {len(others) - _BRIEFLY} more"] if others[_BRIEFLY:] else []
        told = "; ".join([*others[:_BRIEFLY], *more])
        evidence = f"{label(first)}: {evidence} Likewise {told}."
    return Finding(
        symptom.rule,
        symptom.severity,
        symptom.headline,
        evidence,
        symptom.remedy,
        subjects,
        _places(where, points),
    )


def _places(where: Sequence[str], points: int) -> str:
    if len(where) == points > 1:
        return f"all {points} points of the sweep"
    more = f" and {len(where) - _NAMED_POINTS} more" if len(where) > _NAMED_POINTS else ""
    return "; ".join(where[:_NAMED_POINTS]) + more


def _at(swept: Sequence[str], values: Iterable[object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(swept, values, strict=True))


def _sentence(text: str) -> str:
    """Return the last line of an error, as the end of a sentence."""
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else text + "."
