"""The regression gate: is this version slower, or does it learn worse, than that one?

It lets two versions train against each other (`harness.duel`), one fresh pair of processes after
another, and looks at the pairs so far after 4, 6, 9, ... of them: it stops as soon as it knows,
or when its budget is spent. Looking several times, at several backends, would multiply the chance of
a false alarm; so each look gets its share of it (Bonferroni), and the intervals hold at all looks
together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import TypeAlias

import numpy as np

from harness import machine, registry, stats
from harness.baseline import Baseline, BaselineArm
from harness.checkout import Checkout, checkout
from harness.clock import now
from harness.duel import Duel, Side, SideFailed, fight
from harness.errors import InvalidInput, Unavailable
from harness.experiment import Settings, Site, certify
from harness.gate_settings import GateSettings
from harness.jobs import TurnsJob
from harness.launch import Tree
from harness.plan import Arm
from harness.protocol import Array
from harness.stats import Estimate
from harness.task import Task
from harness.verdict import Finding, Outcome, Verdict, decide, finding
from harness.yardstick import yardsticks

Say: TypeAlias = Callable[[str], None]

LOOKS = (4, 6, 9, 13, 19, 28)
"""After how many pairs the gate looks whether it knows enough."""
_ACCURACY_LOOKS = LOOKS[2:]
"""Where the numbers differ, seeds matter more than single runs, and fewer say little."""
_BASELINE_PAIRS = 12
_CONFIDENCE = 1 - 0.05 / len(LOOKS)
"""Of the interval at one look, so that those of all looks hold in 95 % of all gates."""
# How the false alarms allowed are shared out: identical code learns identically on most machines,
# so accuracy needs little of them.
_TIME_SHARE = 0.8


def against(reference: str, task: Task, settings: GateSettings, say: Say) -> Verdict:
    """Measure the working tree against a git reference, both in turns on this machine.

    Raises `InvalidInput` or `Unavailable` before anything is measured.
    """
    started = now()
    modules = ["harness", *map(registry.module_of, settings.backends)]
    with checkout(reference, modules) as versions:
        _check_speaks(versions)
        contests, findings, notes = _certified(task, settings, say)
        for contest in contests:
            contest.sides = _versions(contest, versions)
            contest.vet = lambda duel: _check_sources(duel, versions)
        if versions.identical:
            notes.append("The working tree holds exactly what the reference does.")
        notes += _measure(contests, settings, started, say)
        return Verdict(
            compared=f"{versions.working_name} against {versions.reference_name}",
            findings=(*findings, *(f for contest in contests for f in contest.findings())),
            notes=tuple(dict.fromkeys(notes)),
            seconds=now() - started,
        )
