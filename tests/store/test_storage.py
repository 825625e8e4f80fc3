"""The same rules for a folder on a disk, in memory, on S3 and on a file system behind fsspec."""

from __future__ import annotations

import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner

import harness
from benchmarks.helpers.histories import copy
from benchmarks.helpers.s3 import BUCKET, S3Server
from harness import InvalidInput, Run, StoreError, UnknownName, doctor
from harness.cli import cli
from harness.inputs.bounded import TooLarge
from harness.store.files import LocalFolder
from harness.store.lease import Lease, Timing
from harness.store.outbox import Outbox, Retries, outbox_of
from harness.store.remote import Folder, RemoteFolder
from harness.store.results_folder import find_run, open_folder, run_folders
from harness.store.run_writer import RunExists, RunWriter
from tests.helpers.records import MANIFEST, TINY_TASK, record

# On a busy machine a thread or a server may have to wait for a second before it runs.
QUICK = Timing(answer_s=30.0, renew_s=0.1, watch_s=2.0, settle_s=0.1)
# Of a store that is suspended: there is no answer to wait for. It is told as 1 s.
SUSPENDED = Timing(answer_s=0.6, renew_s=0.1, watch_s=2.0, settle_s=0.1)
EAGER = Retries(pause_s=0.01, share=1.0, longest_s=0.01, at_end_s=60.0)
PLACES = ["local", "memory", "s3", "files"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3")).start().make_bucket()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def url(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return where on S3 results of one test may be."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def quick(url: str) -> RemoteFolder:
    """Return a folder that gives up fast."""
    folder = open_folder(url)
    assert isinstance(folder, RemoteFolder)
    folder._timing = QUICK
    return folder


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return LocalFolder(tmp_path / "results")
    if request.param == "memory":
        return quick(f"memory://{uuid.uuid4().hex}/results")
    if request.param == "s3":
        return quick(request.getfixturevalue("url"))
    # Not an object store: files are written under another name and moved.
    path = str(tmp_path / "results")
    return RemoteFolder(fsspec.filesystem("file"), path, "sftp://host/results", QUICK)


def test_files_are_whole_and_found_again(place: Folder) -> None:
    run = place.folder("r")
    hold = run.claim()
    run.write("records/a.json", b"one")
    run.write("records/a.json", b"two")
    run.create("records/b.json", b"b")
    with pytest.raises(FileExistsError):
        run.create("records/b.json", b"other")
    assert run.read("records/b.json") == b"b"
    assert run.names("records", ".json") == ["records/a.json", "records/b.json"]
    found = dict(run.read_many(["records/a.json", "records/none.json", "records/b.json"]))
    assert isinstance(found.pop("records/none.json"), FileNotFoundError)
    assert found == {"records/a.json": b"two", "records/b.json": b"b"}
    run.rename("records/a.json", "records/a.unreadable")
    assert run.read("records/a.unreadable") == b"two"
    run.delete("records/a.unreadable")
    run.delete("records/a.unreadable")
    assert run.names("records", "") == ["records/b.json"]
    with pytest.raises(FileNotFoundError):
        run.read("records/a.json")
    assert place.folders() == ["r"]
    hold.release()
    run.remove()
    assert run.names("records", "") == []
    assert place.folders() == []


def test_a_file_is_read_up_to_a_limit(place: Folder) -> None:
    run = place.folder("r")
    run.claim().release()
    run.write("records/empty.json", b"")
    run.write("records/five.json", b"12345")
    assert run.read("records/empty.json") == b""
    assert run.read("records/five.json", 5) == b"12345"
    with pytest.raises(TooLarge):
        run.read("records/five.json", 4)
    found = dict(run.read_many(run.names("records"), 4))
    assert found["records/empty.json"] == b""
    assert isinstance(found["records/five.json"], TooLarge)


def test_no_name_leads_out_of_a_folder(place: Folder) -> None:
    run = place.folder("r")
    run.claim().release()
    place.write("secret", b"secret")
    for name in ("../secret", "records/../../secret", "./../secret", "/secret"):
        with pytest.raises(OSError, match="is no name of a file in it"):
            run.read(name)
        with pytest.raises(OSError, match="is no name of a file in it"):
            run.write(name, b"")
    assert place.read("secret") == b"secret"


def test_names_in_a_bucket_lead_nowhere(url: str) -> None:
    store, bucket = fsspec.filesystem("s3"), url.removeprefix("s3://")
    for name in ("../x/manifest.json", "a/../../manifest.json", "./manifest.json", "\x1bb/x"):
        store.pipe_file(f"{bucket}/{name}", b"{}")
    folder = quick(url)
    assert not {"..", ".", ""} & set(folder.folders())
    assert run_folders(url) == []
    done = CliRunner().invoke(cli, ["history", "--results", url])
    assert done.exit_code == 2
    assert "\x1b" not in done.output


def test_links_on_a_server_are_not_written_to(tmp_path: Path) -> None:
    place = RemoteFolder(fsspec.filesystem("file"), str(tmp_path), "sftp://host/results", QUICK)
    run = place.folder("r")
    run.claim().release()
    run.write("manifest.json", b"{}")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "r" / ".manifest.json.part").symlink_to(tmp_path / "secret")
    run.write("manifest.json", b"{}")  # Under a name that nobody can guess.
    assert (tmp_path / "secret").read_text() == "secret"
    with pytest.raises(OSError, match=r"manifest.json.part` is a link, which is not followed"):
        run.hold(print)


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_lease_is_short(place: Folder) -> None:
    run = place.folder("r")
    run.write("manifest.json", b"{}")
    run.write(".lock", b"x" * 10**6)
    with pytest.raises(TooLarge):
        run.hold(print)


