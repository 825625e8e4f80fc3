"""What a person sees while a run goes on: on terminals of all kinds, and where there is none."""

from __future__ import annotations

import io
import os
import pty
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, ConsoleDimensions

from benchmarks.helpers.pseudo_terminal import Screen, Terminal
from harness import Run, Task
from harness.measure.clock import Clock
from harness.runs.dashboard import Dashboard, frame, reporter
from harness.runs.plot import Look, Plot
from harness.runs.progress import Lines, Quiet
from harness.runs.tally import Tally
from harness.tables.numbers import duration
from harness.trial.arms import Arm
from harness.trial.events import Notice, Planned, Progress, Started
from harness.trial.jobs import TrialJob
from harness.trial.plan import Plan
from harness.trial.record import CurvePoint, Record, Share, Status
from tests.helpers.commands import TINY_RUN, Cli, command, overriding
from tests.helpers.processes import wait_for, workers

TASK = Task(epochs=100, curve_points=10)
_BAR = re.compile("━{8}")


def jobs(
    backends: Sequence[str] = ("jax", "torch"),
    seeds: int = 3,
    at_once: bool = False,
    **swept: tuple[int, ...],
) -> list[TrialJob]:
    """The trials of a plan, in order."""
    arms = tuple(Arm(backend=backend, device="cpu") for backend in backends)
    plan = Plan(
        run="x",
        task=TASK,
        arms=arms,
        seeds=tuple(range(seeds)),
        sweep=swept,
        at_once=seeds if at_once else None,
        many=arms if at_once else (),
    )
    return [job for block in plan.blocks() for job in block]


def point(epoch: int, mse: float = 0.5) -> CurvePoint:
    return CurvePoint(epoch=epoch, train_s=epoch / 100, train_loss=mse, eval_mse=mse)


def record(
    job: TrialJob, wall_s: float, status: Status = "ok", mses: Sequence[float] = (0.5,)
) -> Record:
    """A finished trial with a mean squared error for each of its seeds."""
    curves = [tuple(point(epoch, mse) for epoch in range(10, 101, 10)) for mse in mses]
    return Record(
        **job.model_dump(include={"run", "trial", "block", "backend", "device", "seed", "seeds"}),
        task=job.task,
        node="n",
        started_utc="-",
        wall_s=wall_s,
        threads=1,
        contended=False,
        status=status,
        points=curves[0],
        shares=tuple(
            Share(seed=seed, status="ok", points=points)
            for seed, points in zip(job.seeds, curves, strict=False)
        ),
    )


def tally_of(planned: Sequence[TrialJob], ended: Sequence[Record] = ()) -> Tally:
    tally = Tally()
    tally.begin(len(planned), len(planned) + len(ended))
    tally.add(Planned(jobs=tuple(planned), ended=tuple(ended)), 0)
    return tally


def test_there_is_no_time_left_before_each_backend_has_shown_how_long_it_takes() -> None:
    planned = jobs(seeds=2)
    first, second, *others = planned
    tally = tally_of(planned)
    assert tally.left_s(0) is None
    tally.add(Started(job=first), 0)
    tally.add(record(first, wall_s=3), 3)
    assert tally.left_s(3) is None
    tally.add(Started(job=second), 3)
    tally.add(record(second, wall_s=5), 8)
    assert tally.left_s(8) == 3 + 5
    # One that runs is taken to last as long as the one before, and then no time is left of it.
    tally.add(Started(job=others[0]), 8)
    usual = {first.backend: 3, second.backend: 5}[others[0].backend]
    assert tally.left_s(9) == 8 - 1
    assert tally.left_s(8 + usual + 100) == 8 - usual


def test_a_running_trial_is_judged_by_its_pace_between_points() -> None:
    (job,) = jobs(["jax"], seeds=1)
    tally = tally_of([job])
    tally.add(Started(job=job), 0)
    tally.add(Progress(job=job, point=point(10)), 60)  # It compiled for a minute.
    one = tally.running[job.trial]
    assert tally.running_left_s(one, 60) is None
    tally.add(Progress(job=job, point=point(30)), 64)
    assert tally.running_left_s(one, 64) == pytest.approx(70 * 4 / 20)
    assert tally.running_left_s(one, 70) == pytest.approx(70 * 4 / 20 - 6)
    assert tally.left_s(1000) == 0


