"""The commands and the Python that the documents tell people to type, and what they run on."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
import tomllib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from tests.helpers.commands import ROOT, overriding

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PROGRAMS = {
    *("python", "python3", ".venv/bin/python", "pip", ".venv/bin/pip", "ray", "harness"),
    *("apt", "chmod", "docker", "eval", "export", "kubectl", "rm", "source", "ssh", "ssh-copy-id"),
    *("ssh-keygen", "ufw", "git", "sed"),
}
_SHELL = {"", "sh", "bash", "shell", "console"}
_VARIABLE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
# `[--wait]`, `run ...`, `csv|json`, `[OPTIONS]`: how a command may be written, and not one.
_SYNOPSIS = re.compile(r"\[--|\[[A-Z]+\]|(?<=\s)\.\.\.(?=\s|$)|[a-z]\|[a-z]")


@dataclass(frozen=True)
class Command:
    """One program with its words, as somebody would type it."""

    words: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    source: str = ""
    synopsis: bool = False
    inline: bool = False

    @cached_property
    def text(self) -> str:
        """The words in a line."""
        return " ".join(self.words)

    @property
    def harness(self) -> tuple[str, ...] | None:
        """What follows `python -m harness` or `harness`, or None if it is another program."""
        if self.words[:1] == ("harness",):
            return self.words[1:]
        is_python = self.words[0].endswith("python")
        return self.words[3:] if is_python and self.words[1:3] == ("-m", "harness") else None

    @property
    def mention(self) -> bool:
        """Whether the text only speaks of a program: `python -m harness gate`, `harness run`."""
        if self.harness is None:
            return self.inline and (len(self.words) < 2 or self.words[1:] == ("-m",))
        return self.inline and len(self.harness) < 2

    def matches(self, pattern: str) -> bool:
        """Whether it is this command; `*` stands for anything."""
        return fnmatchcase(self.text, pattern)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str
    source: str


def blocks(path: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a document."""
    lines = path.read_text().splitlines()
    inside: list[str] | None = None
    indent, language, first = 0, "", 0
    for number, line in enumerate(lines, 1):
        fence = re.match(r"(\s*)```(\S*)", line)
        if fence is None:
            if inside is not None:
                inside.append(line[indent:])
        elif inside is None:
            inside, indent, language, first = [], len(fence[1]), fence[2], number
        else:
            yield Block(language, "\n".join(inside), f"{path.relative_to(ROOT)}:{first}")
            inside = None
    assert inside is None, f"{path}: a fence is left open"


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"(?ms)^\s*```.*?^\s*```", "", path.read_text())


def commands(path: Path) -> Iterator[Command]:
    """Yield all commands of a document: those in blocks, and those of several words in its text."""
    name = str(path.relative_to(ROOT))
    for block in blocks(path):
        if block.language in _SHELL:
            for line in _lines(block.text):
                yield from _parse(line, block.source)
    text = prose(path)
    for line in re.findall(r"(?m)^ {4}(\S.*)$", text):
        yield from _parse(line, name)
    for code in re.findall(r"`` (.+?) ``|`([^`]+)`", text):
        words = " ".join((code[0] or code[1]).split()).replace(r"\|", "|")
        if " " in words:
            yield from _parse(words, name, inline=True)


def all_commands() -> list[Command]:
    """Return the commands of all documents, each once."""
    found: dict[tuple[object, ...], Command] = {}
    for path in DOCUMENTS:
        for command in commands(path):
            found.setdefault((command.words, command.variables, command.mention), command)
    return list(found.values())


def _lines(text: str) -> Iterator[str]:
    """Yield the lines that are typed: of a session with prompts, those after a prompt."""
    lines = text.replace("\\\n", " ").splitlines()
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    yield from typed or lines


def _parse(line: str, source: str, inline: bool = False) -> Iterator[Command]:
    """Yield the commands of a line of the shell; none if it is something else."""
    first = re.match(r"\s*(?:\(umask \d+; )?(?:[A-Z_]+=\S* )*(\S+)", line)
    if first is None or first[1] not in PROGRAMS:
        return
    if _SYNOPSIS.search(line):
        parts = tuple(word.strip("[]") for word in line.partition(" # ")[0].split())
        yield Command(parts, source=source, synopsis=True, inline=inline)
        return
    for words in _simple_commands(line):
        variables = list(takewhile(bool, map(_VARIABLE.fullmatch, words)))
        typed = tuple(words[len(variables) :])
        if typed and typed[0] in PROGRAMS:
            values = tuple((match[1], match[2]) for match in variables if match)
            yield Command(typed, values, source, inline=inline)


