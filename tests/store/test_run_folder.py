from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from harness import InvalidInput, Run, StoreError, Task
from harness.errors import did_you_mean
from harness.store.results_folder import find_run, run_folders
from harness.store.run_writer import RunWriter
from tests.helpers.records import MANIFEST, PLAN, record


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "deep" / "results", MANIFEST) as writer:
        writer.add(record(1))
        writer.add(record(0, status="diverged", step_mse=(float("nan"), 1.0)))
    run = Run("r", tmp_path / "deep" / "results")
    assert [r.seed for r in run.records] == [0, 1]
    assert run.manifest == MANIFEST
    assert run.records[1] == record(1)
    assert run.missing == []
    assert run.trials["epochs_per_s"].tolist() == [500, 500]


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, MANIFEST), pytest.raises(InvalidInput, match="exists already"):
        RunWriter.create(tmp_path, MANIFEST)


def test_a_run_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        RunWriter.create(tmp_path, MANIFEST),
        pytest.raises(InvalidInput, match="by another process"),
    ):
        RunWriter.resume(tmp_path, "r")
    with RunWriter.resume(tmp_path, "r") as writer:
        assert writer.manifest == MANIFEST


def test_a_run_on_a_disk_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with RunWriter.create(tmp_path, MANIFEST):
        pass
    with RunWriter.resume(tmp_path, "r") as writer:
        assert writer.manifest == MANIFEST


def test_a_run_whose_manifest_is_broken_is_held_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url, store = f"memory://{uuid.uuid4().hex}", fsspec.filesystem("memory")
    with RunWriter.create(url, MANIFEST):
        pass
    manifest = f"{url.removeprefix('memory:/')}/r/manifest.json"
    whole = store.cat_file(manifest)
    store.pipe_file(manifest, b"{broken")
    with pytest.raises(InvalidInput, match="cannot be read as a manifest"):
        RunWriter.resume(url, "r")
    store.pipe_file(manifest, whole)
    said: list[str] = []
    with RunWriter.resume(url, "r", said.append) as writer:
        assert writer.manifest == MANIFEST
    assert said == []  # It did not have to watch whether a holder lives.


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", '{"run": "r"}', "[1, 2]", "\x00\xff", '{"schema_version": 2}', "[" * 5000),
        *('{"schema_version": Infinity}', '{"schema_version": "9"}'),
        record(1).model_dump_json().replace('"step_mse":[0.25,', '"step_mse":[0.25,0.25,'),
        record(1).model_dump_json().replace('"wall_s":1.0', '"wall_s":1e999'),
        record(1).model_dump_json().replace('"seed":1', f'"seed":{10**30}'),
        record(1).model_dump_json().replace('"threads":1', '"threads":0'),
    ],
    ids=lambda content: content[-20:],
)
def test_a_broken_record_is_left_out_and_set_aside(tmp_path: Path, content: str) -> None:
    with RunWriter.create(tmp_path, MANIFEST) as writer:
        writer.add(record(0))
        broken = tmp_path / "r" / "records" / "seed1-a.B-cpu.json"
        broken.write_text(content)
        run = Run("r", tmp_path)
        assert [r.seed for r in run.records] == [0]
        assert str(broken) in run.problems[0]
        writer.set_aside(writer.folder.load().problems)
        assert Run("r", tmp_path).problems == []
        assert broken.with_suffix(".unreadable").read_text() == content


def test_a_record_of_another_task_is_left_out(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, MANIFEST) as writer:
        writer.add(record(0, task=Task(n_steps=2, epochs=10)))
        assert Run("r", tmp_path).records == []
        assert "no record of run `r`" in Run("r", tmp_path).problems[0]


@pytest.mark.parametrize("name", ["../r", "/etc", "", ".hidden", "a b", "x" * 101])
def test_a_run_id_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="run id"):
        find_run(tmp_path, name)


def test_a_preset_names_its_last_run() -> None:
    runs = ["posted-20261126-080218", "posted-20261126-080219", "posted-sign-mended-20261126-09"]
    assert did_you_mean("posted", runs) == " (did you mean `posted-20261126-080219`?)"


def test_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    demo = PLAN.model_copy(update={"run": "demo"})
    with RunWriter.create(tmp_path, MANIFEST.model_copy(update={"plan": demo})):
        assert [folder.name for folder in run_folders(tmp_path)] == ["demo"]
    with pytest.raises(InvalidInput, match="did you mean `demo`"):
        find_run(tmp_path, "dmeo")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root to mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    with RunWriter.create(small_disk, MANIFEST) as writer:
        writer.add(record(0))
        with pytest.raises(OSError, match="No space"):
            (small_disk / "filler").write_bytes(b"x" * 2**20)
        with pytest.raises(StoreError, match="No space left on device"):
            writer.add(record(1))
        rescued = writer.rescue([record(0), record(1)])
        assert rescued
        assert rescued.records == 1
        run = Run("r", small_disk)
        assert [r.seed for r in run.records] == [0]
        assert run.problems == []
        # With room again, as the command does it.
        (small_disk / "filler").unlink()
        subprocess.run(["sh", "-c", rescued.back], check=True)
        assert Run("r", small_disk).missing == []
        assert Run("r", small_disk).records[1] == record(1)
        writer.restore([record(0), record(1)])
    assert not Path(rescued.folder).exists()
