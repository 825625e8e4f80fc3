"""The gate's modes: against another version, against a baseline, and writing a baseline.

`against` trains both versions in turns. With a baseline, this version trains in turns with a
yardstick backend instead, and the ratios are compared with those of the baseline.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from harness.backend import registry
from harness.errors import InvalidInput, Unavailable
from harness.gate.baseline import Baseline, BaselineArm
from harness.gate.checkout import Checkout, checkout, describe_working_tree
from harness.gate.paired import Pair, Side, SideResult
from harness.gate.rounds import GateRun, Say
from harness.gate.settings import GateSettings
from harness.gate.verdict import Verdict
from harness.measure import machine
from harness.measure.clock import timestamp
from harness.measure.fingerprint import differences, fingerprint
from harness.measure.process import Tree
from harness.measure.settings import variables
from harness.measure.stepwise import worker_source
from harness.task.task import Task
from harness.trial.arms import Arm

_BASELINE_PAIRS = 12
# Fields of a task whose defaults a version may choose: how it trains, not what it learns.
_HOW_TO_TRAIN = ("learning_rate", "optimiser", "curve_points")
# Packages that the harness itself loads and that do not change the time of an epoch.
_NOT_TIMED = re.compile("harness|pydantic|annotated.types|typing")


def against(
    reference: str, task: Task, settings: GateSettings, say: Say, outputs: Sequence[Path] = ()
) -> Verdict:
    """Compare the working tree with a git reference, both measured in turns on this machine.

    `outputs` are files that are no part of the working tree's version. Raises `InvalidInput` or
    `Unavailable` if they cannot be compared.
    """
    gate = GateRun(task, settings, say)
    modules = ["harness", *filter(None, map(registry.module_of, settings.backends))]
    with checkout(reference, modules, outputs) as versions:
        _check_takes_turns(versions)
        if versions.identical:
            gate.note("The working tree holds exactly what the reference does.")

        def sides(arm: Arm, seed: int) -> tuple[Side, Side]:
            job = gate.job(arm, seed)
            return (
                Side(f"{arm} in {versions.reference_name}", job, versions.reference),
                Side(f"{arm} in {versions.working_name}", job, versions.working),
            )

        def earlier(arm: Arm, seed: int, pair: Pair) -> Sequence[float]:
            if not seed:
                gate.note(*_check_task(pair, versions), *_check_sources(arm, pair, versions))
            return pair.first.step_mse

        tests = [gate.sequential_test(arm) for arm in gate.certified_arms()]
        for arm in gate.left_out:
            if gate.trains(sides(arm, 0)[0]):
                reason = f"{versions.reference_name} can train on it, {versions.working_name} not."
                gate.find_regression(arm, "training", reason)
        gate.measure_rounds(tests, sides, earlier)
        return gate.verdict(f"{versions.working_name} against {versions.reference_name}", tests)


def baseline(
    path: Path,
    task: Task | None,
    settings: GateSettings,
    say: Say,
    outputs: Sequence[Path] = (),
) -> Verdict:
    """Compare this version with a baseline; `task` None means the task of the baseline.

    `outputs` are files that are no part of this version. Raises `InvalidInput` or `Unavailable` if
    they cannot be compared.
    """
    stored = _read(path, task, settings)
    gate = GateRun(stored.task, settings, say)
    moved = _note_origin(stored, gate)
    known = {Arm(backend=arm.backend, device=arm.device): arm for arm in stored.arms}
    if settings.devices != "auto":
        _check_known(gate.arms(), known, path)
    arms = gate.certified_arms()
    _check_known(arms, known, path)
    for arm in gate.left_out:
        if arm in known:
            gate.find_regression(
                arm, "training", "The baseline holds it, but it cannot train here."
            )
    times_s: dict[Arm, list[float]] = {arm: [] for arm in arms}

    def sides(arm: Arm, seed: int) -> tuple[Side, Side]:
        return _yardstick_and(arm, gate, stored.yardstick, seed)

    def earlier(arm: Arm, seed: int, pair: Pair) -> Sequence[float]:
        _check_yardstick(stored, pair)
        times_s[arm].append(pair.second.epoch_s)
        return known[arm].step_mse[seed] if seed < len(known[arm].step_mse) else ()

    gate.turn_sizes = {arm: known[arm].epochs_per_turn for arm in arms}
    tests = [gate.sequential_test(arm, np.array(known[arm].log_ratios)) for arm in arms]
    gate.measure_rounds(tests, sides, earlier)
    if not moved:
        gate.note(*(_times_note(a, known[a].epoch_s, now) for a, now in times_s.items() if now))
    here = describe_working_tree([path, *outputs])
    return gate.verdict(f"{here} against {path} ({stored.version})", tests)


def write_baseline(path: Path, task: Task, settings: GateSettings, say: Say) -> None:
    """Measure this version and write the baseline.

    Raises `InvalidInput`, `Unavailable` or `SideFailed` if it cannot be measured, `StoreError` if
    the file cannot be written.
    """
    gate = GateRun(task, settings, say)
    pairs: dict[Arm, list[Pair]] = {arm: [] for arm in gate.certified_arms()}
    if gate.judgements:
        raise Unavailable("\n".join(f"{j.subject}: {j.reason}" for j in gate.judgements))
    for seed in range(_BASELINE_PAIRS):
        for arm in gate.rng.sample(list(pairs), len(pairs)):
            sides = _yardstick_and(arm, gate, settings.yardstick, seed)
            pairs[arm].append(gate.measure_pair(arm, sides))
        say(f"{seed + 1} of {_BASELINE_PAIRS} pairs")
    for note in gate.notes:
        say(f"note: {note}")
    yardstick = next(iter(pairs.values()))[0].first
    Baseline(
        created_utc=timestamp(),
        version=describe_working_tree([path]),
        task=gate.task,
        yardstick=settings.yardstick,
        yardstick_version=_yardstick_version(settings.yardstick, yardstick),
        fingerprint=_machine(),
        arms=tuple(
            BaselineArm(
                backend=arm.backend,
                device=arm.device,
                log_ratios=tuple(pair.log_ratio for pair in measured),
                epoch_s=tuple(pair.second.epoch_s for pair in measured),
                step_mse=tuple(pair.second.step_mse for pair in measured),
                epochs_per_turn=gate.turn_sizes[arm],
            )
            for arm, measured in pairs.items()
        ),
    ).write(path)


def _read(path: Path, task: Task | None, settings: GateSettings) -> Baseline:
    """Read a baseline. Refuse another task, and a yardstick that only the file names."""
    stored = Baseline.read(path)
    if task is not None and task != stored.task:
        raise InvalidInput(f"`{path}` is a baseline of another task; write one of this task.")
    # A file from elsewhere does not choose what is imported or started.
    if stored.yardstick != settings.yardstick:
        raise InvalidInput(
            f"the yardstick of `{path}` is {stored.yardstick!r}, and yours is "
            f"{settings.yardstick!r}. A file does not choose what is run: set `yardstick` in "
            "[tool.harness.gate] of `pyproject.toml`."
        )
    return stored


def _note_origin(stored: Baseline, gate: GateRun) -> list[str]:
    """Note where the baseline is from; return how that differs from this machine.

    If it does, larger slowdowns are allowed.
    """
    moved = differences(stored.fingerprint, _machine())
    if moved:
        gate.note(
            f"The baseline is from another machine ({'; '.join(moved)}): a slowdown of up to "
            f"{100 * gate.settings.max_slowdown_across:g} % against `{stored.yardstick}` is "
            "allowed."
        )
        gate.settings = _for_another_machine(gate.settings)
    else:
        gate.note(
            "The baseline is from another session: how its ratios shift from one session to the "
            "next is not in the intervals. To be sure of a small change, use `--against`."
        )
    return moved


def _yardstick_and(arm: Arm, gate: GateRun, yardstick: str, seed: int) -> tuple[Side, Side]:
    """Return the sides of a pair of the yardstick and an arm, both in this version."""
    here, other = Tree.here(), Arm(backend=yardstick, device="cpu")
    return (
        Side(f"the yardstick {other}", gate.job(other, seed), here, scored=False),
        Side(f"{arm}", gate.job(arm, seed), here),
    )


def _check_takes_turns(versions: Checkout) -> None:
    """Refuse a reference whose own harness is too old to train in turns."""
    worker = versions.reference_root / "harness" / "worker.py"
    # The worker names every kind of job, wherever the module is that does it.
    if worker.is_file() and b'"turns"' not in worker.read_bytes():
        raise InvalidInput(
            f"{versions.reference_name} is from before the gate: its harness cannot train in turns."
        )


def _check_task(pair: Pair, versions: Checkout) -> list[str]:
    """Refuse versions with different default tasks; return a note per default that may differ."""
    # The default of a field that is new means what versions without it do.
    there, here = Task().model_dump(mode="json") | dict(pair.first.task), pair.second.task
    unlike = {
        name: f"{there[name]} there, {here.get(name, 'none')} here"
        for name in there
        if there[name] != here.get(name)
    }
    work = [f"`{name}` ({how})" for name, how in unlike.items() if name not in _HOW_TO_TRAIN]
    if work:
        raise InvalidInput(
            f"{versions.reference_name} has another task by default: {', '.join(work)}; give what "
            "both are to train on with `--set NAME=VALUE`."
        )
    return [f"By default, `{name}` is {how}." for name, how in unlike.items()]


def _check_sources(arm: Arm, pair: Pair, versions: Checkout) -> list[str]:
    """Refuse a reference that imports from the working tree; note code that both sides share."""

    def in_working_tree(file: str) -> bool:
        # Some modules have made-up names for files, which lie nowhere.
        path = Path(file).resolve() if Path(file).is_absolute() else Path()
        inside = path.is_relative_to(versions.root)
        return inside and not path.is_relative_to(versions.reference_root)

    strayed = [file for file in pair.first.sources.values() if in_working_tree(file)]
    if strayed:
        raise InvalidInput(
            f"{arm}: {versions.reference_name} would use `{strayed[0]}` of the working tree; put "
            "the folder it is imported from on PYTHONPATH, or name it in a command by its path "
            "inside the project."
        )
    parts = {}
    if (versions.root / "harness" / "worker.py").is_file():
        # Who changes the harness must know if another one is measured.
        parts["harness"] = "The harness"
    code, worker = registry.module_of(arm.backend), worker_source(arm.backend)
    if code is None or worker in pair.second.sources:
        code = worker
    parts[code] = f"The code of {arm}"
    files = {name: pair.second.sources.get(name) for name in parts}
    return [
        f"{parts[name]} is the same in both versions: `{file or 'an installed package'}`."
        for name, file in files.items()
        if file is None or not in_working_tree(file)
    ]


def _check_known(arms: Sequence[Arm], known: Mapping[Arm, BaselineArm], path: Path) -> None:
    """Refuse arms that a baseline does not hold."""
    if missing := [f"`{arm}`" for arm in arms if arm not in known]:
        raise InvalidInput(f"the baseline `{path}` does not hold {', '.join(missing)}.")


def _check_yardstick(stored: Baseline, pair: Pair) -> None:
    """Refuse a baseline whose yardstick has changed since."""
    version = _yardstick_version(stored.yardstick, pair.first)
    if unlike := differences(stored.yardstick_version, version):
        raise InvalidInput(
            f"the yardstick `{stored.yardstick}` is not what it was when the baseline was written "
            f"({'; '.join(unlike)}): write a new one with `gate --write-baseline`."
        )


def _yardstick_version(name: str, result: SideResult) -> dict[str, str]:
    """Return what the yardstick's times depend on, other than the machine."""
    module = registry.module_of(name)
    spec = find_spec(module) if module else None
    file = result.sources.get(worker_source(name)) or (spec and spec.origin)
    code = Path(file).read_bytes() if file else b""
    packages = {
        package: version
        for package, version in result.versions.items()
        if not _NOT_TIMED.match(package)
    }
    return {"code": hashlib.sha256(code).hexdigest()[:12], **packages}


def _machine() -> dict[str, str]:
    gpu = machine.describe_gpu() if machine.has_gpu() else {}
    return fingerprint(machine.describe() | gpu | variables(os.environ), threads=1)


def _for_another_machine(settings: GateSettings) -> GateSettings:
    """Return the settings with `max_slowdown_across` in place of every `max_slowdown`."""
    overrides = {
        name: override.model_copy(update={"max_slowdown": None})
        for name, override in settings.backend.items()
    }
    return settings.model_copy(
        update={"max_slowdown": settings.max_slowdown_across, "backend": overrides}
    )


def _times_note(arm: Arm, before: Sequence[float], now: Sequence[float]) -> str:
    return (
        f"{arm}: {1e3 * median(before):.3g} ms an epoch in the baseline, {1e3 * median(now):.3g} "
        "ms now, on the same kind of machine (not judged: this shifts from hour to hour)."
    )
