"""The live view of a run on a terminal: bars, a summary, and a plot of the curves.

Trials are being timed on the same machine, so it may hardly take any processor time: what happens
is only noted down, and one thread draws what has changed, twice a second at most. Lines are put
together by hand, because a table of Rich takes ten times as long; `benchmarks/terminal.py` measures
all of it.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from harness.measure.clock import Clock, now
from harness.runs.progress import Lines, Quiet
from harness.runs.tally import Running, Tally
from harness.tables import numbers
from harness.trial.events import Event, Progress
from harness.trial.jobs import Job

_PERIOD_S = 0.5
_PLOT_PERIOD_S = 1.0
_BARS, _ARMS = 4, 8
"""At most so many running trials have a bar, and so many backends a line of the summary."""
_WIDEST = 100
_LEAST_BAR, _BAR = 8, 40
_SHORTEST_NAME, _LONGEST_NAME = 12, 40
"""In columns."""
_LEAST_WIDTH, _LEAST_HEIGHT, _TALLEST_PLOT = 40, 8, 18
"""Of the plot, in columns and rows, with its title."""
_MOST_TICKS, _MOST_POINTS, _PIECES = 5, 200, 20
# Okabe and Ito's, which colour-blind readers can tell apart; without colours, marks do.
_COLOURS = (39, 208, 35, 175, 220, 69, 141, 250)
_MARKS = "*+xo#%@&"
_ASCII = str.maketrans("┌┐└┘─│┤├┬┴", "++++-|++++")


class Look(NamedTuple):
    """What a terminal can show."""

    unicode: bool = True
    colour: bool = True

    @classmethod
    def of(cls, console: Console) -> Look:
        """Ask the console, which knows of `NO_COLOR`, and what its encoding is."""
        colour = console.color_system is not None and not console.no_color
        return cls(console.encoding.lower().startswith("utf"), colour)

    def colour_of(self, series: int) -> str:
        """Return the style of a series."""
        return f"color({_COLOURS[series % len(_COLOURS)]})" if self.colour else ""

    def mark_of(self, series: int) -> str:
        """Return how the points of a series are drawn where colours do not tell them apart."""
        return _MARKS[series % len(_MARKS)]

    @property
    def braille(self) -> bool:
        """Whether points are finer than characters."""
        return self.unicode and self.colour


class Curve(NamedTuple):
    """A curve of the plot."""

    series: int
    points: Sequence[tuple[int, float]]
    """Epochs and mean squared errors; those that have no logarithm are left out."""
    joined: bool
    """Drawn as a line, and not as points."""
    epochs: int
    """How far the curve goes when it is complete."""


def reporter(console: Console, quiet: bool = False) -> Lines:
    """Return the reporter that suits the console: live on a terminal, lines anywhere else."""
    if quiet:
        return Quiet(console)
    # A CI job may ask for colours by FORCE_COLOR and have no terminal all the same.
    live = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
    return Dashboard(console) if live else Lines(console)


class Dashboard(Lines):
    """Bars, a summary and a plot at the bottom of the terminal; lines scroll by above them."""

    def __init__(self, console: Console, clock: Clock = now) -> None:
        super().__init__(console, clock)
        self._look = Look.of(console)
        self._plot = Plot(self._look)
        # What the thread and those that report share; never held while something is printed.
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._changed = True
        self._drawn = -math.inf
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
        """Take it down to be drawn."""
        with self._lock:
            super().event(event)
            self._changed = True

    def note(self, message: str) -> None:
        """Let a message scroll by."""
        with self._lock:
            super().note(message)

    def __enter__(self) -> Self:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ends.set()
            self._thread.join()
            self._live.update(Text())
            self._print(self._lines)
        finally:
            self._live.stop()

    def _line(self, event: Event) -> str:
        return "" if isinstance(event, Progress) else super()._line(event)

    def _say(self, message: str) -> None:
        self._lines.append(message)
        self._changed = True

    def _draw_until_the_end(self) -> None:
        self._plot.load()  # Takes a tenth of a second, so before any trial is on the clock.
        while not self._ends.wait(_PERIOD_S):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            at = self._clock()
            if not self._changed and at - self._drawn < 1:
                return
            self._changed, self._drawn = False, at
            lines, self._lines = self._lines, []
            size = self._console.size
            drawn = frame(self._tally, at, size.width, size.height, self._look, self._plot)
        self._print(lines)
        self._live.update(Group(*drawn), refresh=True)

    def _print(self, lines: Sequence[str]) -> None:
        if lines:
            self._console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)


def frame(
    tally: Tally, at: float, width: int, height: int, look: Look, plot: Plot | None = None
) -> list[Text]:
    """Return what is shown of a run at a time, for a terminal of that size.

    It takes three quarters of the height, so that the last outcomes stay in sight. What does not
    fit is left out: first the plot, then the summary, then all but the first bars.
    """
    width = max(1, min(width - 1, _WIDEST))
    room = max(1, height * 3 // 4)
    lines = _bars(tally, at, width, room, look)
    summary = _summary(tally, look)
    if summary and len(lines) + len(summary) <= room:
        lines = [*summary, *lines]
        drawn = plot and plot.draw(tally, at, width, min(room - len(lines), _TALLEST_PLOT))
        lines = [*(drawn or ()), *lines]
    for line in lines:
        line.truncate(width, overflow="crop")
        line.no_wrap, line.overflow = True, "crop"
    return lines


def _bars(tally: Tally, at: float, width: int, room: int, look: Look) -> list[Text]:
    """Return a line for each of the first trials that run, and one for all trials."""
    rows = [_check(tally, job, at - began) for job, began in tally.checks.items()]
    rows += [_running(tally, one, at, look) for one in tally.running.values()]
    spare = room - bool(tally.total)
    shown = min(len(rows), _BARS, spare)
    if shown < len(rows):
        shown = max(0, min(shown, spare - 1))
    more = len(rows) - shown
    rows = rows[:shown]
    if tally.total:
        rows.append(_all(tally, at))
    lines = _fitted(rows, width, look)
    if more and len(lines) < room:
        lines.insert(shown, Text(f"+{more} more running", "dim"))
    return lines


class _Row(NamedTuple):
    """A line with a bar."""

    name: str
    style: str = ""
    share: float | None = None
    """How much is done; None: there is no telling, and no bar."""
    epochs: str = ""
    loss: str = ""
    mse: str = ""
    left: str = ""

    def cells(self, bar: int, fields: Sequence[str], look: Look) -> list[Text]:
        """Return what is in each column, with a bar of that width."""
        drawn = Text()
        if self.share is not None:
            done, rest = "━─" if look.unicode else "#-"
            full = round(min(self.share, 1) * bar)
            drawn = Text.assemble((done * full, self.style), (rest * (bar - full), "dim"))
        beside = (f"{getattr(self, field):>{_FIELDS[field]}}" for field in fields)
        return [Text(self.name), drawn, *map(Text, beside)]

    def width(self, field: str) -> int:
        """Return how many columns a field takes, with the gap before it."""
        return 2 + max(_FIELDS[field], len(getattr(self, field)))


_FIELDS = {"epochs": 9, "loss": 11, "mse": 10, "left": 11}
"""What is beside a bar and how wide it is at least: little moves when the figures do."""
_LAYOUTS = (("epochs", "loss", "mse", "left"), ("loss", "mse", "left"), ("mse", "left"), ("left",))
"""From wide terminals to narrow ones."""


def _fitted(rows: Sequence[_Row], width: int, look: Look) -> list[Text]:
    """Return rows with all that leaves room for a bar, and if nothing does, with shorter names."""
    names = max((len(row.name) for row in rows), default=0)
    for fields in _LAYOUTS:
        taken = (max((row.width(field) for row in rows), default=0) for field in fields)
        bar = width - names - 2 - sum(taken)
        if bar >= _LEAST_BAR:
            break
    else:
        names = max(_SHORTEST_NAME, names - (_LEAST_BAR - bar))
        rows, bar = [row._replace(name=_short(row.name, names)) for row in rows], _LEAST_BAR
    return _aligned([row.cells(min(bar, _BAR), fields, look) for row in rows], left=2)


def _check(tally: Tally, job: Job, elapsed_s: float) -> _Row:
    return _Row(f"parity: {_name(tally, job)}", left=_left(None, elapsed_s))


def _running(tally: Tally, one: Running, at: float, look: Look) -> _Row:
    job, last = one.job, one.points[-1] if one.points else None
    return _Row(
        name=_name(tally, job),
        style=look.colour_of(_series(tally).index((job.backend, job.device))),
        share=last.epoch / job.task.epochs if last else 0,
        epochs=f"{last.epoch}/{job.task.epochs}" if last else "starting",
        loss=f"loss {last.train_loss:.3g}" if last else "",
        mse=f"mse {last.eval_mse:.3g}" if last else "",
        left=_left(tally.running_left_s(one, at), at - one.started),
    )


def _all(tally: Tally, at: float) -> _Row:
    return _Row(
        name=f"{tally.number}/{tally.total} {'of the pilot' if tally.pilot else 'trials'}",
        style="bold",
        share=tally.number / tally.total,
        left=_left(tally.left_s(at), at - tally.began) if tally.number < tally.total else "",
    )


def _left(left_s: float | None, elapsed_s: float) -> str:
    """Say how long it will take, or as long as that cannot be told, how long it has taken."""
    return (
        f"{numbers.duration(elapsed_s)} so far"
        if left_s is None
        else f"{numbers.duration(left_s)} left"
    )


def _name(tally: Tally, job: Job) -> str:
    """Return what a job is called; the device goes without saying if there is only one."""
    devices = {group.device for group in tally.groups.values()}
    devices |= {check.device for check in tally.checks}
    only = f" on {job.device}" if len(devices) == 1 else ""
    return _short(job.label.replace(only, "", 1), _LONGEST_NAME)


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 2]}.."


def _series(tally: Tally) -> list[tuple[str, str]]:
    """Return the backends on their devices, in the order of their colours."""
    return sorted({(backend, device) for _, backend, device in tally.groups})


def _summary(tally: Tally, look: Look) -> list[Text]:
    """Return a line for each backend and device: of a sweep, at the point that is running."""
    series = _series(tally)
    groups = sorted(tally.of_task(), key=lambda group: (group.backend, group.device))
    if not groups:
        return []
    devices = {group.device for group in groups}
    diverged = any(group.figures.diverged for group in groups)
    times = "train s per seed" if any(group.many for group in groups) else "train s"
    point = next((group.point for group in groups if group.point), "")
    head = [point, "trials", times, "MSE", *["diverged"] * diverged, "failed"]
    rows = [[Text(cell, "dim") for cell in head]]
    for group in groups[:_ARMS]:
        figures, place = group.figures, series.index((group.backend, group.device))
        mark = "━" if look.braille else look.mark_of(place)
        arm = group.backend + f" on {group.device}" * (len(devices) > 1)
        cells = [f"{group.finished}/{len(group.names)}"]
        cells += ["" if x is None else numbers.number(x) for x in (figures.train_s, figures.mse)]
        cells += [f"{figures.diverged}"] * diverged
        rows.append(
            [
                Text.assemble((mark, look.colour_of(place)), f" {arm}"),
                *map(Text, cells),
                Text(f"{figures.failed}", "bold red" if figures.failed else ""),
            ]
        )
    lines = _aligned(rows)
    if len(groups) > _ARMS:
        lines.append(Text(f"+{len(groups) - _ARMS} more", "dim"))
    return [*lines, Text()]


def _aligned(rows: Sequence[Sequence[Text]], left: int = 1) -> list[Text]:
    """Return rows as lines, the first `left` columns aligned to the left, the others to the right.

    Columns that are empty throughout are left out.
    """
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        line = Text()
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            if not width:
                continue
            pad = " " * (width - cell.cell_len)
            gap = "  " if number else ""
            line.append(gap + ("" if number < left else pad)).append_text(cell)
            line.append(pad if number < left else "")
        line.rstrip()
        lines.append(line)
    return lines


class Plot:
    """Mean squared error against epoch, on a logarithmic scale; drawn once a second at most."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._plotext: Any = None
        self._key: tuple[int, int, int] = (-1, 0, 0)
        self._at = -math.inf
        self._lines: list[Text] = []

    def load(self) -> None:
        """Import what draws; where it has no part for this machine, there will be no plot."""
        with suppress(ImportError):
            import plotext

            plotext.terminal.limit(False, False)
            self._plotext = plotext

    def draw(self, tally: Tally, at: float, width: int, height: int) -> list[Text]:
        """Return the lines of the plot; none if there is nothing to draw or no room for it."""
        if self._plotext is None or width < _LEAST_WIDTH or height < _LEAST_HEIGHT:
            return []
        key = (tally.curves, width, height)
        fresh = at - self._at < _PLOT_PERIOD_S and key[1:] == self._key[1:]
        if key != self._key and not fresh:
            curves = list(_curves(tally))
            if not curves:
                return []
            self._key, self._at = key, at
            self._lines = self._drawn(curves, width, height)
        return [line.copy() for line in self._lines]

    def _drawn(self, curves: Sequence[Curve], width: int, height: int) -> list[Text]:
        # A line for the title, two for the frame, one for the ticks, one to keep off what follows.
        title = "MSE by epoch: running trials as points, the mean of those that ended as lines"
        text = self._canvas(curves, width, height - 2)
        if not self._look.unicode:
            text = text.translate(_ASCII)
        return [Text(title, "dim"), *Text.from_ansi(text.rstrip("\n")).split("\n"), Text()]

    def _canvas(self, curves: Sequence[Curve], width: int, height: int) -> str:
        figure = self._plotext.figure
        figure.clear()
        figure.plot_size(width, height)
        figure.theme("colorless")
        # Logarithms here and not in plotext, which has no scale with ticks of one's own.
        values = [math.log10(mse) for curve in curves for _, mse in curve.points]
        low, high = min(values), max(values)
        low, high = (low, high) if high - low > 0.1 else (low - 0.05, high + 0.05)
        for curve in [*curves, *_interleaved(curves)]:
            epochs, mses = zip(*curve.points, strict=True)
            heights = [math.log10(mse) for mse in mses]
            signal = figure.signal(list(epochs), heights, marker=self._marker(curve.series))
            figure.draw(signal.lines(curve.joined))
        ticks = _ticks(low, high)
        figure.ruler("y").lim(low, high).ticks([math.log10(t) for t in ticks], _labels(ticks))
        end = max(curve.epochs for curve in curves)
        quarters = sorted({round(end * part / 4) for part in range(5)})
        figure.ruler("x").lim(0, end).ticks(quarters, [f"{epoch}" for epoch in quarters])
        return str(figure.build().string(colorless=not self._look.colour))

    def _marker(self, series: int) -> Any:
        if not self._look.braille and not self._look.colour:
            return self._look.mark_of(series)
        mark = "braille" if self._look.braille else self._look.mark_of(series)
        return self._plotext.marker(mark, _COLOURS[series % len(_COLOURS)])


