"""How often the gate errs: real gates with planted changes, and thousands of simulated ones.

    python -m benchmarks.calibrate_gate measure LOG [identical=40 2%=20 ...]   # hours
    python -m benchmarks.calibrate_gate report LOG > docs/calibration.md       # two minutes

`measure` makes a git repository with a backend of its own in it, commits it, plants a change in the
working tree and runs `python -m harness gate --against HEAD` there, in a process of its own; the
kinds of change come in random order. Every gate is a line of LOG, and what is there already is not
measured again. `report` simulates thousands of gates through the same rules and writes the page.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from benchmarks.repeat import busy_loop
from harness.gate.paired import Pair, SideResult
from harness.gate.sequential_test import SequentialTest
from harness.gate.settings import GateSettings
from harness.gate.verdict import WORST_FIRST, Outcome
from harness.measure import machine
from harness.measure.clock import now
from harness.trial.arms import Arm

GATES = {
    "identical": 40,
    "1%": 10,
    "2%": 20,
    "3%": 10,
    "5%": 20,
    "5%, a busy loop": 10,
    "10%": 10,
    "learning rate": 5,
    "time step": 5,
    "late learning rate": 5,
}

MOST_PAIRS = 13
"""How many pairs of each of two backends fit into the default budget, on two quiet cores."""

# What is committed trains as the backend it wraps; the constant is what a change edits.
SLOWED = '''"""A backend that can be slowed down."""
from harness.measure.clock import now
from backends.{name}_backend import {wrapped} as Wrapped

SLOWDOWN = 0.0


class Changed(Wrapped):
    def train(self, state, x_ETB, y_ETB):
        start = now()
        result = super().train(state, x_ETB, y_ETB)
        end = now() + SLOWDOWN * (now() - start)
        while now() < end:
            pass
        return result
'''
WORSE = '''"""A backend that can be made to learn worse."""
import torch
from backends.torch_backend import TorchBackend

LEARNING_RATE, STEP, LATE = 1.0, None, 0


class Changed(TorchBackend):
    def train(self, state, x_ETB, y_ETB):
        for epoch in range(len(x_ETB)):
            state.epochs = getattr(state, "epochs", -1) + 1
            late = state.epochs >= LATE
            for group in state.optimiser.param_groups:
                group["lr"] = self.model.learning_rate * (LEARNING_RATE if late else 1.0)
            targets = y_ETB[epoch : epoch + 1].copy()
            if STEP is not None and late:
                # The output is its own target there: no error, no gradient.
                with torch.no_grad():
                    outputs = state.network(torch.from_numpy(x_ETB[epoch]))
                targets[0, STEP - 1] = outputs[STEP].numpy()
            state, loss = super().train(state, x_ETB[epoch : epoch + 1], targets)
            losses = loss if epoch == 0 else [*losses, *loss]
        return state, torch.tensor(losses).numpy()
'''
_WRAPPED = {"jax": "JaxBackend", "torch": "TorchBackend"}


def planted(kind: str, wrapped: str) -> tuple[str, str]:
    """Return the backend's file before and after the change."""
    if kind == "learning rate":
        return WORSE, WORSE.replace(
            "LEARNING_RATE, STEP, LATE = 1.0", "LEARNING_RATE, STEP, LATE = 0.5"
        )
    if kind == "time step":
        return WORSE, WORSE.replace("1.0, None, 0", "1.0, 50, 0")
    if kind == "late learning rate":
        # Later than the parity check looks, so that only the trainings can show it.
        return WORSE, WORSE.replace("1.0, None, 0", "0.5, None, 60")
    before = SLOWED.format(name=wrapped, wrapped=_WRAPPED[wrapped])
    return before, before.replace("SLOWDOWN = 0.0", f"SLOWDOWN = {slowdown(kind)}  # planted")


def slowdown(kind: str) -> float | None:
    """Return how much longer the changed backend takes; None if its training is worse instead."""
    if kind == "identical":
        return 0.0
    percent, is_slower, _ = kind.partition("%")
    return float(percent) / 100 if is_slower else None


