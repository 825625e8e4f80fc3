"""The regression gate: whether one version trains slower, or learns worse, than another.

Both versions train against each other (`harness.duel`), one fresh pair of processes after another,
until every backend is decided (`harness.contest`) or the budget is spent. With a baseline, what
trains in turns with the version at hand is a yardstick backend instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias

import numpy as np

from harness import machine, registry
from harness.baseline import Baseline, BaselineArm
from harness.checkout import Checkout, checkout, describe_working_tree
from harness.clock import now, timestamp
from harness.contest import Contest
from harness.duel import Duel, Side, SideFailed, fight
from harness.errors import InvalidInput, Unavailable
from harness.experiment import Settings, Site, certify
from harness.fingerprint import differences, fingerprint
from harness.gate_settings import GateSettings
from harness.jobs import TurnsJob
from harness.launch import Tree
from harness.plan import Arm
from harness.task import Task
from harness.verdict import Finding, Verdict
from harness.yardstick import yardsticks

Say: TypeAlias = Callable[[str], None]

_BASELINE_PAIRS = 12
# More would run at the same time as the gate, as a rule.
_QUIET_LOAD = 0.5


def against(reference: str, task: Task, settings: GateSettings, say: Say) -> Verdict:
    """Hold the working tree against a git reference, both measured in turns on this machine.

    Raises `InvalidInput` or `Unavailable` if that cannot be.
    """
    gate = _Gate(task, settings, say)
    modules = ["harness", *map(registry.module_of, settings.backends)]
    with checkout(reference, modules) as versions:
        _check_takes_turns(versions)
        if versions.identical:
            gate.note("The working tree holds exactly what the reference does.")

        def sides(arm: Arm, seed: int) -> tuple[Side, Side]:
            job = gate.job(arm, seed)
            return (
                Side(f"{arm} in {versions.reference_name}", job, versions.reference),
                Side(f"{arm} in {versions.working_name}", job, versions.working, second=True),
            )

        def before(arm: Arm, seed: int, duel: Duel) -> Sequence[float]:
            if not seed:
                gate.note(*_check_sources(arm, duel, versions))
            return duel.first.step_mse

        contests = [gate.contest(arm) for arm in gate.certified_arms()]
        gate.measure(contests, sides, before)
        return gate.verdict(f"{versions.working_name} against {versions.reference_name}", contests)


def baseline(path: Path, task: Task | None, settings: GateSettings, say: Say) -> Verdict:
    """Hold this version against a baseline; without a task, the baseline's own is measured.

    Raises `InvalidInput` or `Unavailable` if that cannot be.
    """
    earlier = Baseline.read(path)
    if task is not None and task != earlier.task:
        raise InvalidInput(f"`{path}` is a baseline of another task; write one of this task.")
    arms = {(arm.backend, arm.device): arm for arm in earlier.arms}
    gate = _Gate(earlier.task, settings, say)
    moved = differences(earlier.fingerprint, fingerprint(machine.describe(), threads=1))
    if moved:
        gate.note(
            f"The baseline is from another machine ({'; '.join(moved)}): only ratios to "
            f"`{earlier.yardstick}` are compared, and a slowdown of up to "
            f"{settings.max_slowdown_across:.0%} is allowed."
        )
        gate.settings = settings.model_copy(
            update={"max_slowdown": settings.max_slowdown_across, "backend": {}}
        )

    def known(arm: Arm) -> BaselineArm:
        return arms[arm.backend, arm.device]

    def before(arm: Arm, seed: int, duel: Duel) -> Sequence[float]:
        absolute[arm].append(duel.second.epoch_s)
        return known(arm).step_mse[seed] if seed < len(known(arm).step_mse) else ()

    absolute: dict[Arm, list[float]] = {arm: [] for arm in gate.arms()}
    missing = [f"`{arm}`" for arm in absolute if (arm.backend, arm.device) not in arms]
    if missing:
        raise InvalidInput(f"the baseline `{path}` does not hold {', '.join(missing)}.")
    contests = [gate.contest(arm, np.array(known(arm).log_ratios)) for arm in gate.certified_arms()]
    gate.measure(contests, lambda arm, seed: gate.yardstick(earlier.yardstick, arm, seed), before)
    for contest in [] if moved else contests:
        gate.note(_absolute(contest.arm, known(contest.arm).epoch_s, absolute[contest.arm]))
    return gate.verdict(f"{describe_working_tree()} against {path} ({earlier.version})", contests)


def write_baseline(path: Path, task: Task, settings: GateSettings, say: Say) -> None:
    """Measure this version and write it down as a baseline.

    Raises `InvalidInput`, `Unavailable` or `SideFailed` if that cannot be, `StoreError` if the file
    cannot be written.
    """
    gate = _Gate(task, settings, say)
    duels: dict[Arm, list[Duel]] = {arm: [] for arm in gate.certified_arms()}
    if gate.findings:
        raise Unavailable("\n".join(f"{f.subject}: {f.reason}" for f in gate.findings))
    for seed in range(_BASELINE_PAIRS):
        for arm in gate.shuffled(list(duels)):
            duels[arm].append(gate.duel(arm, gate.yardstick(settings.yardstick, arm, seed)))
        say(f"{seed + 1} of {_BASELINE_PAIRS} pairs")
    Baseline(
        created_utc=timestamp(),
        version=describe_working_tree(),
        task=gate.task,
        yardstick=settings.yardstick,
        fingerprint=fingerprint(machine.describe(), threads=1),
        arms=tuple(
            BaselineArm(
                backend=arm.backend,
                device=arm.device,
                log_ratios=tuple(duel.log_ratio for duel in fought),
                epoch_s=tuple(duel.second.epoch_s for duel in fought),
                step_mse=tuple(duel.second.step_mse for duel in fought),
            )
            for arm, fought in duels.items()
        ),
    ).write(path)


@dataclass
class _Gate:
    """What all modes of the gate share: arms, parity, rounds of duels, the budget, the notes."""

    task: Task
    settings: GateSettings
    say: Say

    def __post_init__(self) -> None:
        self.findings: list[Finding] = []
        self._notes: list[str] = []
        self._started = now()
        self._rng = random.Random()
        self._sizes: dict[Arm, tuple[int, int]] = {}
        load = machine.load()
        if load is not None and load > _QUIET_LOAD * len(machine.usable_cores()):
            self.note(f"The machine was busy when the gate began (load {load:.1f}).")

    def note(self, *notes: str) -> None:
        """Tell the reader something."""
        self._notes += [note for note in notes if note not in self._notes]

    def arms(self) -> tuple[Arm, ...]:
        """Return what is compared."""
        return self.settings.arms(machine.has_gpu())

    def certified_arms(self) -> list[Arm]:
        """Hold every arm against the reference; one that fails is a finding, and is not timed."""
        self.say("holding the backends against the reference")
        settings = Settings(backends=self.settings.backends, devices=self.settings.devices)
        certified = []
        for certificate in certify(self.task, settings, Site(dispatch="inline")):
            arm = Arm.model_validate(certificate.model_dump(include={"backend", "device"}))
            if certificate.passed:
                certified.append(arm)
                continue
            self.findings.append(
                Finding(
                    subject=f"{arm}",
                    metric="parity",
                    outcome="regression",
                    reason=f"It does not compute what the reference does: {certificate.reason}.",
                )
            )
        return certified

    def contest(self, arm: Arm, earlier: np.ndarray | None = None) -> Contest:
        """Open the contest of an arm."""
        memoryless = float(np.mean(yardsticks(self.task).memoryless))
        return Contest(arm, self.settings, len(self.arms()), memoryless, earlier)

    def job(self, arm: Arm, seed: int) -> TurnsJob:
        """Return what one side of a duel does."""
        return TurnsJob(
            task=self.task,
            backend=arm.backend,
            device=arm.device,
            threads=1,
            exclusive=True,
            seed=seed,
            # Whoever hangs, hangs the gate no longer than it may last.
            timeout_s=self.settings.budget_s,
        )

    def yardstick(self, name: str, arm: Arm, seed: int) -> tuple[Side, Side]:
        """Return the sides of a duel with the yardstick."""
        here, yardstick = Tree.here(), Arm(backend=name, device="cpu")
        return (
            Side(f"the yardstick {yardstick}", self.job(yardstick, seed), here, scored=False),
            Side(f"{arm}", self.job(arm, seed), here, second=True),
        )

    def shuffled(self, arms: Sequence[Arm]) -> list[Arm]:
        """Return the arms in random order."""
        return self._rng.sample(arms, len(arms))

    def duel(self, arm: Arm, sides: tuple[Side, Side]) -> Duel:
        """Fight a duel, with turns as long as in the first one of the arm."""
        duel = fight(*sides, self._rng, self._sizes.get(arm, ()))
        self._sizes[arm] = (duel.first.epochs_per_turn, duel.second.epochs_per_turn)
        return duel

    def measure(
        self,
        contests: Sequence[Contest],
        sides: Callable[[Arm, int], tuple[Side, Side]],
        before: Callable[[Arm, int, Duel], Sequence[float]],
    ) -> None:
        """Fight duels until all is decided or the budget is spent: a round of arms for each seed.

        `before` returns the error per time step of the earlier version.
        """
        of_arm = {contest.arm: contest for contest in contests}
        slowest_s = 0.0
        while undecided := [arm for arm, contest in of_arm.items() if contest.open]:
            for arm in self.shuffled(undecided):
                contest, begun = of_arm[arm], now()
                if begun - self._started + slowest_s > self.settings.budget_s:
                    self.note(f"The budget of {self.settings.budget_s:g} s is spent.")
                    return
                try:
                    duel = self.duel(arm, sides(arm, contest.pairs))
                    contest.add(duel, before(arm, contest.pairs, duel))
                except SideFailed as error:
                    contest.fail(f"{error}", later=error.second)
                slowest_s = max(slowest_s, now() - begun)
                self.say(contest.progress())

    def verdict(self, compared: str, contests: Sequence[Contest]) -> Verdict:
        """Return all that was found."""
        found = [finding for contest in contests for finding in contest.findings()]
        return Verdict(
            compared=compared,
            findings=(*self.findings, *found),
            notes=tuple(self._notes),
            seconds=now() - self._started,
        )


def _check_takes_turns(versions: Checkout) -> None:
    """Refuse a reference whose own harness is too old to train in turns."""
    package = versions.reference_root / "harness"
    if (package / "worker.py").is_file() and not (package / "turns.py").is_file():
        raise InvalidInput(
            f"{versions.reference_name} is from before the gate: its harness cannot train in turns."
        )


def _check_sources(arm: Arm, duel: Duel, versions: Checkout) -> list[str]:
    """Refuse a duel of the working tree with itself; note what is the same code on both sides."""
    notes = []
    for name, here in duel.second.sources.items():
        there = duel.first.sources[name]
        ours = Path(here).is_relative_to(versions.root)
        if ours and not Path(there).is_relative_to(versions.reference_root):
            raise InvalidInput(
                f"{arm}: the working tree's {name} is `{here}`, but in {versions.reference_name} "
                f"it would be `{there}`, which is no part of that."
            )
        if not ours:
            notes.append(f"The {name} of {arm}, `{here}`, is the same in both versions.")
    return notes


def _absolute(arm: Arm, before: Sequence[float], after: Sequence[float]) -> str:
    """Tell the times themselves: they depend on the hour, so nothing is decided by them."""
    then, today = median(before) * 1e3, median(after) * 1e3
    return (
        f"{arm}: {then:.3g} ms an epoch in the baseline, {today:.3g} ms now, on the same kind of "
        f"machine (not judged: this shifts from hour to hour)."
    )