def _curves(tally: Tally) -> Iterator[Curve]:
    """Yield the curves of the task that is running, those to be drawn over others last."""
    series, task = _series(tally), tally.task
    if task is None:
        return
    running = [one for one in tally.running.values() if one.job.task == task]
    for one in running[:_BARS]:
        points = [(point.epoch, point.eval_mse) for point in one.points]
        if points := _loggable(points):
            number = series.index((one.job.backend, one.job.device))
            yield Curve(number, points, joined=False, epochs=task.epochs)
    for group in tally.of_task():
        if points := _loggable(group.curve):
            number = series.index((group.backend, group.device))
            yield Curve(number, points, joined=True, epochs=task.epochs)


def _interleaved(curves: Sequence[Curve]) -> Iterator[Curve]:
    """Yield pieces of the lines in turn: where lines coincide, none shall hide the others."""
    lines = [curve for curve in curves if curve.joined]
    for number, curve in enumerate(lines if len(lines) > 1 else ()):
        size = math.ceil(len(curve.points) / _PIECES)
        for start in range(number * size, len(curve.points) - 1, size * len(lines)):
            yield curve._replace(points=curve.points[start : start + size + 1])


def _loggable(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the points that a logarithmic scale can show, no more of them than can be seen."""
    shown = points[:: math.ceil(len(points) / _MOST_POINTS) or 1]
    return [(epoch, mse) for epoch, mse in shown if mse > 0 and math.isfinite(mse)]


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between powers of ten, at least two if possible."""
    exponents = range(math.floor(low), math.ceil(high) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        ticks = [float(f"{step}e{exponent}") for exponent in exponents for step in steps]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) > 1:
            break
    return ticks[:: math.ceil(len(ticks) / _MOST_TICKS)] if ticks else []


def _labels(ticks: Sequence[float]) -> list[str]:
    return [f"{tick:g}" for tick in ticks]