def test_trials_that_run_side_by_side_share_the_time() -> None:
    planned = jobs(["jax"], seeds=9)
    tally = tally_of(planned)
    for job in planned[:4]:
        tally.add(Started(job=job), 0)
    tally.add(record(planned[0], wall_s=10), 10)
    # Three that end now, and five that come, four at a time.
    assert tally.left_s(10) == 5 * 10 / 4


def test_a_budget_limits_the_time_left() -> None:
    planned = jobs(["jax"], seeds=9)
    tally = Tally()
    tally.begin(9, 9)
    tally.add(Planned(jobs=tuple(planned), budget_s=30), 0)
    tally.add(record(planned[0], wall_s=10), 10)
    assert tally.left_s(10) == 20


def test_what_had_ended_before_a_run_was_resumed_is_counted() -> None:
    first, *others = jobs(["jax"], seeds=3)
    tally = tally_of(others, [record(first, wall_s=7)])
    assert (tally.number, tally.total, tally.left_s(0)) == (1, 3, 14)


def test_a_repeated_trial_is_counted_once_with_its_last_time() -> None:
    job, other = jobs(["jax"], seeds=2)
    tally = tally_of([job, other])
    for wall_s in (10, 20):
        tally.add(Started(job=job), 0)
        tally.add(record(job, wall_s), 0)
    (group,) = tally.of_task()
    assert (tally.number, group.finished, group.figures.wall_s) == (1, 1, 20)
    # One that was lost will be run again, and has told nothing.
    tally.add(Started(job=other), 0)
    tally.add(record(other, 1, status="lost"), 0)
    assert (tally.number, group.finished, tally.left_s(0)) == (1, 1, 20)


def test_figures_are_those_of_the_summary() -> None:
    planned = jobs(["jax"], seeds=4)
    tally = tally_of(planned)
    for job, mse in zip(planned, (0.1, 0.2, 0.6), strict=False):
        tally.add(record(job, 1, mses=[mse]), 0)
    tally.add(record(planned[3], 1, status="failed", mses=[9.0]), 0)
    (group,) = tally.of_task()
    assert group.figures.mse == pytest.approx(0.3)
    assert (group.figures.train_s, group.figures.failed) == (1, 1)
    assert [epoch for epoch, _ in group.curve] == list(range(10, 101, 10))
    assert [mse for _, mse in group.curve] == pytest.approx([0.3] * 10)


def test_of_seeds_trained_at_once_each_has_its_share() -> None:
    (job,) = jobs(["jax"], seeds=4, at_once=True)
    tally = tally_of([job])
    tally.add(Started(job=job), 0)
    tally.add(record(job, 1, mses=[0.1, 0.2, 0.3, 0.4]), 0)
    (group,) = tally.of_task()
    assert group.figures.train_s == 0.25
    assert group.figures.mse == pytest.approx(0.25)
    assert "train s per seed" in shown(tally, 0, 80, 24)


def test_of_a_sweep_the_point_that_runs_is_shown() -> None:
    planned = jobs(["jax"], seeds=1, hidden=(4, 8))
    tally = tally_of(planned)
    for job, mse in zip(planned, (0.25, 0.125), strict=True):
        tally.add(Started(job=job), 0)
        tally.add(record(job, 1, mses=[mse]), 0)
    lines = shown(tally, 0, 80, 24)
    assert re.search(r"hidden=8 +trials", lines)
    assert "0.125" in lines
    assert "0.25 " not in lines
    assert "2/2 trials" in lines


def test_durations_are_said_as_people_do() -> None:
    said = [duration(seconds) for seconds in (0.1, 12.4, 89.4, 100, 3600, 5430, 7200)]
    assert said == ["1 s", "12 s", "89 s", "2 min", "60 min", "1 h 30 min", "2 h 0 min"]


def shown(
    tally: Tally,
    at: float,
    width: int,
    height: int,
    look: Look = Look(),  # noqa: B008
    plot: bool = False,
) -> str:
    """What is drawn, as plain text."""
    drawing = Plot(look) if plot else None
    if drawing:
        drawing.load()
    written = io.BytesIO()
    file = io.TextIOWrapper(written, "utf-8" if look.unicode else "ascii")
    colours: Literal["256"] | None = "256" if look.colour else None
    console = Console(file=file, width=width, height=height, color_system=colours)
    console.print(frame(tally, at, width, height, look, drawing))
    file.flush()
    plain = re.sub(r"\x1b\[[\d;]*m", "", written.getvalue().decode())
    return "\n".join(line.rstrip() for line in plain.splitlines())


