"""The live view of a run on a terminal: bars, a summary, and a plot of the curves.

Trials are timed on the same machine, so it must take little processor time: events are only
counted when they come, and one thread draws once a second, or when there is a line to print.
`benchmarks/terminal.py` measures what it takes.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from harness.measure.clock import Clock, now
from harness.runs.plot import Look, Plot, series
from harness.runs.progress import Lines, Quiet
from harness.runs.tally import Running, Tally
from harness.tables.numbers import duration, short
from harness.trial.events import Event, Progress
from harness.trial.jobs import Job

_PERIOD_S = 0.5
"""Lines are printed after this time at most; without any, every second time is enough."""
_BARS, _ARMS = 4, 8
"""At most so many running trials have a bar, and so many backends a line of the summary."""
_NARROWEST, _WIDEST, _LEAST_BAR, _LONGEST_NAME = 33, 100, 8, 40
"""In columns."""
_FIELDS = (9, 11, 10, 11)
"""Widths of epochs, loss, MSE and time left; on narrow terminals the first ones are left out."""


def reporter(console: Console, quiet: bool = False) -> Lines:
    """Return the reporter that suits the console: live on a terminal, lines anywhere else."""
    if quiet:
        return Quiet(console)
    # A CI job may ask for colours by FORCE_COLOR without having a terminal.
    live = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
    return Dashboard(console) if live else Lines(console)


class Dashboard(Lines):
    """Bars, a summary and a plot at the bottom of the terminal; lines scroll by above them."""

    def __init__(self, console: Console, clock: Clock = now) -> None:
        super().__init__(console, clock)
        self._look = Look.of(console)
        self._plot = Plot(self._look)
        # Guards what the thread shares with the reporter's methods; never held during output.
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._printed: deque[str] = deque(maxlen=50)
        self._size = console.size
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
            redirect_stdout=sys.stdout.isatty(),
        )
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._draw_until_the_end, daemon=True)

    def begin(self, trials: int, total: int) -> None:
        """Show the bar of all trials."""
        with self._lock:
            super().begin(trials, total)

    def grow(self, total: int) -> None:
        """Make the bar of all trials longer."""
        with self._lock:
            super().grow(total)

    def event(self, event: Event) -> None:
        """Count it; the thread draws it."""
        with self._lock:
            super().event(event)

    def note(self, message: str) -> None:
        """Let a message scroll by."""
        with self._lock:
            super().note(message)

    def __enter__(self) -> Self:
        # A signal that comes before the end of this method skips `__exit__`.
        atexit.register(self._console.show_cursor)
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ends.set()
            self._thread.join()
            self._show(self._lines, Text())
        finally:
            self._live.stop()
            atexit.unregister(self._console.show_cursor)

    def _line(self, event: Event) -> str:
        return "" if isinstance(event, Progress) else super()._line(event)

    def _say(self, message: str) -> None:
        self._lines.append(message)

    def _draw_until_the_end(self) -> None:
        self._plot.load()  # Takes a tenth of a second, so before any trial is on the clock.
        idle = False
        while not self._ends.wait(_PERIOD_S):
            idle = not (self._lines or idle)
            if not idle:
                self._draw()

    def _draw(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            size = self._console.size
            drawn = frame(self._tally, self._clock(), *size, self._look, self._plot)
        self._show(lines, drawn)

    def _show(self, lines: Sequence[str], drawn: RenderableType) -> None:
        """Let lines scroll by, and draw a frame in place of the last one."""
        self._live.update(drawn)
        size = self._console.size
        self._printed.extend(lines)
        if size != self._size:
            # The terminal has moved the rows of the last frame; only clearing removes them all.
            self._size = size
            self._console.clear()
            lines = [*self._printed]
        if lines:
            self._console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)
        else:
            self._live.refresh()


def frame(
    tally: Tally, at: float, width: int, height: int, look: Look, plot: Plot | None = None
) -> RenderableType:
    """Return what is shown of a run at a time, for a terminal of that size.

    It takes three quarters of the height, so that the last messages stay in sight. What does not
    fit is left out: first the plot, then the summary, then all but the first bars.
    """
    width = max(1, min(width - 1, _WIDEST))
    room = max(1, height * 3 // 4)
    if width < _NARROWEST:
        return Text(f"{tally.number}/{tally.total} trials"[:width])
    bars, more = _bars(tally, at, width, room)
    parts: list[RenderableType] = [bars]
    if more:
        parts = [Text(f"+{more} more running", "dim", no_wrap=True, overflow="crop"), bars]
    summary = _summary(tally, look)
    left = room - bars.row_count - bool(more) - (summary.row_count + 2)
    if summary.row_count and left >= 0:
        parts = [summary, Text(), *parts]
        drawn = plot.draw(tally, width, left) if plot else []
        parts = [*drawn, *parts]
    return Constrain(Group(*parts), width)


class _Row(NamedTuple):
    """A line with a bar."""

    name: str
    bar: RenderableType
    epochs: str = ""
    loss: str = ""
    mse: str = ""
    left: str = ""


def _bars(tally: Tally, at: float, width: int, room: int) -> tuple[Table, int]:
    """Return a line for each of the first trials that run, and one for all trials.

    Also return how many running trials have no line.
    """
    rows = [
        _Row(f"parity: {_name(tally, job)}", "", left=_left(None, at - began))
        for job, began in tally.checks.items()
    ]
    rows += [_running(tally, one, at) for one in tally.running.values()]
    spare = room - bool(tally.total)
    shown = min(_BARS, spare)
    if shown < len(rows):
        shown = max(0, min(shown, spare - 1))
    more = max(0, len(rows) - shown) if spare else 0
    return _table([*rows[:shown], *_all(tally, at)], width), more


def _table(rows: Sequence[_Row], width: int) -> Table:
    """Return the rows with as many fields as leave room for a bar, then with shorter names."""
    longest = max((len(row.name) for row in rows), default=0)
    for dropped in range(len(_FIELDS)):
        fields = _FIELDS[dropped:]
        names = width - sum(fields) - 2 * len(fields) - 2 - _LEAST_BAR
        if names >= longest:
            break
    table = Table.grid(
        Column(max_width=max(1, names), no_wrap=True, overflow="crop"),
        Column(),
        *(Column(min_width=w, no_wrap=True, overflow="crop", justify="right") for w in fields),
        padding=(0, 2, 0, 0),
    )
    for name, bar, *beside in rows:
        table.add_row(name, bar, *beside[dropped:])
    return table


def _running(tally: Tally, one: Running, at: float) -> _Row:
    job, last = one.job, one.points[-1] if one.points else None
    style = Look.colour_of(series(tally).index((job.backend, job.device)))
    return _Row(
        name=_name(tally, job),
        bar=ProgressBar(job.task.epochs, last.epoch if last else 0, complete_style=style),
        epochs=f"{last.epoch}/{job.task.epochs}" if last else "starting",
        loss=f"loss {short(last.train_loss, missing='nan')}" if last else "",
        mse=f"mse {short(last.eval_mse, missing='nan')}" if last else "",
        left=_left(tally.running_left_s(one, at), at - one.started),
    )


def _all(tally: Tally, at: float) -> Iterator[_Row]:
    if tally.total:
        left = _left(tally.left_s(at), at - tally.began) if tally.number < tally.total else ""
        yield _Row(
            name=f"{tally.number}/{tally.total} {'of the pilot' if tally.pilot else 'trials'}",
            bar=ProgressBar(tally.total, tally.number, complete_style="bold"),
            left=left,
        )


def _left(left_s: float | None, elapsed_s: float) -> str:
    """Return the time left as text, or as long as that is unknown, the time so far."""
    return f"{duration(elapsed_s)} so far" if left_s is None else f"{duration(left_s)} left"


def _name(tally: Tally, job: Job) -> str:
    """Return the name of a job, without its device if there is only one."""
    devices = {group.device for group in tally.groups.values()}
    devices |= {check.device for check in tally.checks}
    only = f" on {job.device}" if len(devices) == 1 else ""
    name = job.label.replace(only, "", 1)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 2]}.."


def _summary(tally: Tally, look: Look) -> Table:
    """Return a line for each backend and device: of a sweep, at the point that is running."""
    groups = sorted(tally.of_task(), key=lambda group: (group.backend, group.device))
    devices = {group.device for group in groups}
    diverged = any(group.figures.diverged for group in groups)
    times = "train s per seed" if any(group.many for group in groups) else "train s"
    point = next((group.point for group in groups if group.point), "")
    head = [point, "trials", times, "MSE", *["diverged"] * diverged, "failed"]
    table = Table(
        *(Column(name, no_wrap=True, overflow="crop", justify="right") for name in head),
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        header_style="dim",
    )
    table.columns[0].justify = "left"
    for group in groups[:_ARMS]:
        figures, place = group.figures, series(tally).index((group.backend, group.device))
        mark = "━" if look.braille else look.mark_of(place)
        arm = group.backend + f" on {group.device}" * (len(devices) > 1)
        table.add_row(
            Text.assemble((mark, look.colour_of(place)), f" {arm}"),
            f"{group.finished}/{len(group.names)}",
            *("" if x is None else short(x) for x in (figures.train_s, figures.mse)),
            *[f"{figures.diverged}"] * diverged,
            Text(f"{figures.failed}", "bold red" if figures.failed else ""),
        )
    if len(groups) > _ARMS:
        table.add_row(Text(f"+{len(groups) - _ARMS} more", "dim"))
    return table
