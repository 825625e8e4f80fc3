"""The plot of the live view: mean squared error against epoch, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from harness.runs.tally import Tally

_RUNNING = 4
"""At most so many running trials have a curve."""
_LEAST_WIDTH, _LEAST_HEIGHT, _TALLEST = 40, 8, 18
"""Columns and rows, with the title."""
_MOST_TICKS, _MOST_POINTS, _PIECES = 5, 200, 20
# The colours of Okabe and Ito, which colour-blind readers can tell apart.
_COLOURS = (39, 208, 35, 175, 220, 69, 141, 250)
_MARKS = "*+xo#%@&"
_ASCII = str.maketrans("┌┐└┘─│┤├┬┴", "++++-|++++")


class Look(NamedTuple):
    """What a terminal can show."""

    unicode: bool = True
    colour: bool = True

    @classmethod
    def of(cls, console: Console) -> Look:
        """Ask the console, which knows `NO_COLOR` and the encoding."""
        colour = console.color_system is not None and not console.no_color
        return cls(console.encoding.lower().startswith("utf"), colour)

    @staticmethod
    def colour_of(series: int) -> str:
        """Return the style of a series."""
        return f"color({_COLOURS[series % len(_COLOURS)]})"

    @staticmethod
    def mark_of(series: int) -> str:
        """Return the character for the points of a series where colours do not tell them apart."""
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


def series(tally: Tally) -> list[tuple[str, str]]:
    """Return the backends on their devices, in the order of their colours."""
    return sorted({(backend, device) for _, backend, device in tally.groups})


class Plot:
    """Keeps the last plot and draws it again when a curve or the size has changed."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._plotext: Any = None
        self._key = (-1, 0, 0)
        self._lines: list[Text] = []

    def load(self) -> None:
        """Import plotext; where it cannot be imported, there is no plot."""
        with suppress(ImportError):
            import plotext

            plotext.terminal.limit(False, False)
            self._plotext = plotext

    def draw(self, tally: Tally, width: int, height: int) -> list[Text]:
        """Return the lines of the plot; none if there is nothing to draw or no room for it."""
        height = min(height, _TALLEST)
        if self._plotext is None or width < _LEAST_WIDTH or height < _LEAST_HEIGHT:
            return []
        key = (tally.curves, width, height)
        if key != self._key:
            curves = list(_curves(tally))
            self._key, self._lines = key, self._drawn(curves, width, height) if curves else []
        return self._lines

    def _drawn(self, curves: Sequence[Curve], width: int, height: int) -> list[Text]:
        # A line for the title, two for the frame, one for the ticks, one to keep off what follows.
        title = "MSE by epoch: running trials as points, the mean of those that ended as lines"
        text = self._canvas(curves, width, height - 2)
        if not self._look.unicode:
            text = text.translate(_ASCII)
        return [
            Text(title, "dim", no_wrap=True, overflow="crop"),
            *Text.from_ansi(text.rstrip("\n")).split("\n"),
            Text(),
        ]

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
    order, task = series(tally), tally.task
    if task is None:
        return
    running = [one for one in tally.running.values() if one.job.task == task]
    for one in running[:_RUNNING]:
        points = [(point.epoch, point.eval_mse) for point in one.points]
        if points := _loggable(points):
            number = order.index((one.job.backend, one.job.device))
            yield Curve(number, points, joined=False, epochs=task.epochs)
    for group in tally.of_task():
        if points := _loggable(group.curve):
            number = order.index((group.backend, group.device))
            yield Curve(number, points, joined=True, epochs=task.epochs)


def _interleaved(curves: Sequence[Curve]) -> Iterator[Curve]:
    """Yield pieces of the lines in turn, so that lines that coincide do not hide each other."""
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
