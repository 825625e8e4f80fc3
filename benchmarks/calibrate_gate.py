"""How often the gate errs: real gates with planted changes, and thousands of simulated ones.

    python benchmarks/calibrate_gate.py measure LOG [identical=40 2%=20 ...]   # hours
    python benchmarks/calibrate_gate.py report LOG > docs/calibration.md       # two minutes

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
from pathlib import Path
from typing import Any

from harness import machine
from harness.clock import now

GATES = {
    "identical": 40,
    "1%": 10,
    "2%": 20,
    "3%": 10,
    "5%": 20,
    "10%": 10,
    "learning rate": 5,
    "time step": 5,
    "late learning rate": 5,
}

# What is committed trains as the backend it wraps; the constant is what a change edits.
SLOWED = '''"""A backend that can be slowed down."""
from harness.clock import now
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
    share = 0.0 if kind == "identical" else float(kind.removesuffix("%")) / 100
    return before, before.replace("SLOWDOWN = 0.0", f"SLOWDOWN = {share}  # planted")


def run_gate(kind: str, wrapped: str) -> dict[str, Any]:
    """Run one gate on a planted change; return what it said."""
    before, after = planted(kind, wrapped)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.py"
        file.write_text(before)
        (Path(folder) / ".gitignore").write_text("verdict.json\n__pycache__\n")
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "before"]):
            subprocess.run([*git, *command], cwd=folder, check=True)
        file.write_text(after)
        gate = ["gate", "--against", "HEAD", "--backends", "mine:Changed", "--devices", "cpu"]
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
            {k: f[k] for k in ("metric", "outcome", "change", "low", "high", "n")}
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
