"""The regression gate: whether one version trains slower, or learns worse, than another.

Both versions train against each other (`harness.gate.rounds`). With a baseline, what trains in
turns with the version at hand is a yardstick backend instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from harness.backend import registry
from harness.errors import InvalidInput, Unavailable
from harness.gate.baseline import Baseline, BaselineArm
from harness.gate.checkout import Checkout, checkout, describe_working_tree
from harness.gate.paired import Duel, Outcome, Side
from harness.gate.rounds import Say, Tournament
from harness.gate.settings import GateSettings
from harness.gate.verdict import Verdict
from harness.measure import machine
from harness.measure.clock import timestamp
from harness.measure.fingerprint import differences, fingerprint
from harness.task.task import Task
from harness.trial.arms import Arm

_BASELINE_PAIRS = 12
# What a task does not ask for and a version of the code may choose.
_HOW_TO_TRAIN = ("learning_rate", "optimiser", "curve_points")
# Loaded by the harness itself, and of no effect on how long an epoch takes.
_NOT_TIMED = re.compile("harness|pydantic|annotated.types|typing")


def against(reference: str, task: Task, settings: GateSettings, say: Say) -> Verdict:
    """Hold the working tree against a git reference, both measured in turns on this machine.

    Raises `InvalidInput` or `Unavailable` if that cannot be.
    """
    gate = Tournament(task, settings, say)
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
                gate.note(*_check_task(duel, versions), *_check_sources(arm, duel, versions))
            return duel.first.step_mse

        contests = [gate.contest(arm) for arm in gate.certified_arms()]
        for arm in gate.left_out:
            if gate.trains(sides(arm, 0)[0]):
                reason = f"{versions.reference_name} can train on it, {versions.working_name} not."
                gate.find(arm, "training", reason)
        gate.measure(contests, sides, before)
        return gate.verdict(f"{versions.working_name} against {versions.reference_name}", contests)


def baseline(path: Path, task: Task | None, settings: GateSettings, say: Say) -> Verdict:
    """Hold this version against a baseline; without a task, the baseline's own is measured.

    Raises `InvalidInput` or `Unavailable` if that cannot be.
    """
    earlier = Baseline.read(path)
    if task is not None and task != earlier.task:
        raise InvalidInput(f"`{path}` is a baseline of another task; write one of this task.")
    gate = Tournament(earlier.task, settings, say)
    moved = differences(earlier.fingerprint, _machine())
    if moved:
        gate.settings = _for_another_machine(settings)
        gate.note(
            f"The baseline is from another machine ({'; '.join(moved)}): a slowdown of up to "
            f"{100 * settings.max_slowdown_across:g} % against `{earlier.yardstick}` is allowed."
        )
    else:
        gate.note(
            "The baseline is from another session: how its ratios shift from one session to the "
            "next is not in the intervals. To be sure of a small change, use `--against`."
        )
    known = {Arm(backend=arm.backend, device=arm.device): arm for arm in earlier.arms}
    missing = [f"`{arm}`" for arm in gate.arms() if arm not in known]
    if missing and settings.devices != "auto":
        raise InvalidInput(f"the baseline `{path}` does not hold {', '.join(missing)}.")
    arms = gate.certified_arms()
    missing = [f"`{arm}`" for arm in arms if arm not in known]
    if missing:
        raise InvalidInput(f"the baseline `{path}` does not hold {', '.join(missing)}.")
    for arm in gate.left_out:
        if arm in known:
            gate.find(arm, "training", "The baseline holds it, but it cannot train here.")
    absolute: dict[Arm, list[float]] = {arm: [] for arm in arms}

    def sides(arm: Arm, seed: int) -> tuple[Side, Side]:
        return gate.against_yardstick(earlier.yardstick, arm, seed)

    def before(arm: Arm, seed: int, duel: Duel) -> Sequence[float]:
        _check_yardstick(earlier, duel)
        absolute[arm].append(duel.second.epoch_s)
        return known[arm].step_mse[seed] if seed < len(known[arm].step_mse) else ()

    gate.sizes = {arm: known[arm].epochs_per_turn for arm in arms}
    contests = [gate.contest(arm, np.array(known[arm].log_ratios)) for arm in arms]
    gate.measure(contests, sides, before)
    if not moved:
        gate.note(
            *(_absolute(a, known[a].epoch_s, times) for a, times in absolute.items() if times)
        )
    return gate.verdict(f"{describe_working_tree()} against {path} ({earlier.version})", contests)


def write_baseline(path: Path, task: Task, settings: GateSettings, say: Say) -> None:
    """Measure this version and write it down as a baseline.

    Raises `InvalidInput`, `Unavailable` or `SideFailed` if that cannot be, `StoreError` if the file
    cannot be written.
    """
    gate = Tournament(task, settings, say)
    duels: dict[Arm, list[Duel]] = {arm: [] for arm in gate.certified_arms()}
    if gate.findings:
        raise Unavailable("\n".join(f"{f.subject}: {f.reason}" for f in gate.findings))
    for seed in range(_BASELINE_PAIRS):
        for arm in gate.shuffled(list(duels)):
            sides = gate.against_yardstick(settings.yardstick, arm, seed)
            duels[arm].append(gate.duel(arm, sides))
        say(f"{seed + 1} of {_BASELINE_PAIRS} pairs")
    for note in gate.notes:
        say(f"note: {note}")
    first = next(iter(duels.values()))[0].first
    Baseline(
        created_utc=timestamp(),
        version=describe_working_tree(),
        task=gate.task,
        yardstick=settings.yardstick,
        yardstick_version=_yardstick_version(settings.yardstick, first),
        fingerprint=_machine(),
        arms=tuple(
            BaselineArm(
                backend=arm.backend,
                device=arm.device,
                log_ratios=tuple(duel.log_ratio for duel in fought),
                epoch_s=tuple(duel.second.epoch_s for duel in fought),
                step_mse=tuple(duel.second.step_mse for duel in fought),
                epochs_per_turn=gate.sizes[arm],
            )
            for arm, fought in duels.items()
        ),
    ).write(path)


def _check_takes_turns(versions: Checkout) -> None:
    """Refuse a reference whose own harness is too old to train in turns."""
    worker = versions.reference_root / "harness" / "worker.py"
    # The kind of job; where the module is that serves it may change between versions.
    if worker.is_file() and '"turns"' not in worker.read_text():
        raise InvalidInput(
            f"{versions.reference_name} is from before the gate: its harness cannot train in turns."
        )


def _check_task(duel: Duel, versions: Checkout) -> list[str]:
    """Refuse sides with different tasks by default; how they train is for them to say."""
    there, here = duel.first.task, duel.second.task
    unlike = {
        name: f"{there.get(name, 'none')} there, {here.get(name, 'none')} here"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
    }
    work = [f"`{name}` ({how})" for name, how in unlike.items() if name not in _HOW_TO_TRAIN]
    if work:
        raise InvalidInput(
            f"{versions.reference_name} has another task by default: {', '.join(work)}; give what "
            "both are to train on with `--set NAME=VALUE`."
        )
    return [f"By default, `{name}` is {how}." for name, how in unlike.items()]


def _check_sources(arm: Arm, duel: Duel, versions: Checkout) -> list[str]:
    """Refuse a duel of the working tree with itself; note what is the same code on both sides."""

    def is_ours(file: str) -> bool:
        # Some modules have made-up names for files; those are nowhere.
        path = Path(file).resolve() if Path(file).is_absolute() else Path()
        inside = path.is_relative_to(versions.root)
        return inside and not path.is_relative_to(versions.reference_root)

    strayed = [file for file in duel.first.sources.values() if is_ours(file)]
    if strayed:
        raise InvalidInput(
            f"{arm}: {versions.reference_name} would import `{strayed[0]}` of the working tree; "
            "put the folder it is imported from on PYTHONPATH."
        )
    parts = {"harness": "The harness", registry.module_of(arm.backend): f"The code of {arm}"}
    files = {name: duel.second.sources.get(name) for name in parts}
    return [
        f"{parts[name]} is the same in both versions: `{file or 'an installed package'}`."
        for name, file in files.items()
        if file is None or not is_ours(file)
    ]


def _check_yardstick(earlier: Baseline, duel: Duel) -> None:
    unlike = differences(
        earlier.yardstick_version, _yardstick_version(earlier.yardstick, duel.first)
    )
    if unlike:
        raise InvalidInput(
            f"the yardstick `{earlier.yardstick}` is not what it was when the baseline was written "
            f"({'; '.join(unlike)}): write a new one with `gate --write-baseline`."
        )


def _yardstick_version(name: str, outcome: Outcome) -> dict[str, str]:
    """Return what the yardstick's times depend on beside the machine."""
    file = find_spec(registry.module_of(name))
    code = Path(file.origin).read_bytes() if file and file.origin else b""
    packages = {
        package: version
        for package, version in outcome.versions.items()
        if not _NOT_TIMED.match(package)
    }
    return {"code": hashlib.sha256(code).hexdigest()[:12], **packages}


def _machine() -> dict[str, str]:
    gpu = machine.describe_gpu() if machine.has_gpu() else {}
    return fingerprint(machine.describe() | gpu, threads=1)


def _for_another_machine(settings: GateSettings) -> GateSettings:
    """Return the settings with the slowdown allowed that holds between unlike machines."""
    lenient = {"max_slowdown": settings.max_slowdown_across}
    overrides = {
        name: override.model_copy(update={"max_slowdown": None})
        for name, override in settings.backend.items()
    }
    return settings.model_copy(update=lenient | {"backend": overrides})


def _absolute(arm: Arm, before: Sequence[float], after: Sequence[float]) -> str:
    """Tell the times themselves: they depend on the hour, so nothing is decided by them."""
    then, today = median(before) * 1e3, median(after) * 1e3
    return (
        f"{arm}: {then:.3g} ms an epoch in the baseline, {today:.3g} ms now, on the same kind of "
        f"machine (not judged: this shifts from hour to hour)."
    )
