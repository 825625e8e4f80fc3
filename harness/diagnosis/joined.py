"""Observations on the backends of a run, joined to findings."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.diagnosis.types import Evidence, Finding, Findings, Rule, by_severity
from harness.diagnosis.wording import RUN

_NAMED_POINTS, _LISTED = 4, 3


class Observation(NamedTuple):
    """A rule that applies to some backends at a point of a sweep."""

    rule: Rule
    evidence: Evidence
    subjects: tuple[str, ...]
    point: str = ""


def joined(observed: Iterable[Observation], points: int, run: Sequence[str] = ()) -> Findings:
    """Return a finding for each rule, the worst first.

    `points` is how many points the sweep has, `run` the run as the command line takes it.
    """
    groups: dict[Rule, list[Observation]] = defaultdict(list)
    for one in observed:
        groups[one.rule].append(one)
    named = shlex.join(run) or RUN
    found = [_finding(rule, group, points, named) for rule, group in groups.items()]
    return Findings(sorted(found, key=by_severity))


def _finding(rule: Rule, group: Sequence[Observation], points: int, run: str) -> Finding:
    """Say once what is the same for several backends or at several of the points of a sweep."""
    first = max(group, key=lambda one: one.evidence.weight)
    subjects = tuple(dict.fromkeys(subject for one in group for subject in one.subjects))
    where = list(dict.fromkeys(one.point for one in group if one.point))

    def label(one: Observation) -> str:
        who = ", ".join(one.subjects) if len(subjects) > len(one.subjects) else ""
        named = ", ".join(filter(None, (who, one.point if len(where) > 1 else "")))
        return f"{named}: " if named else ""

    text = first.evidence.text
    if len(group) > 1:
        others = [label(one) + one.evidence.brief for one in group if one is not first]
        if len(others) > _LISTED:
            others = [*others[:_LISTED], f"and {len(others) - _LISTED} more"]
        text = f"{label(first)}{text} Likewise {'; '.join(others)}."
    remedy = first.evidence.remedy.replace(RUN, run)
    if len({one.evidence.remedy for one in group}) > 1 and len(where) > 1:
        remedy = f"At {first.point}: {remedy}"
    return Finding(*rule, text, remedy, subjects, _places(where, points))


def _places(where: Sequence[str], points: int) -> str:
    if len(where) == points > 1:
        return f"all {points} points of the sweep"
    more = f" and {len(where) - _NAMED_POINTS} more" if len(where) > _NAMED_POINTS else ""
    return "; ".join(where[:_NAMED_POINTS]) + more
