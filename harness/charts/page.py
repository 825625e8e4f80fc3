"""One HTML file that needs nothing else: no network, no other file, no server.

A page is a title and sections of paragraphs, tables, notes and figures. Whatever is shown is text:
Jinja2 escapes it. Vega's JavaScript, which vl-convert carries, is in the file once, and each chart
is drawn when it comes into view, in the colours of the reader's light or dark mode.
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
class Note:
    """A sentence that something depends on, with what it rests on and what to do."""

    severity: Literal["fault", "warning", "good"]
    headline: str
    evidence: str = ""
    remedy: str = ""
    label: str = ""
    """What it concerns."""


@dataclass(frozen=True)
class Figure:
    """A chart, and the same for those who do not see it: in words, and as a table."""

    name: str
    """Of its files, and its address in the page: letters, digits, `-`."""
    title: str
    chart: Chart
    words: str
    """What it shows."""
    table: pd.DataFrame

    @cached_property
    def specification(self) -> dict[str, Any]:
        """The chart in Vega-Lite; it takes the width that there is."""
        # Altair checks each part as it is made; to check the whole would take as long as the rest.
        spec: dict[str, Any] = self.chart.properties(width="container").to_dict(validate=False)
        return spec | {"description": f"{self.title}. {self.words}"}

    @property
    def printable(self) -> dict[str, Any]:
        """The same of a width that prints well, in light colours."""
        config = self.specification["config"] | LIGHT
        return self.specification | {"width": PRINT_WIDTH, "config": config}

    @property
    def data(self) -> Table:
        """What is drawn."""
        return Table(f"The data of: {self.title}", self.table)


Block: TypeAlias = Text | Items | Command | Table | Note | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what comes below it."""

    heading: str
    blocks: Sequence[Block]
    folded: bool = False
    """Only the heading is seen until it is opened."""


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
