"""Something happens to the folder of a run at each of its writes: nothing measured is lost."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

import harness
from harness import Run, StoreError
from tests.helpers.calamity import KINDS, relieve
from tests.helpers.commands import ROOT, TINY_RUN, Cli, in_this_process, typed
from tests.helpers.processes import start, wait_for

# Root may write what is read-only, unless without the capability for it.
PLAIN = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override")
RUN = (*TINY_RUN, "--run-id", "x", "--dispatch", "inline", "--seeds", 2)
TWO = ("--backends", "reference,tests.helpers.faulty:AnyDevice")


@pytest.fixture
def results(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A results folder of an ordinary user; on a small disk of its own if that is to be full."""
    folder = Path(tempfile.mkdtemp(prefix="harness test "))
    results = folder / "results"
    results.mkdir()
    full = "full" in request.node.name
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", str(results)]
    if full and (os.geteuid() or subprocess.run(mount, capture_output=True).returncode):
        pytest.skip("needs root to mount a small file system")
    for path in (folder, results):
        path.chmod(0o777)
    yield results
    if full:
        subprocess.run(["umount", str(results)], check=True)
    shutil.rmtree(folder)


class User:
    """Somebody who types commands at the top of the repository."""

    def __init__(self, results: Path) -> None:
        self.run = results / "x"
        self._environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(results.parent),
            "TMPDIR": str(results.parent),
        }

    def types(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*PLAIN, *map(str, words)],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def suffers(self, kind: str, number: int, *words: object) -> subprocess.CompletedProcess[str]:
        """Run the command line while a calamity happens."""
        helper = (sys.executable, "-m", "tests.helpers.calamity", kind, number, self.run)
        return self.types(*helper, *words)


def hint(errors: str) -> str:
    """Return the command that the last error names, as it is to be typed."""
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    found = re.findall(r"`((?:mkdir|cp|python -m harness) [^`]*)`", line)
    return found[-1] if found else ""


def check(user: User, kind: str, errors: str) -> None:
    """What was measured is in the run or where the error says, and its hint makes the run whole."""
    measured = set(re.findall(r"^\[\d+/\d+\] (\S+) on cpu, seed (\d)", errors, re.MULTILINE))
    assert "Traceback" not in errors
    assert re.search("cannot be (written|used)", errors)
    found = {path.name: path.read_bytes() for path in user.run.glob("records/*.json")}
    for folder in re.findall("kept in `([^`]*)`", errors):
        found |= {path.name: path.read_bytes() for path in Path(folder).glob("records/*.json")}
    names = {f"seed{seed}-{backend.replace(':', '.')}-cpu.json" for backend, seed in measured}
    assert names == found.keys()
    relieve(kind, user.run)
    line = hint(errors)
    if not line:
        assert not (user.run / "manifest.json").exists()
        return
    done = user.types("sh", "-c", line)
    assert done.returncode == 0, (line, done.stderr)
    run = Run("x", user.run.parent)
    assert not run.missing
    assert run.manifest.finished_utc
    assert {path.suffix for path in user.run.glob("chunks.*")} == {".csv", ".parquet"}
    after = {path.name: path.read_bytes() for path in user.run.glob("records/*.json")}
    assert after.items() >= found.items()


def happens(user: User, kind: str, number: int) -> bool:
    """Let a calamity happen in a new run, and check what follows; return whether it happened."""
    given = ("--results", user.run.parent, "--no-report")
    done = user.suffers(kind, number, *RUN, *TWO, *given)
    *lines, end = done.stderr.splitlines()
    if done.returncode:
        assert done.returncode == (2 if number < 2 else 74), done.stderr
        check(user, kind, "\n".join(lines))
    else:
        assert kind in {"without_records", "no_results"} or "nothing" in end
        assert not Run("x", user.run.parent).missing
    return "nothing" not in end


def test_a_run_that_is_removed_before_its_last_record_is_written(results: Path) -> None:
    assert happens(User(results), "removed", 7)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_whatever_happens_at_each_write(kind: str, results: Path) -> None:
    user = User(results)
    number = 0 if kind in {"full", "read_only", "replaced"} else 1
    while happens(user, kind, number):
        shutil.rmtree(user.run, ignore_errors=True)
        results.mkdir(exist_ok=True)
        number += 1
    assert number == 17  # The manifest four times, four records, eight tables.


@pytest.mark.slow
def test_an_interrupted_run_whose_results_are_gone_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # The paths of sockets are short.
    results = tmp_path / "my results"
    driver = start(results, "--dispatch", "inline", "--seeds", 2)
    wait_for(lambda: list(results.glob("x/records/*.json")))
    shutil.rmtree(results)
    driver.terminate()
    _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 130
    (kept,) = (line for line in errors.splitlines() if "trials are finished" in line)
    assert kept.startswith("1 of 2 trials are finished. The run lacks 1 record, kept in `")
    (line,) = re.findall("`(mkdir [^`]*)`", kept)
    done = typed(line)
    assert done.returncode == 0, done.stderr
    assert not Run("x", results).missing


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run `x`."""
    results = tmp_path_factory.mktemp("whole")
    done = in_this_process(*RUN, "--results", results, "--backends", "reference")
    assert done.returncode == 0, done.stderr
    return results / "x"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["full", "read_only"])
def test_each_file_of_a_report_that_cannot_be_written(
    kind: str, results: Path, whole: Path
) -> None:
    user = User(results)
    given = ("--results", results, "--resume", "x", "--dispatch", "inline")
    for number in count(10):
        shutil.copytree(whole, user.run)
        done = user.suffers(kind, number, "run", *given, "--report")
        *lines, end = done.stderr.splitlines()
        if "nothing" in end:
            break
        assert done.returncode == 74
        relieve(kind, user.run)
        assert user.types("sh", "-c", hint("\n".join(lines))).returncode == 0
        assert (user.run / "report.html").is_file()
        plots = sorted(path.suffix for path in user.run.glob("plots/*"))
        assert plots.count(".svg") == plots.count(".png") > 3
        shutil.rmtree(user.run)
    assert number == 10 + 1 + len(plots)


@pytest.mark.parametrize("failed", [False, True])
def test_a_table_that_cannot_be_written_is_said(
    cli: Cli, whole: Path, tmp_path: Path, failed: bool
) -> None:
    shutil.copytree(whole, tmp_path / "x")
    if failed:
        record = tmp_path / "x" / "records" / "seed0-reference-cpu.json"
        record.write_text(record.read_text().replace('"status": "ok"', '"status": "failed"'))
    table = tmp_path / "x" / "steps.csv"
    table.unlink()
    table.mkdir()  # Nothing can take its place.
    done = cli("run", "--resume", "x", "--results", tmp_path, "--dispatch", "inline")
    assert done.returncode == (1 if failed else 74), done.stderr
    assert f"error: `{table}` cannot be written: " in done.stderr
    assert "missing or old: the tables steps, lags, chunks." in done.stderr
    assert "Accuracy, mean over seeds" in done.stdout  # The results are shown all the same.
    table.rmdir()
    words = shlex.split(hint(done.stderr))
    assert words[:3] == ["python", "-m", "harness"]
    assert cli(*words[3:]).returncode == failed
    assert table.is_file()


def test_from_python_it_is_an_error(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "x")
    (tmp_path / "x" / "trials.csv").unlink()
    (tmp_path / "x" / "trials.csv").mkdir()
    with pytest.raises(StoreError, match=r"run --resume x --results .*` writes what is missing"):
        harness.resume("x", dispatch="inline", results=tmp_path)