def test_of_many_who_create_a_file_one_does(place: Folder) -> None:
    run = place.folder("r")
    run.claim().release()
    if run.location.startswith("sftp"):
        pytest.skip("there a file is only looked for before it is written")
    won: list[int] = []

    def create(number: int) -> None:
        try:
            run.create("records/a.json", str(number).encode())
            won.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.read("records/a.json") == str(won[0]).encode()
    # That in memory has no operation for it that cannot be interrupted.
    assert len(won) == 1 or run.location.startswith("memory")


def test_a_run_has_one_writer(place: Folder) -> None:
    run = place.folder("r")
    hold = run.claim()
    run.write("manifest.json", b"{}")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="run `r` is being written by another process"):
            run.hold(print)
    assert not hold.confirm()
    hold.release()
    with pytest.raises(FileExistsError):
        run.claim()
    run.hold(print).release()


def test_the_lease_of_a_dead_writer_is_taken_over_and_he_stops(url: str) -> None:
    run = quick(url).folder("r")
    dead = run.claim()
    run.write("manifest.json", b"{}")
    dead._ended.set()  # What his death would end: the renewals.
    notes: list[str] = []
    hold = run.hold(notes.append)
    assert "watching for 2 s" in notes[0]
    assert not hold.confirm()
    with pytest.raises(StoreError, match="taken over by another process"):
        dead.confirm()
    dead.release()  # Not his to release any more.
    assert not hold.confirm()
    hold.release()
    assert run.names("", ".lock") == []


@pytest.mark.parametrize("place", ["s3", "memory"], indirect=True)
def test_of_two_who_take_over_one_does(place: Folder) -> None:
    run = place.folder("r")
    dead = run.claim()
    assert isinstance(dead, Lease)
    dead._ended.set()
    outcomes: list[str] = []

    def take() -> None:
        try:
            hold = run.hold(print)
            time.sleep(0.5)
            hold.confirm()
            outcomes.append("held")
        except (InvalidInput, StoreError):
            outcomes.append("refused")

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused", "refused"]


@pytest.fixture(params=["memory", "s3"])
def results(request: pytest.FixtureRequest) -> str:
    return str(
        request.getfixturevalue("url") if request.param == "s3" else f"memory://{uuid.uuid4().hex}"
    )


def test_a_run_in_a_store_is_read_back(results: str, tmp_path: Path) -> None:
    with RunWriter.create(results, MANIFEST) as writer:
        writer.add(record(1))
        writer.add(record(0, status="failed"))
        assert [r.seed for r in Run.of(writer.folder).records] == [0, 1]
        writer.write_derived("trials.csv", b"trial\n")
    run = Run("r", results)
    assert (run.name, run.location) == ("r", f"{results}/r")
    assert [r.status for r in run.records] == ["failed", "ok"]
    assert run.manifest == MANIFEST
    assert [folder.name for folder in run_folders(results)] == ["r"]
    with RunWriter.resume(results, "r") as writer:
        assert Run.of(writer.folder).missing == []
        with pytest.raises(InvalidInput, match="exists already"):
            RunWriter.create(results, MANIFEST)
    with pytest.raises(UnknownName, match="unknown run `q`; known: r in"):
        find_run(results, "q")
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_broken_record_in_a_store_is_set_aside(results: str) -> None:
    with RunWriter.create(results, MANIFEST) as writer:
        writer.add(record(0))
    folder = open_folder(results).folder("r")
    folder.write("records/seed1-a.B-cpu.json", b"{")
    with RunWriter.resume(results, "r") as writer:
        problems = writer.folder.load().problems
        assert "seed1-a.B-cpu.json` is left out" in next(iter(problems.values()))
        writer.set_aside(problems)
        assert Run.of(writer.folder).problems == []
    assert Run("r", results).missing == ["seed1-a.B-cpu"]
    assert folder.read("records/seed1-a.B-cpu.unreadable") == b"{"


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_run_without_an_id_of_its_own_gets_a_free_one(where: str, tmp_path: Path) -> None:
    results = str(tmp_path) if where == "local" else f"memory://{uuid.uuid4().hex}"
    names = []
    for _ in range(3):
        with RunWriter.create(results, MANIFEST, numbered=True) as writer:
            names.append((writer.name, find_run(results, writer.name).manifest().plan.run))
    assert names == [("r", "r"), ("r-2", "r-2"), ("r-3", "r-3")]
    with pytest.raises(RunExists):
        RunWriter.create(results, MANIFEST)