def busy(running: int, backends: Sequence[str] = ("jax", "torch")) -> Tally:
    """A run of which a quarter has ended, and so many trials are running."""
    planned = jobs(backends, seeds=64)
    tally = tally_of(planned)
    for number, job in enumerate(planned[: len(planned) // 4]):
        tally.add(record(job, 5, "ok" if number else "failed", [10.0 ** -(number % 5)]), 1)
    for job in planned[len(planned) // 4 :][:running]:
        tally.add(Started(job=job), 2)
        tally.add(Progress(job=job, point=point(10, 3e-4)), 3)
        tally.add(Progress(job=job, point=point(20, 1e-5)), 4)
    return tally


BUSY = {running: busy(running) for running in (0, 1, 3, 64)}


@given(
    st.sampled_from(sorted(BUSY)),
    st.integers(1, 250),
    st.integers(1, 80),
    st.booleans(),
    st.booleans(),
)
def test_what_is_shown_fits_on_any_terminal(
    running: int, width: int, height: int, unicode: bool, colour: bool
) -> None:
    look = Look(unicode, colour)
    lines = shown(BUSY[running], 5, width, height, look, plot=True).split("\n")
    assert len(lines) <= max(1, height * 3 // 4)
    assert max(map(len, lines)) < max(2, width)
    assert unicode or all(line.isascii() for line in lines)
    # The last line is always how far the whole run is.
    assert lines[-1].startswith("32/128 tri"[: max(1, width - 1)].rstrip())


def test_the_plot_goes_first_then_the_summary() -> None:
    drawn = {height: shown(BUSY[1], 5, 80, height, plot=True) for height in (30, 10, 6)}
    plotted = ["MSE by epoch" in lines for lines in drawn.values()]
    tabled = ["failed" in lines for lines in drawn.values()]
    assert (plotted, tabled) == ([True, False, False], [True, True, False])
    assert all("32/128 trials" in lines for lines in drawn.values())
    narrow = shown(BUSY[1], 5, 40, 24, plot=True)
    assert "MSE by epoch" not in narrow
    assert "left" in narrow


def test_of_many_running_trials_the_first_are_shown() -> None:
    lines = shown(BUSY[64], 5, 80, 24)
    assert lines.count("20/100") == 4
    assert "+60 more running" in lines


def test_without_colours_curves_differ_in_marks() -> None:
    plain = shown(BUSY[1], 5, 80, 40, Look(colour=False), plot=True)
    assert re.search(r"\* jax .*\n\+ torch ", plain)
    canvas = [line for line in plain.splitlines() if "│" in line]
    assert {"*", "+"} <= set("".join(canvas))
    fine = shown(BUSY[1], 5, 80, 40, plot=True)
    assert any("\u2800" < character < "\u2900" for character in fine)


def test_curves_that_coincide_are_both_to_be_seen() -> None:
    planned = jobs(seeds=1)
    tally = tally_of(planned)
    for job in planned:
        tally.add(Started(job=job), 0)
        tally.add(record(job, 1, mses=[0.1]), 0)
    plain = shown(tally, 5, 80, 40, Look(colour=False), plot=True)
    canvas = "".join(line for line in plain.splitlines() if "│" in line)
    assert canvas.count("*") > 10
    assert canvas.count("+") > 10


def test_values_without_a_logarithm_are_left_out_of_the_plot() -> None:
    (job,) = jobs(["jax"], seeds=1)
    tally = tally_of([job])
    tally.add(Started(job=job), 0)
    for epoch, mse in ((10, float("nan")), (20, float("inf")), (30, 0.0)):
        tally.add(Progress(job=job, point=point(epoch, mse)), epoch)
    assert "MSE by epoch" not in shown(tally, 30, 80, 40, plot=True)
    tally.add(Progress(job=job, point=point(40, 0.3)), 40)
    assert "MSE by epoch" in shown(tally, 40, 80, 40, plot=True)


@pytest.fixture
def terminal() -> Iterator[io.TextIOWrapper]:
    """A file that is a terminal."""
    master, slave = pty.openpty()
    with open(slave, "w") as file:
        yield file
    os.close(master)


def test_the_reporter_suits_the_terminal(
    terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(file: IO[str], quiet: bool = False, **environment: str) -> type[Lines]:
        with monkeypatch.context() as patch:
            patch.delenv("FORCE_COLOR", raising=False)
            for name, value in {"TERM": "xterm", **environment}.items():
                patch.setenv(name, value)
            return type(reporter(Console(file=file), quiet))

    assert chosen(terminal) is Dashboard
    assert chosen(terminal, TERM="dumb") is Lines
    assert chosen(terminal, quiet=True) is Quiet
    # Many CI systems set it, and log the control sequences of a live view line by line.
    assert chosen(io.StringIO(), FORCE_COLOR="1") is Lines


def told(kind: type[Lines], events: Sequence[object], clock: Clock) -> str:
    """What a reporter of a kind says of events."""
    out = io.StringIO()
    with kind(Console(file=out, width=200), clock) as reporting:
        reporting.begin(4, 4)
        for event in events:
            reporting.event(event)  # type: ignore[arg-type]
        reporting.note("the store fails")
    return out.getvalue()


def test_quiet_says_what_went_wrong_and_nothing_else() -> None:
    ok, bad, *_ = planned = jobs(seeds=2)
    times = iter(range(100))
    events = [
        Planned(jobs=tuple(planned)),
        Started(job=ok),
        record(ok, 1),
        Started(job=bad),
        record(bad, 1, status="failed"),
        Notice(message="node a is silent"),
    ]
    lines = told(Quiet, events, lambda: next(times)).splitlines()
    assert len(lines) == 3
    assert re.match(r"\[2/4\] \w+ on cpu, seed 0: failed", lines[0])
    assert lines[1:] == ["node a is silent", "the store fails"]


def test_lines_tell_the_time_left() -> None:
    planned = jobs(["jax"], seeds=4)
    events: list[object] = [Planned(jobs=tuple(planned))]
    for job in planned:
        events += [Started(job=job), record(job, 5)]
    said = re.findall(r"\[(\d)/4\].*?(?:; (about .*) left)?\n", told(Lines, events, lambda: 0.0))
    assert said == [("1", "about 15 s"), ("2", "about 10 s"), ("3", "about 5 s"), ("4", "")]


def _inline(folder: Path) -> list[str]:
    return ["--dispatch", "inline", "--results", f"{folder}", "--run-id", "x"]


SLOW = overriding(
    *TINY_RUN,
    *("--backends", "tests.helpers.faulty:Slow"),
    *("--set", "epochs=200", "--seeds", 2),
)


def test_a_run_on_a_terminal_that_changes_its_size(tmp_path: Path) -> None:
    with Terminal(command(*SLOW, *_inline(tmp_path)), 80, 30) as terminal:
        bar = re.compile(
            r"MSE by epoch(?s:.*)tests.helpers.faulty:Slow, seed 0 +[━╸╺]+ .*mse \d.*\n"
            r"0/2 trials +━+.*\d s "
        )
        terminal.until(lambda shown: bar.search(shown) is not None)
        assert not terminal.screen.cursor
        terminal.resize(40, 10)
        small = terminal.until(lambda shown: re.search(r"/2 trials +[━╸╺]{8,} ", shown) is not None)
        # Nothing is left of the wider frame.
        assert "MSE by epoch" not in small
        assert len(re.findall(" trials", small)) <= 2  # The bar, and the head of the summary.
        terminal.resize(100, 40)
        terminal.until(lambda shown: re.search("1/2 trials +[━╸╺]{8,} .* left", shown) is not None)
        assert terminal.end() == 0
    screen = terminal.screen
    assert screen.cursor
    assert screen.hidden == 1
    # Colours are there.
    assert any(style.startswith("38;5;") for style in screen.styles)
    assert "Results: " in screen.shown


def test_a_terminal_that_changes_its_size_right_before_the_end() -> None:
    out, small = io.StringIO(), (40, 20)
    console = Console(file=out, width=80, height=30, force_terminal=True, color_system=None)
    with Dashboard(console, lambda: 0.0) as reporting:
        reporting.begin(6, 6)
        planned = jobs()
        reporting.event(Planned(jobs=tuple(planned)))
        for job in planned[:4]:
            reporting.event(Started(job=job))
        wait_for(lambda: "0/6 trials" in out.getvalue())
        reporting.note("the last message")
        before = len(out.getvalue())
        console.size = ConsoleDimensions(*small)
    written = out.getvalue()
    text = [part.replace("\n", "\r\n") for part in (written[:before], written[before:])]
    screen = Screen(80, 30)
    screen.feed(text[0])
    assert "0/6 trials" in screen.shown
    screen.resize(*small)
    screen.feed(text[1])
    assert screen.shown.split() == ["the", "last", "message"]
    assert screen.cursor


def test_ctrl_c_leaves_the_terminal_as_it_was(cli: Cli, tmp_path: Path) -> None:
    with Terminal(command(*SLOW, *_inline(tmp_path))) as terminal:
        terminal.until(lambda shown: "[1/2]" in shown)
        terminal.press("\x03")
        assert terminal.end() == 130
    screen = terminal.screen
    assert screen.cursor
    assert "Traceback" not in terminal.output
    assert "1 of 2 trials are finished and kept" in screen.shown
    assert screen.shown.rstrip().endswith("\nerror: interrupted")
    assert not _BAR.search("\n".join(screen.lines))  # Of the live view nothing is left.
    assert len(Run("x", tmp_path).records) == 1
    assert (tmp_path / "x" / "trials.parquet").is_file()
    assert not workers(tmp_path)


def test_a_signal_at_the_very_beginning_leaves_the_cursor_visible(tmp_path: Path) -> None:
    with Terminal(command(*SLOW, *_inline(tmp_path))) as terminal:
        terminal.until(lambda _: not terminal.screen.cursor)
        terminal.process.terminate()
        assert terminal.end() == 130
    assert terminal.screen.cursor
    assert "Traceback" not in terminal.output


def test_a_trial_that_fails_on_a_small_terminal_without_colours(tmp_path: Path) -> None:
    backends = "tests.helpers.faulty:RaisesMidTraining,tests.helpers.faulty:Slow"
    given = (*TINY_RUN, "--backends", backends, "--seeds", 1, *_inline(tmp_path))
    with Terminal(command(*given), 40, 10, NO_COLOR="1") as terminal:
        # The first trial may have failed before anything is drawn.
        live = terminal.until(lambda shown: re.search("[01]/2 trials", shown) is not None)
        assert "MSE by epoch" not in live
        assert terminal.end() == 1
    screen = terminal.screen
    assert screen.cursor
    said = "".join(screen.lines)  # Forty columns break it up.
    assert "failed: RuntimeError: kernel launch failed" in said
    assert not any(re.search(r"(^|;)([34]\d|9\d|10\d)(;|$)", style) for style in screen.styles)


def test_quiet_leaves_the_results(cli: Cli, tmp_path: Path) -> None:
    backends = "reference,tests.helpers.faulty:RaisesMidTraining"
    given = (*TINY_RUN, "--backends", backends, "--seeds", 1, *_inline(tmp_path))
    done = cli(*given, "--quiet")
    assert done.returncode == 1
    assert done.stderr.count("kernel launch failed") == 2  # When it happens, and at the end.
    assert all("RaisesMidTraining" in line for line in done.stderr.splitlines())
    assert "Accuracy" in done.stdout
    assert "Results: " in done.stdout


def test_a_log_has_plain_lines(cli: Cli, tmp_path: Path) -> None:
    given = (*TINY_RUN, "--backends", "reference", "--seeds", 2, *_inline(tmp_path))
    done = cli(*given, FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\[1/2\] reference on cpu, seed 0: ok, .*; about \d+ s left\n", done.stderr)
    assert re.search(
        r"\[2/2\] reference on cpu, seed 1: ok, .* s in all(; noisy.*)?\n", done.stderr
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.stderr)


@pytest.mark.slow
def test_a_dumb_terminal_and_many_trials_at_once(tmp_path: Path) -> None:
    given = (*TINY_RUN, "--seeds", 8, "--packed", *_inline(tmp_path))
    backend = ("--backends", "tests.helpers.faulty:Slow")
    with Terminal(command(*given, *backend), TERM="dumb") as terminal:
        assert terminal.end() == 0
    assert "\x1b" not in terminal.output
    with Terminal(command("run", "--resume", "x", "--results", tmp_path)) as again:
        assert again.end() == 0
    assert again.screen.cursor
    assert "nothing to do" in again.output
