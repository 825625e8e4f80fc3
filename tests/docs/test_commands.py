"""The documents: every command in them can be typed, the reference is that of the program."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from threadpoolctl import threadpool_limits

from harness import Task
from harness.backend import registry
from harness.cli import cli
from harness.measure import parity
from tests.helpers import docs
from tests.helpers.commands import ROOT
from tests.helpers.docs import Command
from tests.helpers.documented import ELSEWHERE, HARNESS, RUN_HERE, TYPED, excused, name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs that the documents speak of, `sweep` measured here."""
    from tests.helpers import trainings

    folder = tmp_path_factory.mktemp("docs")
    docs.furnish(folder)
    docs.install_example(folder)
    task = Task(n_steps=5, batch_size=4, epochs=20, curve_points=2, eval_paths=20)
    sizes = {"hidden": (4, 8)}
    trainings.run(
        folder / "results", task, ["reference"], seeds=(0, 1), sweep=sizes, run_id="sweep"
    )
    return folder


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("BROWSER", "true")  # Who opens a page sees it here.
    return folder


def test_the_reference_is_that_of_the_program() -> None:
    page: str = runpy.run_path(str(ROOT / "scripts" / "generate_cli.py"))["render"]()
    assert (ROOT / "docs" / "cli.md").read_text() == page, (
        "the command line has changed: run `python scripts/generate_cli.py`"
    )


def leaves(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield from leaves(command) if isinstance(command, click.Group) else [command]


@pytest.mark.parametrize("command", list(leaves(cli)), ids=lambda command: str(command.name))
def test_every_command_and_option_says_what_it_does(command: click.Command) -> None:
    assert "Examples:" in (command.help or "") or not command.params[1:]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{command.name} {parameter.opts}"


def test_there_is_something_to_test() -> None:
    assert {"run", "submit", "show", "compare", "gate", "doctor", "list", "parity"} <= {
        words[0] for command in HARNESS if (words := command.harness)
    }
    assert len(RUN_HERE) > 5


def subcommand(words: tuple[str, ...]) -> tuple[click.Command, list[str]]:
    """Return the command that is called, and what follows its name."""
    group: click.Group = cli
    rest = list(words)
    while rest:
        command = group.commands.get(rest[0])
        assert command is not None, f"there is no command `{rest[0]}`"
        rest = rest[1:]
        if not isinstance(command, click.Group):
            return command, rest
        group = command
    return group, rest


def options_of(command: click.Command) -> set[str]:
    options = [p for p in command.params if isinstance(p, click.Option)]
    return {o for p in options for o in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}


def parse(words: tuple[str, ...]) -> None:
    """Read a command line as the program would, and build its task; start nothing."""
    from harness.cli.options import read_request

    command, rest = subcommand(words)
    context = command.make_context(str(command.name), list(rest))
    if command.name in {"run", "parity"}:
        read_request(context)
    if command.name == "submit" and context.params["words"]:
        parse(context.params["words"])


@pytest.mark.parametrize("command", HARNESS, ids=name)
def test_the_program_understands(command: Command, inside: Path) -> None:
    words = command.harness or ()
    if command.synopsis or command.mention:
        before, _, after = " ".join(words).partition(" -- ")
        for part in (before, after):
            used = [word for word in part.split() if word.startswith("--")]
            assert set(used) <= options_of(subcommand(tuple(part.split())[:1])[0])
    else:
        parse(words)


def test_what_is_said_in_passing_has_options_that_exist() -> None:
    """Such as `run --max-retries N` in the middle of a sentence."""
    seen = 0
    for path in docs.DOCUMENTS:
        for code in re.findall(r"`([^`]+)`", docs.prose(path)):
            words = code.replace("\n", " ").replace("|", " ").split()
            if words and words[0] in cli.commands and "--" in code:
                own, _, inner = " ".join(words).partition(" -- ")
                for part in filter(None, (own, inner)):
                    command, _ = subcommand(tuple(part.split()[:1]))
                    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", part))
                    assert used <= options_of(command), f"{path.name}: `{code}`"
                    seen += len(used)
    assert seen > 10


def once() -> list[Any]:
    """Return the commands; slow are those that only name another copy of the example's run."""
    seen: set[tuple[str, ...]] = set()
    found = []
    for command in RUN_HERE:
        words = tuple("RUN" if word in docs.RUNS else word for word in command.words)
        marks = [pytest.mark.slow] * (words in seen)
        found.append(pytest.param(command, marks=marks, id=name(command)))
        seen.add(words)
    return found


@pytest.mark.parametrize("command", once())
def test_it_runs(command: Command, inside: Path) -> None:
    words = list(command.harness or ())
    # Pictures take seconds: `test_commands_slow.py` has them made.
    done = CliRunner().invoke(cli, [*words, "--no-plots"] if words[0] == "report" else words)
    assert done.exit_code == 0, done.output
    assert done.stdout


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_tables_of_the_example_are_those_that_are_printed(page: str, inside: Path) -> None:
    shown = CliRunner().invoke(cli, ["show", "example"]).stdout.rstrip()
    assert any(block.text.endswith(shown) for block in docs.blocks(ROOT / page))


@pytest.mark.parametrize("command", TYPED, ids=name)
def test_it_is_run_or_excused(command: Command) -> None:
    """Say how to run it in `docs.smaller`, or in `documented.ELSEWHERE` why it cannot be run."""
    if command not in RUN_HERE and not excused(command):
        words = tuple(word.removeprefix(".venv/bin/") for word in command.words)
        assert docs.smaller(words)


@pytest.mark.parametrize("file", sorted(docs.EXAMPLE.glob("*.*")), ids=lambda file: file.name)
def test_the_page_on_backends_has_the_files_of_the_example(file: Path) -> None:
    assert file.read_text() in {
        f"{block.text}\n" for block in docs.blocks(ROOT / "docs" / "backends.md")
    }


def test_the_example_passes_parity_with_one_seed_and_with_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(docs.EXAMPLE))
    factory = registry.load("example_many:ExampleManyBackend")
    with threadpool_limits(1):
        checks = list(parity.compare(factory, "cpu", Task(hidden=4, n_steps=20), at_once=3))
    assert {check.at_once for check in checks} == {1, 3}
    assert all(check.passed for check in checks)


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_what_is_excused_is_in_the_documents_and_covered(pattern: str) -> None:
    assert any(command.matches(pattern) for command in TYPED), "it is in no document any more"
    reason, covered_by = ELSEWHERE[pattern]
    assert reason
    assert (ROOT / covered_by).is_file()


@pytest.mark.parametrize(
    "block",
    [block for path in docs.DOCUMENTS for block in docs.blocks(path)],
    ids=lambda block: block.source,
)
def test_a_block_is_what_it_says(block: docs.Block) -> None:
    read: dict[str, Any] = {
        "python": ast.parse,
        "toml": tomllib.loads,
        "yaml": yaml.safe_load,
        "json": json.loads,
        "sh": lambda text: shlex.split(text, comments=True),
    }
    read.get(block.language, str)(block.text)


def test_links_lead_somewhere() -> None:
    for path in docs.DOCUMENTS:
        text = docs.prose(path)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), f"{path.name}: {target}"
            if anchor:
                headings = re.findall(r"(?m)^#+ (.*)$", docs.prose(there))
                anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
                assert anchor in anchors, f"{path.name}: {target}"
