"""Every command of the documents that does more than read is run in small, by real programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from benchmarks.helpers.head import Head
from benchmarks.helpers.s3 import S3Server
from tests.helpers import docs
from tests.helpers.commands import ROOT
from tests.helpers.docs import Command
from tests.helpers.documented import RUN_HERE, TYPED, excused, name

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TO_RUN = [
    command
    for command in TYPED
    if not excused(command)
    and (command not in RUN_HERE or (command.harness or ("",))[0] == "report")
]
NODES = "python -m benchmarks.nodes*"
PYTHON = [
    block for path in docs.DOCUMENTS for block in docs.blocks(path) if block.language == "python"
]


def answers(words: tuple[str, ...]) -> set[int]:
    """Return how a command of the harness may end: a gate and a strict doctor may say no."""
    if "wrong:MyBackend" in words:
        return {1}
    return {"gate": {0, 1, 3}, "doctor": {0, 1}}.get(words[0], {0})


@dataclass(frozen=True)
class Place:
    """A clone of the repository, with a cluster, a bucket and the runs of the documents."""

    folder: Path
    head: Head
    store: Any
    """The file system of the bucket."""

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=self.head.environment | self.settings | variables,
        )

    @property
    def settings(self) -> dict[str, str]:
        """Where `pip` installs and the clone has its modules; nothing is opened on a screen."""
        path = os.pathsep.join(map(str, (self.folder / "site", self.folder)))
        return {"PYTHONPATH": path, "BROWSER": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}

    def must(self, *words: str) -> None:
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr

    def here(self, word: str) -> str:
        """Return a word with what stands for something of the user's replaced by ours."""
        for theirs, ours in (
            ("http://HEAD:8265", self.head.url),
            ("http://localhost:8265", self.head.url),
            ("HEAD:6379", self.head.address),
            ("/mnt/results", str(self.folder / "mnt")),
            # MLflow's client writes files by itself; `test_mlflow.py` has a server.
            ("http://localhost:5000", f"file://{self.folder / 'mlflow'}"),
            (".venv/bin/", ""),
            ("=FILE", "=file.json"),
        ):
            word = word.replace(theirs, ours)
        return word

    def provide(self, words: tuple[str, ...]) -> None:
        """Make what the command needs, and clear away what it would find in its way."""
        python = ("python", "-m")
        if "--run-id" in words:
            run = words[words.index("--run-id") + 1]
            for results in (self.folder / "results", self.head.home / "harness-results"):
                docs.remove_run(results, run)
        if "--resume" in words:
            run = words[words.index("--resume") + 1]
            docs.remove_run(self.folder / "results", run)
            given = ("--backends", "reference", "--dispatch", "inline", "--run-id", run)
            self.must(*docs.smaller((*python, "harness", "run", *given)))
            next((self.folder / "results" / run / "records").glob("*.json")).unlink()
        if "example,torch" in words and not (self.folder / "site").exists():
            self.must(*docs.smaller(("pip", "install", "docs/example-backend")))
        if words[-1] == "s3://bucket/results" and "run" not in words:
            self.store.put(str(self.folder / "results" / "demo"), "bucket/results/", recursive=True)
        if "--attach" in words:
            run = words[words.index("--attach") + 1].removeprefix("harness-")
            submit = (*python, "harness", "submit", "--address", self.head.url, "--wait", "--")
            inner = ("run", "--backends", "reference", "--run-id", run)
            self.provide(inner)
            self.must(*docs.smaller((*submit, *inner)))
        if "--baseline" in words and not (self.folder / "baseline.json").exists():
            self.must(*docs.smaller((*python, "harness", "gate", "--write-baseline", words[-1])))
        if "--pytest-benchmark" in words:
            for file in (word for word in words if word.endswith(".json")):
                if not (self.folder / file).exists():
                    measure = (*python, "pytest", "benchmarks", "--benchmark-only")
                    self.must(*docs.smaller((*measure, f"--benchmark-json={file}")))


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        # Short, and no part of this repository.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docs-", dir="/tmp")))
        folder = clone(scratch)
        store = S3Server(scratch).start()
        stack.callback(store.kill)
        store.system().mkdir("bucket")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for variable, value in store.environment.items():
            patch.setenv(variable, value)
        yield Place(folder, stack.enter_context(Head()), store.system())


def clone(scratch: Path) -> Path:
    """Make a repository of the files there are, two commits long, and the remote that it is of."""
    folder, origin = scratch / "clone", scratch / "origin.git"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in filter(None, files.split("\0")):
        if (ROOT / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "gc.auto=0")

    def git(*words: str) -> None:
        subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)

    subprocess.run(["git", "init", "-q", "--bare", str(origin)], check=True)
    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    docs.furnish(folder)
    git("add", "-A")
    git("commit", "-q", "-m", "two")
    git("remote", "add", "origin", str(origin))
    git("push", "-q", "origin", "main")
    return folder


def marked(command: Command) -> ParameterSet:
    """Mark what is known not to run."""
    known = pytest.mark.xfail(
        strict=True,
        reason="a node whose processes are suspended is given up by Ray after a minute, and its "
        "block does not begin elsewhere in the three minutes after that",
    )
    return pytest.param(command, marks=[known] if command.matches(NODES) else [], id=name(command))


@pytest.mark.parametrize("command", [marked(command) for command in TO_RUN])
def test_it_runs(command: Command, place: Place) -> None:
    words = docs.smaller(tuple(place.here(word) for word in command.words))
    place.provide(words)
    variables = dict(command.variables)
    if words[:3] == ("ray", "job", "list"):
        # As the text beside it says, which speaks of a tunnel to the usual port.
        variables = {"RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": place.head.url}
    done = place.run(*words, **variables)
    inner = Command(words).harness or ("",)
    said = f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    assert done.returncode in answers(inner), said
    assert "Traceback" not in done.stderr, said
    if inner[0] == "run":
        assert "Results: " in done.stdout, said


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.source)
def test_python_runs(block: docs.Block, place: Place) -> None:
    """Run the block unchanged, under the guard that the text asks for: it starts processes."""
    if "import keras" in block.text:
        pytest.importorskip("keras")
    lines = "\n".join(f"    {line}" for line in block.text.splitlines())
    script = place.folder / "snippet.py"
    script.write_text(f'if __name__ == "__main__":\n{lines}\n')
    done = place.run(sys.executable, str(script))
    assert done.returncode == 0, done.stdout + done.stderr
