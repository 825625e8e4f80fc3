"""A user's git repository with a backend in it, and the gate run there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.commands import TINY, Done, in_this_process, overriding

# So tiny a training is noisier than a real one.
LENIENT = ("--max-slowdown", "60%", "--budget", "100s")

# The NumPy backend starts fast, and its errors show after 60 steps: parity trains for 20.
BACKEND = """
from harness.measure.clock import now
from backends.reference import ReferenceBackend

SLOWDOWN, LEARNING_RATE, FAULT = 0.0, 1.0, ""


class Mine(ReferenceBackend):
    def train(self, state, x_ETB, y_ETB):
        if FAULT and state.step > 60:
            exec(FAULT)
        start = now()
        if state.step > 60:
            y_ETB = y_ETB * LEARNING_RATE
        result = super().train(state, x_ETB, y_ETB)
        end = now() + SLOWDOWN * (now() - start)
        while now() < end:
            pass
        return result
"""


class Project:
    """The repository; `gate` and `verdict` call the gate in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "--initial-branch", "main")
        self.write("mine.py", BACKEND)
        self.commit("before")

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "gc.auto=0"]
        command = ["git", *who, *arguments]
        return subprocess.run(
            command, cwd=self.path, check=True, capture_output=True, text=True
        ).stdout

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def plant(self, old: str, new: str, name: str = "mine.py") -> None:
        text = (self.path / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def commit(self, message: str) -> None:
        self.git("add", ".")
        self.git("commit", "--message", message)

    def in_a_process(self, *arguments: object, **environment: str) -> Done:
        """Run the gate as a user does."""
        return subprocess.run(
            [sys.executable, "-m", "harness", *self.words(*arguments)],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=170,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        )

    def gate(self, *arguments: object, **environment: str) -> Done:
        """Call the gate in this process, unless the project has a harness of its own."""
        if (self.path / "harness").is_dir():
            return self.in_a_process(*arguments, **environment)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(self.path))
            patch.chdir(self.path)
            patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
            return in_this_process(*self.words(*arguments), **environment)

    def words(self, *arguments: object) -> list[str]:
        backend = [] if "--backends" in arguments else ["--backends", "mine:Mine"]
        return ["gate", *map(str, arguments), *backend, "--devices", "cpu"]

    def refused(self, *arguments: object) -> str:
        """Call the gate; return the sentence with which it refuses."""
        done = self.gate(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        return done.stderr

    def verdict(self, *arguments: object) -> tuple[int, dict[str, Any]]:
        """Run the gate; return its exit code, and its judgements by metric."""
        file = self.path.parent / "verdict.json"
        done = self.gate(*overriding(*TINY, *arguments), "--json", file)
        assert file.exists(), done.stderr
        judgements = json.loads(file.read_text())["findings"]
        return done.returncode, {judgement["metric"]: judgement for judgement in judgements}
