"""One HTML file that needs no network, no other file and no server.

A page is a title and sections of paragraphs, tables, notices and figures. All of it is text, which
Jinja2 escapes. Vega's JavaScript, which vl-convert carries, is in the file once. A chart is drawn
when it comes into view, in the colours of the reader's light or dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, TypeAlias

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.charts import vega
from harness.charts.draw import DARK, LIGHT, PRINT_WIDTH, Chart
from harness.tables.text import cells


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Command:
    """A line for the shell."""

    line: str


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by a click; figures are shown to three digits."""

    caption: str
    frame: pd.DataFrame

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The table as text."""
        return cells(self.frame)


@dataclass(frozen=True)
class Notice:
    """A statement, with the evidence and what to do."""

    severity: Literal["fault", "warning", "info", "good"]
    headline: str
    evidence: str = ""
    remedy: str = ""
    label: str = ""
    """What it is about."""


@dataclass(frozen=True)
class Figure:
    """A chart, and the same in words and as a table for readers who cannot see it."""

    name: str
    """The name of its files, and its address in the page: letters, digits, `-`."""
    title: str
    chart: Chart
    words: str
    """What it shows."""
    table: pd.DataFrame

    @property
    def printable(self) -> Chart:
        """The chart by itself: of a width that prints well, in light colours."""
        printable: Chart = self._sized(PRINT_WIDTH).configure(**LIGHT)
        return printable

    @cached_property
    def specification(self) -> dict[str, Any]:
        """The chart in Vega-Lite, as wide as the page allows."""
        return to_dict(self._sized("container"))

    def _sized(self, width: int | Literal["container"]) -> Chart:
        return self.chart.properties(width=width, description=f"{self.title}. {self.words}")

    @property
    def data(self) -> Table:
        """What is drawn."""
        return Table(f"The data of: {self.title}", self.table)


def to_dict(chart: Chart) -> dict[str, Any]:
    """Return a chart in Vega-Lite, for a browser or vl-convert."""
    # Altair checks each part as it is made; to check the whole would take as long as the rest.
    return chart.to_dict(validate=False)


Block: TypeAlias = Text | Items | Command | Table | Notice | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what comes below it."""

    heading: str
    blocks: Sequence[Block]
    folded: bool = False
    """Whether only the heading is seen until the reader opens it."""


@dataclass(frozen=True)
class Page:
    """What a reader opens."""

    title: str
    subtitle: str
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        """All figures, in their order."""
        return [b for section in self.sections for b in section.blocks if isinstance(b, Figure)]

    def html(self) -> str:
        """Return the page as one HTML file."""
        specs = {figure.name: figure.specification for figure in self.figures}
        charts = {"specs": specs, "light": LIGHT, "dark": DARK}
        return (
            _environment()
            .get_template("page.html")
            .render(page=self, charts=charts, vega=vega.bundle() if specs else "")
        )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.charts"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # What is no JSON is a mistake here, not in the reader's browser.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment
