"""Charts as files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness.charts.draw import Chart
from harness.errors import InvalidInput

SUFFIXES = (".png", ".svg", ".pdf", ".html")
PPI = 150
"""Pixels per inch of a PNG: 1,200 pixels for the width of a column of print."""


def save(chart: Chart, file: str | Path) -> Chart:
    """Write a chart to a file, of the kind that its suffix says, and return it.

    Raises `InvalidInput` if there is no such kind, or the file cannot be written.
    """
    file = Path(file)
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"`{file}`: a chart is saved as one of {', '.join(SUFFIXES)}.")
    if not os.path.isdir(file.parent):  # `Path.is_dir` raises for a name that is too long.
        raise InvalidInput(f"`{file}`: there is no folder `{file.parent}`.")
    kind: Any = file.suffix.lower().removeprefix(".")
    # A page needs no network: Vega is inside.
    options: dict[str, Any] = {"inline": True} if kind == "html" else {"ppi": PPI}
    try:
        chart.save(file, **options, format=kind)
    except OSError as error:
        raise InvalidInput(f"`{file}` cannot be written: {error.strerror or error}.") from error
    return chart