class Driver:
    """A writer in a hurry, on a store that may stop answering."""

    def __init__(self, url: str, create: bool = True, retries: Retries = EAGER) -> None:
        self.notes: list[str] = []
        self.run = quick(url).folder("r")
        self.hold = self.run.claim() if create else self.run.hold(self.notes.append)
        self.outbox = Outbox(self.run, self.hold, self.notes.append, retries)
        if create:
            self.run.write("manifest.json", MANIFEST.model_dump_json().encode())
        self.outbox.load()
        self.writer = RunWriter(self.outbox, self.hold, MANIFEST)

    def suspend(self, server: S3Server) -> None:
        with self.hold._busy:  # A renewal that is under way would wait for long.
            server.suspend()
            self.run._timing = SUSPENDED

    def wake(self, server: S3Server) -> None:
        server.wake()
        self.run._timing = QUICK

    @property
    def waiting(self) -> list[str]:
        return outbox_of(self.run).names("records", ".json")


def test_an_outage_costs_nothing(server: S3Server, url: str) -> None:
    driver = Driver(url)
    with driver.writer as writer:
        writer.add(record(0))
        driver.suspend(server)
        writer.add(record(1))
        assert len(driver.waiting) == 1
        assert Run.of(writer.folder).missing == []
        driver.wake(server)
        writer.deliver()
        assert driver.waiting == []
    assert "does not answer (no answer within 1 s): the run goes on" in driver.notes[0]
    assert "answers again" in driver.notes[1]
    assert Run("r", url).missing == []


def test_what_cannot_be_delivered_waits_for_the_next_driver(server: S3Server, url: str) -> None:
    driver = Driver(url, retries=Retries(at_end_s=0.0))
    driver.suspend(server)
    try:
        with driver.writer as writer:
            writer.add(record(0))
            with pytest.raises(StoreError, match="does not answer and lacks 1 record, kept in"):
                writer.deliver()
    finally:
        server.wake()
    outbox = Path(outbox_of(driver.run).location)
    assert {path.stat().st_mode & 0o777 for path in (outbox, *outbox.parents[:2])} == {0o700}
    assert Run("r", url).records == []
    with pytest.raises(InvalidInput, match="exists already"):
        RunWriter.create(url, MANIFEST)
    with Driver(url, create=False).writer as writer:
        assert [r.seed for r in Run.of(writer.folder).records] == [0]
    assert Run("r", url).records == [record(0)]
    assert not outbox.exists()


@pytest.mark.slow
def test_what_can_wait_nowhere_is_kept_elsewhere(server: S3Server, url: str) -> None:
    driver = Driver(url, retries=Retries(at_end_s=0.0))
    records = Path(outbox_of(driver.run).location) / "records"
    driver.suspend(server)
    try:
        with driver.writer as writer:
            records.rmdir()
            records.write_bytes(b"")  # Nothing can be written there.
            with pytest.raises(StoreError, match="and on this machine: "):
                writer.add(record(0))
            rescued = writer.rescue([record(0)])
    finally:
        server.wake()
    assert rescued
    assert (rescued.records, rescued.problem) == (1, "")
    records.unlink()
    subprocess.run(["sh", "-c", rescued.back], check=True)
    with Driver(url, create=False).writer as writer:
        assert Run.of(writer.folder).records == [record(0)]
    assert Run("r", url).records == [record(0)]


@pytest.mark.slow
def test_a_store_that_lost_everything_gets_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = S3Server(tmp_path).start().make_bucket()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/deep"
    try:
        driver = Driver(url, retries=Retries(pause_s=0, share=9, longest_s=0, at_end_s=0))
        with driver.writer as writer:
            writer.add(record(0))
            server.kill()
            writer.add(record(1))
            server.start()  # Without data, nor even the bucket.
            with pytest.raises(StoreError, match="does not answer and lacks 2 records"):
                writer.deliver()
        server.make_bucket()
        notes: list[str] = []
        with RunWriter.resume(url, "r", notes.append) as writer:
            assert Run.of(writer.folder).missing == []
        assert "was emptied" in notes[0]
        assert Run("r", url).records == [record(0), record(1)]

        # The same while the driver lives.
        driver = Driver(url, create=False, retries=EAGER)
        with driver.writer as writer:
            server.kill()
            server.start().make_bucket()
            time.sleep(2 * QUICK.renew_s)
            writer.update(finished_utc="then")
            writer.deliver()
        assert Run("r", url).records == [record(0), record(1)]
    finally:
        server.kill()


