"""Below a results folder no link is followed, and nothing is read that is no regular file."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import InvalidInput, Run, StoreError
from harness.store.files import LocalFolder
from harness.store.results_folder import run_folders
from harness.store.run_writer import RunWriter
from tests.helpers.commands import Cli
from tests.helpers.records import MANIFEST, record

RECORD = "records/seed0-a.B-cpu.json"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return results of two runs, `r` and `other`."""
    for name in ("r", "other"):
        plan = MANIFEST.plan.model_copy(update={"run": name})
        manifest = MANIFEST.model_copy(update={"plan": plan})
        with RunWriter.create(tmp_path / "results", manifest) as writer:
            writer.add(record(0, run=name))
            writer.add(record(1, run=name))
    return tmp_path / "results"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return a file that nobody may change, in a folder that nobody may change."""
    canary = tmp_path / "elsewhere" / "canary"
    canary.parent.mkdir()
    canary.write_text("alive")
    os.utime(canary, (1, 1))
    os.utime(canary.parent, (1, 1))
    return canary


def is_untouched(canary: Path) -> bool:
    times = {canary.stat().st_mtime, canary.parent.stat().st_mtime}
    return canary.read_text() == "alive" and times == {1} and len(os.listdir(canary.parent)) == 1


WRITTEN = [
    *("report.html", ".lock", "manifest.json", "trials.csv", "plots/steps.svg", RECORD, "notes"),
    *(".report.html.part", ".manifest.json.part", "plots/", "records/"),
]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_with_a_link_in_it_is_not_written(
    cli: Cli, results: Path, canary: Path, name: str
) -> None:
    place = results / "r" / name.rstrip("/")
    place.parent.mkdir(exist_ok=True)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(canary.parent if name.endswith("/") else canary)
    before = sorted(results.rglob("*"))
    resumed = cli("run", "--resume", "r", "--results", results, "--dispatch", "inline")
    assert resumed.returncode == 2
    reported = cli("report", "r", "--results", results)
    # What cannot be read is bad input; what cannot be written is not.
    assert reported.returncode == (2 if name in {"manifest.json", "records/"} else 74)
    for done in (resumed, reported):
        assert f"{place}" in done.stderr
        assert "is a link, which is not followed" in done.stderr
    assert sorted(results.rglob("*")) == before
    assert is_untouched(canary)


@pytest.mark.parametrize("name", ["report.html", "plots", "plots/steps-vs-t.svg"])
def test_a_report_elsewhere_follows_no_link(
    cli: Cli, results: Path, canary: Path, tmp_path: Path, name: str
) -> None:
    place = tmp_path / "paper" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(canary.parent if name == "plots" else canary)
    done = cli("report", "r", "--results", results, "--to", tmp_path / "paper")
    assert done.returncode == 74
    assert f"`{place}` is a link, which is not followed" in done.stderr
    assert is_untouched(canary)
    assert not any(path.is_file() for path in place.parent.iterdir() if not path.is_symlink())


def test_a_link_that_the_user_names_is_followed(
    cli: Cli, results: Path, canary: Path, tmp_path: Path
) -> None:
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "notes").symlink_to(canary)  # Nothing that a report is written to.
    for name in ("results", "paper"):
        (tmp_path / f"my-{name}").symlink_to(tmp_path / name)
    words = ("--results", tmp_path / "my-results", "--to", tmp_path / "my-paper")
    assert cli("report", "r", *words, "--no-plots").returncode == 0
    assert (tmp_path / "paper" / "report.html").is_file()
    with RunWriter.resume(tmp_path / "my-results", "r"):
        pass


def test_a_lock_is_not_emptied(results: Path) -> None:
    (results / "r" / ".lock").write_text("kept")
    with RunWriter.resume(results, "r"):
        pass
    assert (results / "r" / ".lock").read_text() == "kept"


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["fifo", "folder"])
def test_a_lock_is_a_regular_file(results: Path, make: Callable[[Path], object]) -> None:
    (results / "r" / ".lock").unlink()
    make(results / "r" / ".lock")
    with pytest.raises(InvalidInput, match=r"regular file; remove it|Is a directory"):
        RunWriter.resume(results, "r")


def test_a_hard_link_is_not_written_through(results: Path, canary: Path) -> None:
    for name in (".lock", "manifest.json", "report.html"):
        (results / "r" / name).unlink(missing_ok=True)
        os.link(canary, results / "r" / name)
    os.utime(canary.parent, (1, 1))
    shutil.copyfile(results / "other" / "manifest.json", results / "copy")
    (results / "r" / "manifest.json").unlink()
    (results / "copy").rename(results / "r" / "manifest.json")
    with RunWriter.resume(results, "r") as writer:
        writer.update(finished_utc="now")
        writer.folder.write([("report.html", b"page")])
    assert is_untouched(canary)


def test_a_file_of_a_swapped_folder_is_not_written(results: Path, canary: Path) -> None:
    with RunWriter.resume(results, "r") as writer:
        (results / "r").rename(results / "moved")
        (results / "r").symlink_to(canary.parent)
        with pytest.raises(StoreError, match="is a link, which is not followed"):
            writer.update(finished_utc="now")
    assert is_untouched(canary)


@pytest.mark.parametrize("name", ["../x", "records/../../x", "/x", "a//b", ".", "", "a\0b"])
def test_no_name_leads_out_of_a_folder(results: Path, name: str) -> None:
    folder = LocalFolder(results).folder("r")
    with pytest.raises(OSError, match="is no name of a file in it"):
        folder.write(name, b"x")
    with pytest.raises(OSError, match="is no name of a file in it"):
        folder.read(name)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(path.parent, os.O_RDONLY)  # The name of a socket has at most 107 letters.
        listening.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def _copy_of_zero(path: Path) -> None:
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("needs root to make a device")


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "it is no regular file"),
    "folder": (Path.mkdir, "it is no regular file"),
    "socket": (_socket, "it is no regular file"),
    "device": (_copy_of_zero, "it is no regular file"),
    "huge": (_sparse, "it holds more than 67,108,864 bytes"),
    "link": (lambda path: path.symlink_to("/dev/zero"), "it is a link, which is not followed"),
    "link to a folder": (lambda path: path.symlink_to("/"), "it is a link"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_only_regular_files_of_a_bounded_size_are_read(cli: Cli, results: Path, kind: str) -> None:
    make, sentence = UNFIT[kind]
    for name in ("manifest.json", RECORD):
        (results / "r" / name).unlink()
        make(results / "r" / name)
        if name == "manifest.json":
            with pytest.raises(InvalidInput, match=sentence):
                Run("r", results)
            assert [folder.name for folder in run_folders(results)] == ["other", "r"]
            listed = cli("list", "--results", results)
            assert listed.returncode == 0
            assert sentence in listed.stdout
            if (results / "r" / name).is_dir() and not (results / "r" / name).is_symlink():
                (results / "r" / name).rmdir()
            else:
                (results / "r" / name).unlink()
            shutil.copyfile(results / "other" / name, results / "r" / name)
            text = (results / "r" / name).read_text().replace('"other"', '"r"')
            (results / "r" / name).write_text(text)
    run = Run("r", results)
    assert [r.seed for r in run.records] == [1]
    assert sentence in run.problems[0]


def test_a_link_to_a_run_has_a_line(cli: Cli, results: Path) -> None:
    (results / "linked").symlink_to(results / "r")
    (results / "file").symlink_to(results / "r" / "manifest.json")
    listed = cli("list", "--results", results)
    assert listed.returncode == 0
    assert f"`{results}/linked` is a link, which is not followed" in listed.stdout
    assert "  file " not in listed.stdout
    shown = cli("show", "linked", "--results", results)
    assert shown.returncode == 2
    assert "is a link, which is not followed" in shown.stderr
    assert "linked" in cli("history", "--results", results).stderr
