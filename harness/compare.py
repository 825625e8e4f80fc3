"""Two runs of one task compared: what changed from the first to the second.

Times of two runs are two independent samples of blocks (Welch, on the logarithms). Accuracy is
paired by seed, since the data and the initial parameters are the same. A difference counts as "the
same" if it is shown to lie within a margin, even if it is shown not to be zero.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.backend.protocol import Array
from harness.errors import InvalidInput, UnknownName
from harness.inputs.commands import command
from harness.measure.fingerprint import differences, fingerprint
from harness.runs.results import Run
from harness.stats import estimates
from harness.stats.estimates import Estimate
from harness.tables.columns import columns
from harness.tables.metrics import Metric, compared_metrics
from harness.tables.numbers import percent
from harness.tables.pairs import SIGNIFICANT, ArmKey, of_arm, pair
from harness.trial.epoch_time import cut_to
from harness.trial.record import Record

CHANGES = columns(
    "metric backend device across kind a b value low high n_a n_b p p_holm p_same p_same_holm "
    "verdict"
)


class Margins(NamedTuple):
    """Changes within these shares count as none: 0.02 is +-2 %."""

    time: float = 0.02
    """Of times and memory."""
    accuracy: float = 0.10
    """Of errors and of epochs to the lag; of `lag_skill`, which is a share itself, +-0.10."""

    def of(self, metric: Metric) -> float:
        """Return the margin of a metric."""
        return self.accuracy if metric.kind == "accuracy" else self.time


class Comparison(NamedTuple):
    """The changes from one run to another, and what a reader must know to judge them."""

    changes: pd.DataFrame
    notices: list[str]


def compare_runs(
    before: Run,
    after: Run,
    metrics: Sequence[str] = (),
    margins: Margins | None = None,
    across: str | None = None,
) -> Comparison:
    """Return a row for each metric, and each backend and device that is in both runs.

    `metrics` are names of `harness.tables.metrics.METRICS`, by default the default ones that the
    task has. `a` and `b` are the (geometric) means of `n_a` and `n_b` values. `value` is b/a or b-a
    (`kind`), with its 95 % interval `low` to `high`. `p_holm` and `p_same_holm` are the p-values of
    a difference and of equivalence (two one-sided tests), corrected for the number of rows.
    `train_s` and `train_mean_s` are per epoch.

    With `across`, the name of a backend in both runs or "" for the first, times are ratios to that
    backend in the same blocks, which can be compared between unlike machines. Raises `InvalidInput`
    with a sentence for each reason why two runs cannot be compared.
    """
    _refuse_incomparable(before, after)
    chosen = _metrics(before, metrics)
    arms = _common_arms(before, after)
    references = {} if across is None else _references(arms, across)
    if any(metric.kind == "time" for metric in chosen):
        _refuse_times(before, after, arms, across is not None)
    notices = [*_unusable(before, chosen, arms), *_unusable(after, chosen, arms)]
    if any(metric.kind == "time" for metric in chosen):
        notices.append(
            "the two runs were measured one after the other: what differs between sessions on one "
            "machine is not in the intervals of times; to decide, measure both in turn (the gate)."
        )
        notices += _unlike_cuts(before, after)
    found = [
        _change(before, after, metric, arm, references.get(arm))
        for metric in chosen
        for arm in arms
        if metric.kind != "time" or across is None or arm in references
    ]
    return Comparison(_table(found, margins or Margins()), notices)


def _refuse_incomparable(before: Run, after: Run) -> None:
    if os.path.realpath(before.location) == os.path.realpath(after.location):
        raise InvalidInput(f"run `{before.name}` is given twice: name the run to compare it with.")
    fields = zip(before.manifest.plan.task, after.manifest.plan.task, strict=True)
    unlike = [
        f"`{name}` is {a} in `{before.name}` and {b} in `{after.name}`"
        for (name, a), (_, b) in fields
        if a != b
    ]
    problems = [f"the runs have different tasks: {', '.join(unlike)}."] if unlike else []
    problems += [
        f"run `{run.name}` is a sweep: runs are compared that have one task each."
        for run in (before, after)
        if run.swept
    ]
    for run in (before, after):
        if not run.records:
            finish = command("run", "--resume", *run.words)
            problems.append(f"run `{run.name}` has no finished trial: first, `{finish}`.")
        elif not _ok(run):
            problems.append(f"no trial of run `{run.name}` ended ok: nothing to compare.")
    if copies := _copies(before, after):
        problems.append(
            f"runs `{before.name}` and `{after.name}` hold the same measurement: {copies} of "
            f"{len(after.records)} trials are copies. Measure each run anew."
        )
    if problems:
        raise InvalidInput(*problems)


def _copies(before: Run, after: Run) -> int:
    """Return how many trials are in both runs: equal to the bit, with the times of their calls."""
    originals = {record.trial: record for record in before.records if record.chunks}
    return sum(
        record.model_copy(update={"run": originals[record.trial].run}) == originals[record.trial]
        for record in after.records
        if record.trial in originals
    )


def _ok(run: Run) -> list[Record]:
    return [record for record in run.records if record.status == "ok"]


def _metrics(run: Run, names: Sequence[str]) -> list[Metric]:
    known = compared_metrics()
    problems = [UnknownName("metric", name, known) for name in names if name not in known]
    if problems:
        raise InvalidInput(*(problem.problems[0] for problem in problems))
    has_lag = run.manifest.plan.task.lag_weight != 0
    default = [m for m in known.values() if m.default and (has_lag or not m.needs_lag)]
    return [known[name] for name in dict.fromkeys(names)] or default


def _common_arms(before: Run, after: Run) -> list[ArmKey]:
    """Return the arms with records in both runs, in the order of the plan."""
    a, b = ({(record.backend, record.device) for record in run.records} for run in (before, after))
    planned = [(arm.backend, str(arm.device)) for arm in before.manifest.plan.arms]
    common = [arm for arm in planned if arm in a & b]
    if not common:
        arms = " and ".join(
            f"`{run.name}` has " + ", ".join(map(str, run.manifest.plan.arms))
            for run in (before, after)
        )
        raise InvalidInput(f"the runs have no backend on the same device in common: {arms}.")
    return common


def _references(arms: list[ArmKey], across: str) -> dict[ArmKey, ArmKey]:
    """Return the arm that the times of each other arm are divided by, on its device if possible."""
    backends = list(dict.fromkeys(backend for backend, _ in arms))
    if across and across not in backends:
        raise UnknownName("backend", across, backends, " in both runs")
    candidates = {device: (b, device) for b, device in arms if b == (across or backends[0])}
    first = next(iter(candidates.values()))
    references = {
        arm: candidates.get(arm[1], first) for arm in arms if arm not in candidates.values()
    }
    if not references:
        raise InvalidInput(
            f"`--across` takes two backends that are in both runs: only `{backends[0]}` is."
        )
    return references


def _refuse_times(before: Run, after: Run, arms: Sequence[ArmKey], across: bool) -> None:
    problems = [
        f"trials of run `{run.name}` ran beside others (contended): their times are not "
        f"compared; choose another `--metric`, such as final_mse."
        for run in (before, after)
        if any(record.contended for record in _ok(run))
    ]
    problems += [
        f"run `{run.name}` was measured on several kinds of nodes: its times are not averaged."
        for run in (before, after)
        if any(len(kinds) > 1 for kinds in _kinds(run).values())
    ]
    if at_once := list(_unlike_at_once(before, after, arms)):
        problems.append(
            f"runs `{before.name}` (there) and `{after.name}` (here) did not train alike, so their "
            f"times are not compared ({'; '.join(at_once)})."
        )
    unlike = [] if across or problems else list(dict.fromkeys(_unlike(before, after)))
    if unlike:
        problems.append(
            f"the times of runs `{before.name}` (there) and `{after.name}` (here) were "
            f"measured in unlike conditions and are not compared ({'; '.join(unlike)}): with "
            f"`--across`, only ratios to a backend that both have measured are."
        )
    if problems:
        raise InvalidInput(*problems)


def _unlike(before: Run, after: Run) -> Iterator[str]:
    """Yield how the nodes and the settings of two runs differ, device by device."""
    a, b = _kinds(before), _kinds(after)
    for device in sorted(a.keys() & b.keys()):
        for one, other in product(a[device], b[device]):
            yield from differences(dict(one), dict(other))


def _unlike_at_once(before: Run, after: Run, arms: Sequence[ArmKey]) -> Iterator[str]:
    """Yield which backends trained another number of seeds at once in one run than in the other."""
    for backend, device in arms:
        a, b = (
            sorted({r.at_once for r in _ok(run) if (r.backend, r.device) == (backend, device)})
            for run in (before, after)
        )
        if a != b:
            a_text, b_text = (" and ".join(map(str, counts)) for counts in (a, b))
            yield f"{backend} on {device}: seeds at once: {a_text} there, {b_text} here"


def _unlike_cuts(before: Run, after: Run) -> Iterator[str]:
    """Yield that the calls of one run were cut otherwise than those of the other."""
    a, b = (sorted({cut_to(record) or 0 for record in _ok(run)}) for run in (before, after))
    if a != b:
        a_text, b_text = (
            " or ".join(f"cut to {epochs} epochs" if epochs else "whole" for epochs in cuts)
            for cuts in (a, b)
        )
        yield (
            "a call that takes longer than a second is cut: calls of "
            f"`{before.name}` were {a_text}, those of `{after.name}` {b_text}; "
            "in shorter calls, an epoch may take longer."
        )


def _kinds(run: Run) -> dict[str, set[tuple[tuple[str, str], ...]]]:
    """Return the kinds of nodes, with the settings that change times, by device."""
    kinds: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for record in _ok(run):
        kind = fingerprint(record.environment, record.threads)
        kind["pinned to cores"] = str(len(record.cores)) if record.cores else "none"
        kind["timing"] = record.timed
        kinds.setdefault(record.device, set()).add(tuple(kind.items()))
    return kinds


def _unusable(run: Run, metrics: Sequence[Metric], arms: Sequence[ArmKey]) -> Iterator[str]:
    """Yield how many trials lack a value of a metric. Raises `InvalidInput` if all do."""
    mine = pd.concat([of_arm(_trials(run), arm) for arm in arms])
    for metric in metrics:
        missing = int(np.isnan(metric.values(mine)).sum())
        what = "a value above zero" if metric.ratio else "a value"
        if missing == len(mine):
            raise InvalidInput(
                f"`{metric.name}`: no trial of run `{run.name}` has {what} to compare."
            )
        if missing:
            yield (
                f"`{metric.name}`: {missing} of {len(mine)} trials of run `{run.name}` "
                f"lack {what} and are left out."
            )


def _trials(run: Run) -> pd.DataFrame:
    return run.trials[run.trials["status"] == "ok"].sort_values("block")


class _Change(NamedTuple):
    metric: Metric
    arm: ArmKey
    reference: ArmKey | None
    a: Array
    b: Array
    """The values of each run on the compared scale [n], in the order of the blocks."""
    estimate: Estimate
    identical: bool = False


def _change(
    before: Run, after: Run, metric: Metric, arm: ArmKey, reference: ArmKey | None
) -> _Change:
    if metric.kind == "accuracy":
        return _change_of_accuracy(before, after, metric, arm)
    if metric.kind != "time":
        reference = None
    (a, level_a), (b, level_b) = (_level(run, metric, arm, reference) for run in (before, after))
    return _Change(metric, arm, reference, a, b, estimates.welch(level_a, level_b))


def _level(
    run: Run, metric: Metric, arm: ArmKey, reference: ArmKey | None
) -> tuple[Array, Estimate]:
    """Return the values of an arm in a run, or its ratios to a reference, and their mean."""
    pilot = run.manifest.plan.pilot or 0
    if reference:
        ratios = pair(_trials(run), arm, reference, metric)
        return ratios.differences, ratios.estimate(pilot)
    # Seeds that were trained at once are one measurement.
    mine = _values(run, metric, arm).groupby("trial", sort=False)[["block", "value", "grid"]].mean()
    of_pilot = int((mine["block"] < pilot).sum()) if metric.sized else 0
    return mine["value"].to_numpy(dtype=float), _mean(mine, metric, of_pilot)


def _values(run: Run, metric: Metric, arm: ArmKey) -> pd.DataFrame:
    """Return the trials of an arm with a `value` on the compared scale, and its `grid` error."""
    trials = of_arm(_trials(run), arm)
    values = trials.assign(value=metric.values(trials), grid=metric.grid_errors(trials))
    return values.dropna(subset=["value"])


def _mean(values: pd.DataFrame, metric: Metric, pilot: int = 0) -> Estimate:
    grid_error = float(np.sqrt((values["grid"] ** 2).mean()))
    mean = estimates.mean_of_times if metric.kind == "time" else estimates.mean
    return mean(values["value"].to_numpy(dtype=float), pilot, grid_error)


def _change_of_accuracy(before: Run, after: Run, metric: Metric, arm: ArmKey) -> _Change:
    """Pair the runs by seed; without two seeds in common, they are two independent samples.

    They are identical only with the same seeds and the same value for each.
    """
    sides = [
        _values(run, metric, arm)[["seed", "value", "grid", metric.name]] for run in (before, after)
    ]
    both = sides[0].merge(sides[1], on="seed", suffixes=("_a", "_b"))
    all_shared = 0 < len(both) == len(sides[0]) == len(sides[1])
    raw_a, raw_b = both[f"{metric.name}_a"], both[f"{metric.name}_b"]
    identical = all_shared and bool((raw_a == raw_b).all())
    if len(both) > 1:
        a, b = (both[name].to_numpy(dtype=float) for name in ("value_a", "value_b"))
        pairs = both.assign(value=b - a, grid=np.hypot(both["grid_a"], both["grid_b"]))
        estimate = _mean(pairs, metric)
    else:
        a, b = (side["value"].to_numpy(dtype=float) for side in sides)
        estimate = estimates.welch(*(_mean(side, metric) for side in sides))
    return _Change(metric, arm, None, a, b, estimate, identical)


def _table(found: Sequence[_Change], margins: Margins) -> pd.DataFrame:
    """Return a row for each change, with p-values corrected for all of them."""
    # Identical values are not tested: they need no correction, and do not add to that of others.
    different = [np.nan if c.identical else c.estimate.p_different() for c in found]
    same = [
        np.nan if c.identical else c.estimate.p_within(c.metric.margin(margins.of(c.metric)))
        for c in found
    ]
    rows = [
        _row(change)
        | {"p": p, "p_holm": p_holm, "p_same": p_same, "p_same_holm": p_same_holm}
        | {"verdict": _verdict(change, p_holm, p_same_holm, margins.of(change.metric))}
        for change, p, p_holm, p_same, p_same_holm in zip(
            found, different, estimates.holm(different), same, estimates.holm(same), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=list(CHANGES)).astype(CHANGES)


def _row(change: _Change) -> dict[str, Any]:
    metric, estimate = change.metric, change.estimate
    low, high = estimate.interval()
    return {
        "metric": metric.name,
        "backend": change.arm[0],
        "device": change.arm[1],
        "across": change.reference[0] if change.reference else None,
        "kind": metric.compared,
        "a": metric.natural(estimates.mean(change.a).value),
        "b": metric.natural(estimates.mean(change.b).value),
        "value": metric.natural(estimate.value),
        "low": metric.natural(low),
        "high": metric.natural(high),
        "n_a": len(change.a),
        "n_b": len(change.b),
    }


def _verdict(change: _Change, p_holm: float, p_same_holm: float, margin: float) -> str:
    metric = change.metric
    if change.identical:
        return "identical"
    if p_same_holm < SIGNIFICANT:
        return f"same within ±{percent(margin) if metric.ratio else f'{margin:g}'}"
    if p_holm < SIGNIFICANT:
        return metric.word(increase=change.estimate.value > 0)
    if change.estimate.df:
        return "inconclusive"
    unit = "seed" if metric.kind == "accuracy" else "block"
    why = {0: f"no {unit}", 1: f"one {unit}"}.get(change.estimate.n, f"equal {unit}s")
    return f"inconclusive ({why}: no interval)"