def test_what_another_driver_measured_meanwhile_stays(url: str, server: S3Server) -> None:
    driver = Driver(url, retries=Retries(at_end_s=0.0))
    driver.suspend(server)
    with driver.writer as writer:
        writer.add(record(0))
    driver.wake(server)
    other = driver.run
    other.write("records/seed0-a.B-cpu.json", record(0, wall_s=7).model_dump_json().encode())
    newer = MANIFEST.model_copy(update={"finished_utc": "later"})
    other.write("manifest.json", newer.model_dump_json().encode())
    later = Driver(url, create=False)
    with later.writer:
        pass
    assert "is there already" in later.notes[-1]
    run = Run("r", url)
    assert [r.wall_s for r in run.records] == [7]
    assert run.manifest.finished_utc == "later"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s4://bucket/x", "unknown protocol `s4` (did you mean `s3`?)"),
        ("http://host/x", "unknown protocol `http`"),
        ("reference://x", "unknown protocol `reference`"),
        ("simplecache::s3://bucket/x", "chained URLs"),
        ("s3://bucket/x::memory://y", "chained URLs"),
        ("s3://bucket/../other", "holds no `.` or `..`"),
        ("memory://a/./b", "holds no `.` or `..`"),
        ("s3:/bucket", "write it as `s3://...`"),
        ("s3://", "names no bucket"),
        ("file://here", "write `file:///`"),
        ("s3://me:secret@bucket/x", "`s3://...@bucket/x`: a URL that others see"),
        ("sftp://me:secret@host/x", "holds no credentials"),
        ("az://box/x?sig=secret", "`az://box/x?...`: a URL of results holds no"),
        ("s3://bucket/a b", "holds no space"),
        ("s3://bucket/*", "holds no space and none of"),
    ],
)
def test_a_bad_url_is_one_clear_sentence(url: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        open_folder(url)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_package_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"`gs://` needs a package .*gcsfs"):
        open_folder("gs://bucket/x")
    with pytest.raises(InvalidInput, match="give a URL as text"):
        harness.load("x", Path("s3://bucket"))


def test_the_doctor_tries_a_store(url: str) -> None:
    assert doctor.store(open_folder(url)).status == "ok"
    assert open_folder(url).names("", "") == []
    reading = doctor.store(open_folder("s3://no-such-bucket/x"))
    assert (reading.status, "bucket does not exist" in reading.advice) == ("warn", True)


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    with RunWriter.create(f"file://{tmp_path}", MANIFEST) as writer:
        assert writer.location == str(tmp_path / "r")
    assert Run("r", tmp_path).manifest == Run("r", f"file://{tmp_path}").manifest


def test_a_store_that_cannot_be_used_is_refused_before_anything_starts(url: str) -> None:
    def refused(*arguments: str, **environment: str) -> str:
        done = CliRunner(env=environment).invoke(cli, arguments)
        assert done.exit_code == 2, done.output
        assert done.stderr.strip().count("\n") == 0
        return done.stderr

    run = ("run", "--backends", "reference", "--dispatch", "inline", "--results")
    assert "bucket does not exist" in refused(*run, "s3://no-such-bucket/x")
    assert "there is no bucket" in refused("show", "x", "--results", "s3://no-such-bucket/x")
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    assert "Could not connect" in refused(*run, url, **nowhere)
    assert "Could not connect" in refused("list", "--results", url, **nowhere)
    assert "did you mean `s3`" in refused(*run, "s4://bucket/x")


def test_whole_runs_on_s3(url: str, server: S3Server) -> None:
    settings: dict[str, Any] = {"backends": ["reference"], "seeds": 1, "rounds": 2}
    run = harness.run(TINY_TASK, results=url, run_id="a", dispatch="inline", **settings)
    assert run.trials["status"].tolist() == ["ok"]
    copy(run, url, "b", number=1, noise=0.01)
    files = server.system().find(url)
    assert {file.rpartition(".")[2] for file in files} == {"json", "parquet", "csv"}
    for arguments, expected in (
        (("show", "a", "--table", "steps"), "memoryless"),
        (("compare", "a", "b"), "identical"),
        (("list",), "1/1 trials"),
        (("run", "--resume", "a", "--dispatch", "inline"), "complete: nothing to do"),
    ):
        done = CliRunner().invoke(cli, [*arguments, "--results", url])
        assert done.exit_code == 0, done.output
        assert expected in done.output
    server.system().rm(f"{url}/a/records/seed0-reference-cpu.json")
    assert harness.load("a", url).missing == ["seed0-reference-cpu"]
    assert harness.resume("a", results=url, dispatch="inline").missing == []
