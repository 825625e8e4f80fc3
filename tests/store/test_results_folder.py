"""Places that are no folder for results, and file systems that lack what a run needs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import InvalidInput, Run
from harness.store.files import write_whole
from harness.store.run_writer import RunWriter
from tests.helpers.commands import TINY_RUN, Cli
from tests.helpers.records import MANIFEST, PLAN, record

PLACES = {
    "file": "`{}` is no folder",
    "below a file": "`{}` is no folder",
    "link to nothing": "is a link to `nowhere`, which is not there",
    "below that link": "is a link to `nowhere`, which is not there",
    "loop": "is a link to `loop`, which is not there",
    "long name": "File name too long",
    "system": "`{}` cannot be written",
    "empty": "is empty",
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A place where no results can be, and what is said about it."""
    file, link, loop = tmp_path / "file", tmp_path / "link", tmp_path / "loop"
    file.write_text("")
    link.symlink_to("nowhere")
    loop.symlink_to("loop")
    places = {
        "file": file,
        "below a file": file / "deep" / "results",
        "link to nothing": link,
        "below that link": link / "results",
        "loop": loop,
        "long name": tmp_path / ("n" * 300),
        "system": Path("/proc/results"),
        "empty": "",
    }
    culprit = file if "file" in request.param else places[request.param]
    return str(places[request.param]), PLACES[request.param].format(culprit)


def test_a_run_is_refused_where_no_results_can_be(cli: Cli, place: tuple[str, str]) -> None:
    results, sentence = place
    for named in ((), ("--run-id", "x")):
        options = ("--dispatch", "inline", "--backends", "reference", "--results", results)
        done = cli(*TINY_RUN, *options, *named)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert done.stderr.count("error: ") == 1


def test_no_command_finds_a_run_there(cli: Cli, place: tuple[str, str]) -> None:
    results, sentence = place
    for words in (
        ("show", "x"),
        ("explain", "x"),
        ("report", "x"),
        ("compare", "x", "y"),
        ("run", "--resume", "x"),
        ("history",),
        ("list",),
        ("submit", "--address", "http://127.0.0.1:1", "--", "run"),
    ):
        given = words.index("--") if "--" in words else len(words)
        done = cli(*words[:given], "--results", results, *words[given:])
        if Path(results).parent == Path("/proc"):  # There may well be a folder without runs.
            assert "Traceback" not in done.stderr
        else:
            assert done.returncode == 2
            assert sentence in done.stderr


def test_a_numbered_run_takes_the_next_name(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("no run at all")
    (tmp_path / "r-2").symlink_to("nowhere")
    with RunWriter.create(tmp_path, MANIFEST, numbered=True) as writer:
        assert writer.name == "r-3"


@contextmanager
def _without(monkeypatch: pytest.MonkeyPatch, what: str) -> Iterator[None]:
    def lacking(*_: object) -> None:
        code = errno.ENOLCK if what == "locks" else errno.EINVAL
        raise OSError(code, os.strerror(code))

    module, call = {"locks": (fcntl, "flock"), "fsync": (os, "fsync")}[what]
    with monkeypatch.context() as patch:
        patch.setattr(module, call, lacking)
        yield


@pytest.mark.parametrize("what", ["locks", "fsync"])
def test_a_file_system_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    sentence = r"its file system has no {} \(.*\); name a folder on a local disk"
    with _without(monkeypatch, what), pytest.raises(InvalidInput, match=sentence.format(what)):
        RunWriter.create(tmp_path, MANIFEST)
    assert list(tmp_path.iterdir()) == []  # So the name is free.
    with RunWriter.create(tmp_path, MANIFEST) as writer:
        assert writer.name == "r"
    no_locks = sentence.format("locks")
    with _without(monkeypatch, "locks"), pytest.raises(InvalidInput, match=no_locks):
        RunWriter.resume(tmp_path, "r")
    assert Run("r", tmp_path).manifest == MANIFEST


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, b"verdict")
    assert os.read(reader, 100) == b"verdict"
    os.close(reader)
    assert pipe.is_fifo()


def test_the_list_shows_a_copy_by_its_own_name(cli: Cli, tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, MANIFEST) as writer:
        writer.add(record(0))
        writer.add(record(0, attempt=2, go=2))
    shutil.copytree(tmp_path / "r", tmp_path / "copy")
    for foreign in ("notes.json", "seed7-a.B-cpu.json", "seed1-a.B-cpu.txt"):
        (tmp_path / "copy" / "records" / foreign).write_text("{}")
    (tmp_path / "loop").symlink_to("loop")
    broken = tmp_path / "broken" / "manifest.json"
    broken.parent.mkdir()
    broken.write_text(json.dumps({"schema_version": 10**6}))
    (tmp_path / "odd" / "manifest.json").mkdir(parents=True)
    (tmp_path / "flat").mkdir()
    shutil.copy(tmp_path / "r" / "manifest.json", tmp_path / "flat")
    (tmp_path / "flat" / "records").write_text("")
    runs = cli("list", "--results", tmp_path).stdout.partition("Runs in ")[2].splitlines()[1:]
    told = dict(line.split(maxsplit=1) for line in runs)
    assert told["copy"] == told["r"] == f"1/{PLAN.size} trials  a:B on cpu"
    assert "newer version" in told["broken"]
    assert "no regular file" in told["odd"]
    assert "`records` is no folder" in told["flat"].replace(f"{tmp_path}/flat/", "")
    assert sorted(told) == ["broken", "copy", "flat", "odd", "r"]