def run_gate(kind: str, wrapped: str) -> dict[str, Any]:
    """Run a gate on both frameworks, with a change planted in one; return what it said."""
    before, after = planted(kind, wrapped)
    (other,) = _WRAPPED.keys() - {wrapped}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.py"
        file.write_text(before)
        unchanged = SLOWED.format(name=other, wrapped=_WRAPPED[other])
        (Path(folder) / "other.py").write_text(unchanged)
        (Path(folder) / ".gitignore").write_text("verdict.json\n__pycache__\n")
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "before"]):
            subprocess.run([*git, *command], cwd=folder, check=True)
        file.write_text(after)
        backends = ["--backends", "mine:Changed,other:Changed", "--devices", "cpu"]
        gate = ["gate", "--against", "HEAD", *backends]
        with busy_loop() if kind.endswith("busy loop") else nullcontext():
            begun = now()
            done = subprocess.run(
                [sys.executable, "-m", "harness", *gate, "--json", "verdict.json"],
                cwd=folder,
                capture_output=True,
                text=True,
            )
            seconds = now() - begun
        if done.returncode not in {0, 1, 3}:
            raise SystemExit(done.stderr)
        verdict = json.loads((Path(folder) / "verdict.json").read_text())
    return {
        "kind": kind,
        "backend": wrapped,
        "outcome": verdict["outcome"],
        "seconds": round(seconds, 1),
        "load": machine.load(),
        "findings": [
            {k: f[k] for k in ("subject", "metric", "outcome", "change", "low", "high", "n")}
            for f in verdict["findings"]
        ],
    }


def measure(log: Path, gates: dict[str, int]) -> None:
    """Run the gates that the log still lacks, in random order."""
    done = Counter(gate["kind"] for gate in read(log)) if log.exists() else Counter()
    todo = [(kind, i) for kind, count in gates.items() for i in range(done[kind], count)]
    random.shuffle(todo)
    for number, (kind, i) in enumerate(todo, start=1):
        gate = run_gate(kind, ("jax", "torch")[i % 2])
        with log.open("a") as file:
            file.write(json.dumps(gate) + "\n")
        print(
            f"{number}/{len(todo)} {kind} {gate['backend']}: {gate['outcome']} {gate['seconds']} s",
            flush=True,
        )


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def proportion(hits: int, of: int) -> str:
    """Return a share with its exact 95 % interval (Clopper and Pearson)."""
    if not of:
        return "-"
    interval = binomtest(hits, of).proportion_ci(0.95, method="exact")
    digits = 1 if of < 1000 else 2
    low, high = (f"{100 * bound:.{digits}f}" for bound in interval)
    return f"{100 * hits / of:.{digits}f} % [{low}, {high}]"


def found(gate: dict[str, Any]) -> bool:
    """Whether the gate found a regression: in the changed backend, or on identical code in any."""
    regressions = [f["subject"] for f in gate["findings"] if f["outcome"] == "regression"]
    return any(gate["kind"] == "identical" or name.startswith("mine") for name in regressions)


