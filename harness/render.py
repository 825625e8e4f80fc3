"""Turns the summary tables into text: for a terminal, Markdown, CSV or JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

FORMATS = ("table", "csv", "markdown", "json")


def render(frame: pd.DataFrame, kind: str, width: int = 80, title: str = "") -> str:
    """Return a table as text in one of `FORMATS`; only "table" looks at `width` and `title`."""
    match kind:
        case "csv":
            return frame.to_csv(index=False)
        case "json":
            return frame.to_json(orient="records", indent=1) + "\n"
        case "markdown":
            return _markdown(frame.map(_number))
        case _:
            return _terminal(frame.map(_number), width, title)


def render_summary(summary: pd.DataFrame, kind: str, width: int = 80) -> str:
    """Return the summary as text: for people as two tables, for programs as it is."""
    if kind in {"csv", "json"}:
        return render(summary, kind)
    tables = [
        ("Accuracy, mean ± standard deviation over seeds", _columns(summary, _ACCURACY)),
        ("Time, median over seeds", _columns(summary, _TIME)),
    ]
    separator = "\n" if kind == "markdown" else ""
    text = separator.join(render(table, kind, width, title) for title, table in tables)
    contended = not summary.empty and bool(summary["contended"].any())
    text += "* contended: other trials ran beside it; do not compare times\n" * contended
    return text + _noise_note(summary)


def _noise_note(summary: pd.DataFrame) -> str:
    noisy = [row for _, row in summary.iterrows() if row["noisy"]]
    if not noisy:
        return ""
    lines = [
        f"† noisy: {r['noisy']} of {r['seeds']} of {r['backend']} on {r['device']}" for r in noisy
    ]
    return "\n".join(lines) + (
        "\n  disturbed while on the clock: `show --table trials` says by what,\n"
        "  `run --retry-noisy N` measures such trials again\n"
    )


def _columns(summary: pd.DataFrame, columns: dict[str, Callable[[Any], str]]) -> pd.DataFrame:
    rows = [{name: text(row) for name, text in columns.items()} for _, row in summary.iterrows()]
    return pd.DataFrame(rows, columns=list(columns), dtype="object")


def _spread(name: str) -> Callable[[Any], str]:
    def text(row: Any) -> str:
        spread = f"±{row[name + '_sd']:.2g}" if pd.notna(row[name + "_sd"]) else ""
        return _number(row[name]) + spread

    return text


def _plain(name: str) -> Callable[[Any], str]:
    return lambda row: _number(row[name])


def _to_lag(name: str) -> Callable[[Any], str]:
    def text(row: Any) -> str:
        if not row["lag_seeds"]:
            return "-" if pd.isna(row["lag_skill"]) else "not yet"
        some = f" ({row['lag_seeds']}/{row['seeds']})" if row["lag_seeds"] < row["seeds"] else ""
        return _number(row[name]) + some

    return text


def _time_ratio(row: Any) -> str:
    if pd.isna(row["time_ratio"]):
        return "-"
    if row.name == 0:
        return "fastest"
    ratio = f"{row['time_ratio']:.2f}x"
    if pd.isna(row["time_ratio_low"]):
        return f"{ratio} [one block]"
    return f"{ratio} [{row['time_ratio_low']:.2f}, {row['time_ratio_high']:.2f}]"


_ACCURACY: dict[str, Callable[[Any], str]] = {
    "backend": lambda row: str(row["backend"]),
    "device": lambda row: str(row["device"]),
    "seeds": lambda row: f"{row['seeds']}/{row['trials']}",
    "MSE": _spread("final_mse"),
    "r2": _spread("r2"),
    "lag_skill": _spread("lag_skill"),
    "lag epoch": _to_lag("epochs_to_lag"),
    "lag s": _to_lag("seconds_to_lag"),
}
_TIME: dict[str, Callable[[Any], str]] = {
    "backend": lambda row: str(row["backend"]) + "*" * row["contended"] + "†" * bool(row["noisy"]),
    "device": lambda row: str(row["device"]),
    "epochs/s": _plain("epochs_per_s"),
    "train s": _plain("train_s"),
    "first call s": _plain("first_call_s"),
    "import s": _plain("import_s"),
    "train time [95 %]": _time_ratio,
}


def _number(value: Any) -> str:
    """Three significant digits, as short as they come; whole numbers whole; `-` for none."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "-"
    if isinstance(value, bool | np.bool):
        return "yes" if value else "no"
    if float(value).is_integer():
        return f"{int(value)}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _markdown(frame: pd.DataFrame) -> str:
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _terminal(frame: pd.DataFrame, width: int, title: str) -> str:
    """Draw the table; columns that do not fit go below it, beside the first column again."""
    widths = {c: max(len(c), *frame[c].map(len), 0) for c in frame.columns}
    first, *others = frame.columns
    parts = [[first]]
    for column in others:
        needed = sum(widths[c] + len(_GAP) for c in parts[-1]) + widths[column]
        if len(parts[-1]) > 1 and needed > width:
            parts.append([first])
        parts[-1].append(column)
    drawn = "\n".join(_draw(frame[part], widths) for part in parts)
    return (f"{title}\n" if title else "") + f"{drawn}\n"


def _draw(frame: pd.DataFrame, widths: dict[str, int]) -> str:
    def line(cells: Sequence[str]) -> str:
        return _GAP.join(
            cell.ljust(widths[name]) if name in _TEXT else cell.rjust(widths[name])
            for name, cell in zip(frame.columns, cells, strict=True)
        ).rstrip()

    rule = _GAP.join("─" * widths[name] for name in frame.columns)
    rows = [list(frame.columns), *frame.to_numpy().tolist()]
    head, *body = map(line, rows)
    return "".join(f"{text}\n" for text in (head, rule, *body))


_GAP = "  "
_TEXT = (
    *("backend", "device", "quantity", "dtype", "element", "trial", "status", "error"),
    *("subject", "metric", "verdict", "noise", "check", "value", "advice"),
)
