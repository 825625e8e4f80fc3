"""Backends that are commands: how they are written, found and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.backend import registry
from harness.backend.command import Command
from harness.errors import InvalidInput
from tests.helpers.commands import in_this_process

TABLE = """
mine = "./worker --fast, --small"
far = {command = "ssh there train", patience_s = 600}
"""


def project(folder: Path, table: str) -> Path:
    (folder / "pyproject.toml").write_text(f"[tool.harness.backends]\n{table}")
    (inside := folder / "inside").mkdir()
    return inside


def test_a_command_on_the_command_line_is_split_as_a_shell_does() -> None:
    assert Command.parse("x", "python 'my worker.py' --a=b").words == [
        *("python", "my worker.py", "--a=b")
    ]
    registry.check("process:no-such-program")  # Another node may have it.


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("process:", "backend `process:`: the command is empty"),
        ("process:python 'worker", r"the command `python 'worker` cannot be read: No closing quot"),
        (
            "1",
            r"unknown backend `1`; known: .*`process:COMMAND` \(give a command with a comma a na",
        ),
    ],
)
def test_what_is_no_command_is_refused(name: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        registry.check(name)


def test_an_installed_name_in_the_table_is_never_silently_the_other_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path, 'torch = "x"'))
    with pytest.raises(InvalidInput, match="`torch`: an installed backend has that name"):
        registry.check("torch")
    registry.check("jax")
    (tmp_path / "pyproject.toml").write_text("no TOML")
    registry.check("torch")


def test_a_project_names_its_backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project(tmp_path, TABLE))
    assert registry.commands() == {
        "far": Command("far", ["ssh", "there", "train"], tmp_path, patience_s=600),
        "mine": Command("mine", ["./worker", "--fast,", "--small"], tmp_path),
    }
    registry.check("mine")
    with pytest.raises(InvalidInput, match=r"unknown backend `mime` \(did you mean `mine`\?\)"):
        registry.check("mime")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ('torch = "x"', "backend `torch`: an installed backend has that name; choose another."),
        (
            "mine = 3",
            "backend `mine` = 3: write its command as a text, or as "
            '`{command = "...", patience_s = 600}`.',
        ),
        (
            'mine = {command = "x", patience = 6}',
            "backend `mine`: there is no field `patience` (did you mean `patience_s`?); known: "
            "command, patience_s.",
        ),
        *(
            (
                f'mine = {{command = "x", patience_s = {value}}}',
                f"backend `mine`: `patience_s` = {shown}: write a number of seconds above 0.",
            )
            for value, shown in (("-1", "-1"), ("inf", "inf"), ("true", "True"), ('"9"', "'9'"))
        ),
        ('mine = ""', "backend `mine`: the command is empty."),
        ('"a b" = "x"', "backend `a b`: a name has letters, digits, `-`, `_` and `.` only."),
    ],
)
def test_a_bad_entry_is_refused_with_its_file_and_alone(
    entry: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path, f'{entry}\nfine = "x"\n'))
    registry.check("fine")
    (name,) = registry.commands().keys() - {"fine"}
    sentence = f"`{tmp_path / 'pyproject.toml'}`: [tool.harness.backends]: {problem}"
    listed = in_this_process("list", "--results", tmp_path).stdout
    assert f"  {name:<14} {sentence}\n" in listed
    assert "  fine           x (in " in listed
    if name not in registry.installed():
        with pytest.raises(InvalidInput) as caught:
            registry.check(name)
        assert f"{caught.value}" == sentence
