"""Every command in every environment that people have: a code of the table, and no traceback.

`python -m pytest -m slow tests/cli/test_environments.py`: 266 processes, seven minutes
of processor time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import harness
from tests.cli.test_output import files
from tests.helpers.commands import TINY_RUN, command

pytestmark = pytest.mark.slow

INLINE = ("--dispatch", "inline", "--backends", "reference")
RUN = (*TINY_RUN, *INLINE, "--seeds", "1", "--rounds", "2", "--run-id", "new")
GATE = ("gate", "--pytest-benchmark", "old.json", "new.json", "--max-slowdown", "5%")
COMMANDS = {
    ("--help",): 0,
    ("list",): 0,
    ("show", "demo", "--table", "steps"): 0,
    ("explain", "demo"): 0,
    ("compare", "demo", "other"): 0,
    ("history", "--html", "history.html"): 0,
    ("doctor",): 0,
    ("report", "demo"): 0,
    ("parity", *INLINE): 0,
    (*RUN, "--report"): 0,
    (*GATE, "--json", "v.json", "--junit", "v.xml", "--markdown", "v.md"): 1,
    ("track", "demo", "--to", "nothing"): 2,
    ("submit", "--address", "http://127.0.0.1:9", "--", "run"): 2,
    ("no-such-command",): 2,
}
"""Each command, and the code with which it ends."""
NO_LOCALE = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UNWRITABLE = "setpriv --bounding-set=-dac_override,-dac_read_search"


class Place(NamedTuple):
    """An environment: variables, what a shell does with the command `"$@"`, and other codes."""

    variables: Mapping[str, str] = {}
    script: str = '"$@"'
    codes: Mapping[str, int] = {}
    """The code of a command that is another here; "*": of those that otherwise end with 0."""


PLACES = {
    "C": Place({"LC_ALL": "C", **NO_LOCALE}),
    "Latin-1": Place({"LC_ALL": "en_US.ISO-8859-1", "LOCPATH": "{tmp}/locales", **NO_LOCALE}),
    "ascii": Place({"PYTHONIOENCODING": "ascii"}),
    "cp1252": Place({"PYTHONIOENCODING": "cp1252"}),
    "utf-16": Place({"PYTHONIOENCODING": "utf-16"}),
    "closed output": Place(script='"$@" >&-'),
    "closed streams": Place(script='"$@" <&- >&- 2>&-'),
    "full output": Place(script='"$@" >/dev/full', codes={"*": 74}),
    "full errors": Place(script='"$@" 2>/dev/full'),
    "reader that has gone": Place(script='"$@" | true; exit ${PIPESTATUS[0]}'),
    "read-only folder": Place(
        script=f'chmod -R a-w .; {UNWRITABLE} "$@"',
        codes={"run": 2, "gate": 2, "report": 74, "history": 74},
    ),
    "deleted folder": Place(
        script='mkdir d; cd d; rmdir ../d; "$@"', codes={"*": 2, "gate": 2, "--help": 0}
    ),
    "no HOME": Place(script='unset HOME; "$@"'),
    "HOME of nobody": Place({"HOME": "/no/such/folder"}),
    "TMPDIR missing": Place({"TMPDIR": "/no/such/folder"}),
    "TMPDIR not writable": Place({"TMPDIR": "/proc"}),
    "TMPDIR odd": Place({"TMPDIR": "{tmp}/odd é $x"}),
    "PYTHONOPTIMIZE": Place({"PYTHONOPTIMIZE": "2"}, codes={"report": 2, "history": 2}),
    "PYTHONSAFEPATH": Place({"PYTHONSAFEPATH": "1"}),
}


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder to work in, which has two runs and two files for the gate."""
    tmp = tmp_path_factory.mktemp("environments")
    work = tmp / "zoë d"
    for folder in (work, tmp / "odd é $x", tmp / "locales"):
        folder.mkdir()
    files(work)
    task = harness.Task(n_steps=5, batch_size=4, epochs=100, eval_paths=20)
    for name in ("demo", "other"):
        harness.run(
            task,
            backends=["reference"],
            seeds=2,
            rounds=2,
            dispatch="inline",
            results=work / "results",
            run_id=name,
        )
    latin = tmp / "locales" / "en_US.ISO-8859-1"
    subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", latin], capture_output=True)
    return tmp


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PLACES)
def test_every_command_ends_with_its_code_and_no_traceback(name: str, tmp: Path) -> None:
    place = PLACES[name]
    if name == "Latin-1" and not list((tmp / "locales").iterdir()):
        pytest.skip("`localedef` cannot make the locale")
    variables = {name: value.format(tmp=tmp) for name, value in place.variables.items()}
    wrong = []
    for words, usual in COMMANDS.items():
        others = place.codes.get(words[0], usual or place.codes.get("*", usual))
        work = tmp / "copy" / "zoë d"
        shutil.rmtree(tmp / "copy", ignore_errors=True)
        shutil.copytree(tmp / "zoë d", work)
        done = subprocess.run(
            ["bash", "-c", place.script, "bash", *command(*words)],
            cwd=work,
            env=os.environ | variables,
            capture_output=True,
            timeout=120,
        )
        said = done.stdout + done.stderr
        if done.returncode != others or b"Traceback" in said or b"Exception ignored" in said:
            wrong.append((words[0], done.returncode, others, said[-600:].decode(errors="replace")))
    assert not wrong