def _simple_commands(line: str) -> Iterator[list[str]]:
    """Split a line at what joins commands, and leave redirections out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in lexer:
        if redirected:
            redirected = False
        elif set(word) <= set("<>"):
            redirected = True
        elif set(word) <= set("();|&"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


# The documents speak of runs by these names, and of the files below.
RUNS = (
    *("example", "demo", "mine", "before", "after", "laptop", "server", "RUN", "RUN_A", "RUN_B"),
    *("first", "posted", "half", "cured", "own"),
)
EXAMPLE = ROOT / "docs" / "example-backend"


def furnish(folder: Path) -> None:
    """Put into a folder what the commands of the documents take for granted."""
    for run in RUNS:
        copy_run(run, folder / "results")
    # A history of a backend that the example has not measured.
    copy_run("tuned", folder / "results", jax="jax-tuned")
    (folder / "task.yaml").write_text("preset: strong-lag\nhidden: 12\n")
    (folder / "env.yaml").write_text("env_vars: {HARNESS_DOCS: 'yes'}\n")
    (folder / "mine.csv").write_text("\n".join(["path,t,x,prediction", *_predictions()]))
    write_gradient(folder / "mine.npz")
    package = folder / "mypackage"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("example_backend.py", "example_many.py"):
        shutil.copy(EXAMPLE / name, folder)
    for file in (ROOT / "docs" / "process-worker").glob("*.py"):
        shutil.copy(file, folder)
    code = (EXAMPLE / "example_backend.py").read_text().replace("ExampleBackend", "MyBackend")
    (folder / "mybackend.py").write_text(code)
    (package / "mymodule.py").write_text(code)
    # With a minus where there is a plus in the formula.
    (folder / "wrong.py").write_text(code.replace('@ h_HB + w["b_h"]', '@ h_HB - w["b_h"]'))


def install_example(site: Path) -> None:
    """Put the example where it would be if it was installed; the slow commands have pip do it."""
    installed = site / "example_backend-0.1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Name: example-backend\nVersion: 0.1.0\n")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    lines = [f"{k} = {v}" for k, v in project["entry-points"]["harness.backends"].items()]
    (installed / "entry_points.txt").write_text("\n".join(["[harness.backends]", *lines]))
    for file in EXAMPLE.glob("*.py"):
        shutil.copy(file, site)


def write_gradient(file: Path) -> None:
    """Write parameters, a batch, loss and gradient as the documents say."""
    import numpy as np

    from backends.reference import ReferenceBackend
    from harness import Model

    model, rng = Model(hidden=4, dtype="float64"), np.random.default_rng(0)
    params = {name: rng.standard_normal(shape) for name, shape in model.shapes.items()}
    x_TB, y_TB = rng.standard_normal((7, 3)), rng.standard_normal((6, 3))
    loss, gradient = ReferenceBackend(model, "cpu").loss_and_gradient(params, x_TB, y_TB)
    arrays: dict[str, Any] = {f"grad_{name}": value for name, value in gradient.items()}
    np.savez(file, **arrays | {"x": x_TB, "y": y_TB, "loss": loss} | params)


def _predictions() -> Iterator[str]:
    """Yield the rows of somebody's predictions, who forgets the past."""
    rng = random.Random(0)
    for path in range(40):
        x = 0.0
        for t in range(11):
            yield f"{path},{t},{x},{x * x if t else ''}"
            x = 0.1 * x + rng.gauss(0, 1)


def copy_run(name: str, results: Path, jax: str = "jax") -> None:
    """Copy the committed example as a run of that name; `jax` names its backend of that name."""
    source, target = ROOT / "results" / "example", results / name
    (target / "records").mkdir(parents=True, exist_ok=True)
    for file in [source / "manifest.json", *(source / "records").glob("*.json")]:
        text = file.read_text().replace('"jax"', f'"{jax}"').replace("-jax-", f"-{jax}-")
        content = json.loads(text)
        content.get("plan", content)["run"] = name
        for chunk in content.get("chunks", ()):
            # A copy would be refused in a comparison.
            chunk["wall_s"] *= 1 + zlib.crc32(name.encode()) / 1e15
        place = target / file.parent.relative_to(source) / file.name.replace("-jax-", f"-{jax}-")
        place.write_text(json.dumps(content))


def remove_run(results: Path, name: str) -> None:
    """Remove a run, if it is there."""
    shutil.rmtree(results / name, ignore_errors=True)


