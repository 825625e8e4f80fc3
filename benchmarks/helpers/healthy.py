"""Healthy input of every kind, as small as it can be: a run of two trials, a baseline, a worker."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.backend.model import Model
from harness.task.task import Task

# A run of two trials, as small as a run can be.
TASK = Task(n_steps=2, epochs=4, curve_points=2, eval_paths=3)

STATED = TASK.model_dump(exclude_unset=True)

MANIFEST = {
    "schema_version": 6,
    "started_utc": "2026-01-01T00:00:00+00:00",
    "finished_utc": "2026-01-01T00:01:00+00:00",
    "plan": {
        "run": "mine",
        "task": STATED,
        "arms": [{"backend": name, "device": "cpu"} for name in ("jax", "torch")],
        "seeds": [0],
        "sweep": {},
        "threads": 1,
        "precision": None,
    },
    "environment": {"cpu": "Z80", "cores": "2", "python": "3.11"},
    "parity": [
        {
            "backend": "jax",
            "device": "cpu",
            "node": "n",
            "checks": [
                {
                    "quantity": "outputs",
                    "dtype": "float32",
                    "element": "y[0, 1]",
                    "got": 1.0,
                    "want": 1.0,
                    "error": 1e-7,
                    "tolerance": 1e-4,
                }
            ],
            "versions": {"jax": "0.6"},
            "error": None,
        }
    ],
}


def record(backend: str) -> dict[str, Any]:
    call = {"epochs": 2, "round": 1, "wall_s": 0.5, "cpu_s": 0.5, "involuntary_switches": 0}
    state = {"waited_s": 0.0, "interpreter_s": 1e-4, "memory_s": 1e-4, "load": 0.1}
    point = {"train_s": 1.0, "train_loss": 0.5, "eval_mse": 0.1}
    return {
        "schema_version": 6,
        "run": "mine",
        "trial": f"seed0-{backend}-cpu",
        "block": 0,
        "backend": backend,
        "device": "cpu",
        "seed": 0,
        "task": STATED,
        "node": "n",
        "started_utc": "2026-01-01T00:00:00+00:00",
        "wall_s": 3.0,
        "threads": 1,
        "timing": "rounds",
        "cores": [1],
        "contended": False,
        "status": "ok",
        "import_s": 1.0,
        "setup_s": 0.1,
        "first_call_s": 0.6,
        "eval_s": 0.01,
        "chunks": [call | state, call | state | {"round": 2}],
        "points": [point | {"epoch": 2}, point | {"epoch": 4}],
        "step_mse": [0.1, 0.2],
        "initial_state_moved": 0.1,
        "peak_rss_mb": 100.0,
        "environment": {
            "cpu": "Z80",
            "cores": "2",
            "version:jax": "0.6",
            "commit:harness": "a" * 9,
        },
    }


RECORDS = [record("jax"), record("torch")]

# As an old version wrote it, and with several seeds at once.
OLD = {name: value for name, value in RECORDS[1].items() if name not in {"timing", "cores"}} | {
    "schema_version": 2
}

BASELINE = {
    "schema_version": 1,
    "created_utc": "2026-01-01T00:00:00+00:00",
    "version": "abc",
    "task": STATED,
    "yardstick": "reference",
    "yardstick_version": {"code": "abc"},
    "fingerprint": {"cpu": "Z80", "cores": "2"},
    "arms": [
        {
            "backend": "jax",
            "device": "cpu",
            "log_ratios": [0.1, 0.2],
            "epoch_s": [0.1, 0.2],
            "step_mse": [[0.1, 0.2], [0.1, 0.2]],
            "epochs_per_turn": [1, 2],
        }
    ],
}

CSV = """path,t,x,prediction
0,0,0.0,
0,1,1.5,2.25
0,2,-0.5,0.475
a b,0,0,
a b,1,0.25,0.06
a b,2,1e-3,6.3e-3
"""

MEASURED = {
    "machine_info": {
        "cpu": {"brand_raw": "Z80", "arch": "X86_64", "count": 2},
        "python_implementation": "CPython",
        "python_version": "3.11.7",
    },
    "commit_info": {"id": "abcdef0123", "dirty": False},
    "benchmarks": [
        {
            "fullname": f"test_a.py::test_{name}",
            "stats": {
                "mean": 1.0,
                "stddev": 0.1,
                "median": 1.0,
                "iqr": 0.1,
                "rounds": 5,
                "data": [0.9, 1.0, 1.0, 1.1, 1.2],
            },
        }
        for name in ("one", "two")
    ],
}

PYPROJECT = """[tool.harness.gate]
max_slowdown = "2%"
false_alarms = 0.01
budget_s = "3m"
yardstick = "reference"
backends = ["torch", "jax"]
backend.torch.max_slowdown = "5%"

[tool.harness.backends]
mine = "julia mine.jl 'a b'"
other = {command = "./worker", patience_s = 600}
"""

TASK_FILE = "preset: posted\nhidden: 64\nlearning_rate: 1e-3\ncell: gru  # or lstm\n"

TURN = {"epochs": 2, "wall_s": 0.1, "cpu_s": 0.1, "involuntary_switches": 0, "waited_s": None}

MESSAGES = (
    ["phase", "importing"],
    ["fields", {"import_s": 1.0, "environment": {"cpu": "Z80"}}],
    ["ready", {"task": {"n_steps": 2}, "sources": {"a": "/a.py"}, "versions": {"jax": "0.6"}}],
    ["turn", {"wall_s": 0.1, "losses": [0.1], "losses_ER": [[0.1]], "chunk": TURN}],
    ["evaluated", {"step_mse": [0.1, 0.2], "step_mse_RT": [[0.1, 0.2]], "seconds": 0.1}],
    ["inspected", {"initial_state_moved": [0.1], "peak_rss_mb": 100.0}],
    ["failed", ["ValueError: no", "Traceback"]],
    ["check", MANIFEST["parity"][0]["checks"][0]],  # type: ignore[index]
)

MODEL = Model(hidden=2)

PARAMS = {name: np.ones(shape, np.float32) for name, shape in MODEL.shapes.items()}

X_TB = np.ones((3, 2), np.float32)

SHAPES = "".join(f"\t{name}={','.join(map(str, a.shape))}" for name, a in PARAMS.items())

ANSWERS = (
    b"ok\tprotocol=1\tframework=x\tversion:x=1\n",
    *(b"ok\n", b"ok\n", b"ok\tlosses=1\n" + bytes(4), b"ok\toutputs=3,2\n" + bytes(24)),
    f"ok{SHAPES}\n".encode() + b"".join(value.tobytes() for value in PARAMS.values()),
)

SIZES = (0, 0, sum(value.nbytes for value in PARAMS.values()), 40, 24, 0)
"""Bytes of each request after its line."""

PROGRAM = """
import signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
for number, size in enumerate(map(int, sys.argv[1:])):
    sys.stdin.buffer.readline(), sys.stdin.buffer.read(size)
    sys.stdout.buffer.write(open(str(number), "rb").read())
    sys.stdout.buffer.flush()
"""