def measured_table(gates: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| change | gates | found | inconclusive | seconds, median (largest) | pairs, median |"
    yield "|---|---|---|---|---|---|"
    for kind in GATES:
        of_kind = [gate for gate in gates if gate["kind"] == kind]
        if not of_kind:
            continue
        outcomes = Counter(gate["outcome"] for gate in of_kind)
        outcomes["regression"] = sum(map(found, of_kind))
        seconds = [gate["seconds"] for gate in of_kind]
        pairs = [max(f["n"] for f in gate["findings"]) for gate in of_kind]
        yield (
            f"| {kind} | {len(of_kind)} | {proportion(outcomes['regression'], len(of_kind))} | "
            f"{outcomes['inconclusive']} | {np.median(seconds):.0f} ({max(seconds):.0f}) | "
            f"{np.median(pairs):.0f} |"
        )


def by_what(gates: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| change | found by |"
    yield "|---|---|"
    for kind in ("learning rate", "time step", "late learning rate"):
        metrics = Counter(
            f["metric"]
            for gate in gates
            if gate["kind"] == kind
            for f in gate["findings"]
            if f["outcome"] == "regression"
        )
        words = ", ".join(f"{metric} ({count})" for metric, count in metrics.items())
        yield f"| {kind} | {words or 'nothing'} |"


def coverage(gates: Sequence[dict[str, Any]]) -> str:
    """Return how often the interval of a real gate holds the slowdown that was planted."""
    hits = of = 0
    for gate in gates:
        if (truth := slowdown(gate["kind"])) is None:
            continue
        for f in gate["findings"]:
            if f["metric"] == "train time" and f["low"] is not None:
                here = truth if f["subject"].startswith("mine") else 0.0
                hits, of = hits + (f["low"] <= here <= f["high"]), of + 1
    return proportion(hits, of)


NOISE: dict[str, Callable[[np.random.Generator, float], float]] = {
    "normal": lambda rng, sd: rng.normal(0, sd),
    "Student t, 4 degrees of freedom": lambda rng, sd: sd * rng.standard_t(4) / np.sqrt(2),
    "one in ten three times as wide": lambda rng, sd: sd * rng.normal() * _wide(rng),
}


def _wide(rng: np.random.Generator) -> float:
    return 3.0 if rng.random() < 0.1 else 0.75


def simulate(
    slowdown: float,
    noise: Callable[[], float],
    errors: Callable[[], tuple[float, ...]] = lambda: (1.0,),
    backends: int = 2,
) -> tuple[str, int]:
    """Run one gate on made-up pairs, the first backend slower; return its outcome and pairs."""
    settings = GateSettings()
    outcomes: list[Outcome] = []
    pairs = 0
    for number in range(backends):
        arm = Arm(backend=f"backend{number}", device="cpu")
        test = SequentialTest(arm, settings, backends, without_lag=2.0)
        truth = np.log1p(slowdown) if number == 0 else 0.0
        while test.undecided and test.pairs < MOST_PAIRS:
            first, second = _side(errors()), _side(errors())
            change = truth + noise()
            test.add(Pair(change, change, first, second, finished=True), first.step_mse)
        outcomes += [judgement.outcome for judgement in test.judgements()]
        pairs = max(pairs, test.pairs)
    return min(outcomes, key=WORST_FIRST.index), pairs


def _side(step_mse: tuple[float, ...]) -> SideResult:
    return SideResult(
        epoch_s=1,
        losses=(),
        step_mse=step_mse,
        epochs=1,
        epochs_per_turn=1,
        task={},
        sources={},
        versions={},
    )


Simulated = dict[tuple[float, float, str], list[tuple[str, int]]]
"""Outcomes and pairs of gates by slowdown, standard deviation of a pair and kind of noise."""


def simulate_slowdowns(gates: int) -> Simulated:
    rng = np.random.default_rng(2026)
    return {
        (slowdown, sd, name): [
            simulate(slowdown, lambda draw=draw, sd=sd: draw(rng, sd))  # type: ignore[misc]
            for _ in range(gates if not slowdown else gates // 4)
        ]
        for slowdown in (0.0, 0.01, 0.02, 0.03, 0.05)
        for sd in (0.007, 0.0105)
        for name, draw in NOISE.items()
    }


def simulated_table(simulated: Simulated) -> Iterator[str]:
    yield "| slowdown | noise of a pair | gates | found | inconclusive | pairs, mean |"
    yield "|---|---|---|---|---|---|"
    for (slowdown, sd, name), results in simulated.items():
        yield f"| {slowdown:.0%} | {sd:.1%}, {name} | {_figures(results)}"


def promises(measured: Sequence[dict[str, Any]], simulated: Simulated) -> Iterator[str]:
    """Return what the gate promises beside what it did."""

    def real(*kinds: str) -> str:
        gates = [gate for gate in measured if gate["kind"] in kinds]
        if not gates:
            return "not measured"
        longest_s = max(gate["seconds"] for gate in gates)
        return f"{sum(map(found, gates))} of {len(gates)} real gates, at most {longest_s:.0f} s"

    def made_up(slowdown: float) -> list[float]:
        runs = [results for key, results in simulated.items() if key[0] == slowdown]
        return [sum(outcome == "regression" for outcome, _ in r) / len(r) for r in runs]

    yield "| promise | real | simulated |"
    yield "|---|---|---|"
    alarms = f"at most {max(made_up(0.0)):.2%} of {len(next(iter(simulated.values())))} gates"
    yield f"| at most 1 % false alarms on identical code | {real('identical')} | {alarms} |"
    least = f"at least {min(made_up(0.02)):.1%}"
    yield f"| a slowdown of 2 % is found in 90 %, within 3 minutes | {real('2%')} | {least} |"
    least = f"at least {min(made_up(0.05)):.1%}"
    yield f"| one of 5 % always | {real('5%')} | {least} |"
    yield f"| the same beside a busy loop in 90 % | {real('5%, a busy loop')} | |"
    worse = real("learning rate", "time step", "late learning rate")
    yield f"| a worse training always | {worse} | |"


def simulated_errors(gates: int) -> Iterator[str]:
    """Identical code whose numbers differ from one process to the next, as on some GPUs."""
    rng = np.random.default_rng(2027)
    yield "| errors differ, per seed and step, by | gates | found | inconclusive | pairs, mean |"
    yield "|---|---|---|---|---|"
    for sd in (0.01, 0.05, 0.15):
        results = [
            simulate(
                0.0,
                lambda: rng.normal(0, 0.007),
                lambda sd=sd: tuple(np.exp(rng.normal(0, sd, 20))),  # type: ignore[misc]
            )
            for _ in range(gates // 4)
        ]
        yield f"| {sd:.0%} | {_figures(results)}"


def _figures(results: Sequence[tuple[str, int]]) -> str:
    outcomes = Counter(outcome for outcome, _ in results)
    share = proportion(outcomes["regression"], len(results))
    pairs = np.mean([n for _, n in results])
    return f"{len(results)} | {share} | {outcomes['inconclusive']} | {pairs:.1f} |"


PAGE = """# How often the gate errs

This page says how often the gate raises a false alarm and how often it misses a slowdown. Intervals
are 95 %, exact (Clopper and Pearson). [gate.md](gate.md) says how the gate decides. The page is
generated:

    python -m benchmarks.calibrate_gate measure docs/calibration.jsonl     # hours of real gates
    python -m benchmarks.calibrate_gate report docs/calibration.jsonl > docs/calibration.md

## In short

{promises}

## Real gates

Each gate is a `python -m harness gate --against HEAD` in a process of its own, with the default
settings and the default task, on two backends: JAX and PyTorch. The change is planted in one of
them in the working tree: a slowdown is busy work added to every call of `train`. The kinds came in
random order, on {machine}. Tests ran beside some of them:
the load average was {load}. A busy loop is a process that never sleeps.

{measured}

"Found" on identical code is a false alarm. A slowdown of 1 % lies between nothing and the 2 % that
the gate has to find, so both answers are right. The interval of the change held the planted
slowdown in {coverage} of all cases, two a gate. By design it does so in at least 95 %.

Three changes make the training worse. `learning rate` halves the rate. `time step` drops the
gradient at t = 50. `late learning rate` halves the rate after 60 steps, later than the parity check
looks.

{by_what}

## Simulated gates

These gates apply the same rules (`harness/gate/sequential_test.py`) to simulated pairs of two
backends; one of them is slower. Real pairs differ by 0.5-0.8 % on an idle machine and by 0.9-1.1 %
on a busy one. `budget_s` allows {most} pairs of each, and no more are drawn.

{simulated}

On some GPUs, identical code gives other numbers in every process. Then statistics judge the
accuracy. For identical code and 20 time steps:

{errors}

## Simulated intervals

`python -m benchmarks.interval_coverage` prints how often the other 95 % intervals hold the truth,
those of `run --precision` included, and how often corrected comparisons err:

```
{coverages}```
"""


def report(log: Path, gates: int = 4000) -> str:
    measured = read(log)
    simulated = simulate_slowdowns(gates)
    loads = sorted(gate["load"] for gate in measured)
    return PAGE.format(
        machine=f"{machine.describe()['cpu']}, {len(machine.usable_cores())} cores",
        load=f"{np.median(loads):.1f} in the median, {loads[-1]:.1f} at most",
        measured="\n".join(measured_table(measured)),
        coverage=coverage(measured),
        by_what="\n".join(by_what(measured)),
        promises="\n".join(promises(measured, simulated)),
        simulated="\n".join(simulated_table(simulated)),
        most=MOST_PAIRS,
        errors="\n".join(simulated_errors(gates)),
        coverages=subprocess.run(
            [sys.executable, Path(__file__).with_name("interval_coverage.py")],
            check=True,
            capture_output=True,
            text=True,
        ).stdout,
    )


def main() -> None:
    match sys.argv[1:]:
        case ["measure", log, *chosen]:
            counts = {kind: int(n) for kind, _, n in (text.partition("=") for text in chosen)}
            measure(Path(log), counts or GATES)
        case ["report", log]:
            print(report(Path(log)), end="")
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