SMALL = {"n_steps": 20, "batch_size": 4, "epochs": 40, "curve_points": 4, "eval_paths": 50}
_SMALL = tuple(word for field in SMALL.items() for word in ("--set", "{}={}".format(*field)))
# What makes the other programs end within a minute or two: words to put in the place of those after
# the name, or, if they are options, after all others.
_LESS: dict[str, tuple[str, ...]] = {
    "-m benchmarks.calibrate_gate report": ("docs/calibration.jsonl",),
    "-m benchmarks.calibrate_gate measure": ("measured.jsonl", "identical=1"),
    "-m benchmarks.faults": ("5",),
    "-m benchmarks.fidelity": ("1",),
    "-m benchmarks.fuzz": ("--inputs", "20"),
    "-m benchmarks.burst_coverage": ("20",),
    "-m benchmarks.gpu_limits": ("--seeds-at-once", "1"),
    "-m benchmarks.interval_coverage": ("20",),
    "-m benchmarks.limits": ("--blocks", "2", "--rounds", "1"),
    "-m benchmarks.memory": ("--small",),
    "-m benchmarks.overhead": ("--job",),
    "-m benchmarks.pipe": ("1",),
    "-m benchmarks.profiles": ("--runs", "1", "--only", "TorchNoOps"),
    "-m benchmarks.speed": ("--blocks", "2", "--rounds", "1", "--seeds-at-once", "2"),
    "-m benchmarks.tricks": ("--blocks", "2", "--rounds", "1"),
    "-m benchmarks.machine_state": ("results/example",),
    "-m benchmarks.state_coverage": ("5",),
    "-m benchmarks.repeat": ("2", *_SMALL, "--rounds", "2"),
    "-m benchmarks.history --rates": ("--histories", "4"),
    "-m benchmarks.history": ("--runs", "20"),
    "-m benchmarks.many_trials": ("20",),
    "-m benchmarks.nodes": ("--trials", "2", "--deaths", "1"),
    "-m benchmarks.scale": ("1",),
    "-m benchmarks.soak": ("--each", "0", "--blocks", "2"),
    "-m benchmarks.submit_latency": ("1",),
    "-m benchmarks.terminal": ("1",),
    "-m benchmarks.trajectories": ("--seeds", "1", "--tasks", "no-lag"),
    "-m pytest benchmarks": ("-k", "reference"),
    "scripts/generate_cli.py": (),
}


class NoRule(Exception):
    """Nobody has said how to run such a command."""


def smaller(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of a command such that it ends soon. Raises `NoRule`."""
    inner = Command(words).harness
    if inner is not None:
        return words[: len(words) - len(inner)] + tuple(overriding(*_smaller_harness(inner)))
    program, rest = words[0], words[1:]
    if program == "ray" and rest[:2] == ("job", "submit"):
        at = words.index("--") + 1
        return words[:at] + smaller(words[at:])
    if program == "ray" and rest[:1] == ("get-auth-token",):
        return words
    if program == "ray" and rest[:2] == ("job", "list"):
        return words
    if program == "sed":
        return words
    if program == "pip" and rest[0] == "install" and rest[-1] == "docs/example-backend":
        # Not among the packages of whoever runs the tests.
        return (*words[:2], "--no-deps", "--no-build-isolation", "--target", "site", rest[-1])
    for name, less in _LESS.items():
        known = tuple(name.split())
        if program == "python" and rest[: len(known)] == known:
            kept = rest if not less or less[0].startswith("-") else known
            return (program, *kept, *less)
    raise NoRule(" ".join(words))


def _smaller_harness(words: tuple[str, ...]) -> tuple[str, ...]:
    name = words[0]
    if name == "submit" and "--" in words:
        at = words.index("--") + 1
        return words[:at] + _smaller_harness(words[at:])
    if name == "run" and "--resume" not in words:
        if "--precision" in words:
            return (*words, *_SMALL, "--budget", "15s")
        return (*words, *_SMALL, "--seeds", "4" if "--vectorize" in words else "2")
    if name == "profile":
        return (*words, *_SMALL)
    if name == "gate" and "--write-baseline" in words:
        return (*words, *_SMALL, "--backends", "reference")
    if name == "gate" and "--baseline" in words:
        return (*words, "--backends", "reference", "--budget", "30s")
    if name == "gate" and "--against" in words:
        return (*words, "--set", "epochs=40", "--set", "eval_paths=50", "--budget", "20s")
    return words
