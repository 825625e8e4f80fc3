"""Tables as text: for a terminal, Markdown, CSV or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from harness.errors import middle_cut, one_line
from harness.inputs.commands import command
from harness.tables import numbers
from harness.tables.break_even import epoch, epochs_interval
from harness.tables.csv import to_csv
from harness.tables.metrics import METRICS
from harness.tables.numbers import number

FORMATS = ("table", "csv", "markdown", "json")
Columns: TypeAlias = dict[str, Callable[[Any], str]]
"""The columns of a printed table: the heading, and the cell of a row."""
_GAP = "  "
_LONGEST = 1000
"""Characters of a cell for people."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Columns aligned to the left.
_TEXT = (
    *("backend", "device", "quantity", "dtype", "element", "trial", "status", "error"),
    *("subject", "metric", "verdict", "noise", "check", "value", "advice"),
    *("comparison", "against", "nodes", "node", "node_kind", "field", "lost", "timing", "what"),
    *("part", "count", "call", "in"),
)


def render(frame: pd.DataFrame, kind: str, width: int = 80, title: str = "", keys: int = 1) -> str:
    """Return a table as text in one of `FORMATS`.

    The rest is for the format "table": a table that is wider than `width` is broken into parts,
    each of which begins with the first `keys` columns.
    """
    match kind:
        case "csv":
            return to_csv(frame)
        case "json":
            return frame.to_json(orient="records", indent=1) + "\n"
        case "markdown":
            return _markdown(cells(frame))
        case _:
            return _terminal(cells(frame), width, title, keys)


def render_sentences(sentences: Iterable[str], kind: str) -> str:
    """Return sentences, one a line; in Markdown as a list."""
    bullet = "- " if kind == "markdown" else ""
    return "".join(f"{bullet}{sentence}\n" for sentence in sentences)


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of text, its numbers to three digits."""
    return frame.map(_cell)


def summary_tables(
    summary: pd.DataFrame, swept: Sequence[str] = ()
) -> list[tuple[str, pd.DataFrame]]:
    """Return the summary for people: titles and tables of text, for accuracy and for time.

    A row of a sweep begins with the values of the `swept` fields.
    """
    shared = not summary.empty and bool((summary["at_once"] > 1).any())
    per_seed = "; epochs/s and train s per seed, the rest of all at once" * shared
    parts = {
        "Accuracy, mean over seeds; way to the lag and memory, median": _accuracy(summary),
        f"Time, median over seeds{per_seed}": _times(summary),
    }
    return [
        (title, _columns(summary, _plain(swept) | _with_kinds(summary, columns)))
        for title, columns in parts.items()
    ]


def node_legend(summary: pd.DataFrame) -> list[str]:
    """Return which kind of node each letter stands for, if there are several kinds."""
    return [f"nodes {letter}: {name}" for name, letter in _letters(summary).items()]


def stated(comparisons: pd.DataFrame, break_even: pd.DataFrame) -> list[str]:
    """Return the sentences about the metrics whose comparisons are stated.

    Those of the break-even follow the ones on the time of training.
    """
    metrics = [metric.name for metric in METRICS.values() if metric.comparison == "stated"]
    told = comparisons[comparisons["metric"].isin(metrics)]
    training = told["metric"] == "train_s"
    return [*told.loc[training, "words"], *break_even["words"], *told.loc[~training, "words"]]


def render_summary(
    summary: pd.DataFrame,
    kind: str,
    width: int = 80,
    sentences: Sequence[str] = (),
    swept: Sequence[str] = (),
    run: Sequence[str] = ("RUN",),
) -> str:
    """Return the summary as text: for people two tables and sentences, for programs unchanged.

    `run`: the run as the command line takes it.
    """
    if kind in {"csv", "json"}:
        return render(summary, kind)
    separator, keys = "\n" if kind == "markdown" else "", len(swept) + 1
    text = separator.join(
        render(table, kind, width, title, keys) for title, table in summary_tables(summary, swept)
    )
    contended = not summary.empty and bool(summary["contended"].any())
    text += "* contended: other trials ran beside it; do not compare times\n" * contended
    paragraphs = [
        render_sentences(node_legend(summary), kind),
        _noise_warning(summary, run),
        render_sentences(sentences, kind),
    ]
    return text + separator + "".join(f"{paragraph}\n" for paragraph in paragraphs if paragraph)


def render_comparisons(
    comparisons: pd.DataFrame, kind: str, width: int = 80, swept: Sequence[str] = ()
) -> str:
    """Return the comparisons of backends as text: for programs unchanged."""
    if kind in {"csv", "json"}:
        return render(comparisons, kind)
    table = _columns(comparisons, _plain(swept) | _COMPARISON)
    title = "Each backend against the fastest, 95 % intervals"
    text = render(table, kind, width, title, keys=len(swept) + 1)
    return text + "\n" * (kind == "markdown") + render_sentences(comparisons["words"], kind)


def render_break_even(
    break_even: pd.DataFrame, kind: str, width: int = 80, swept: Sequence[str] = ()
) -> str:
    """Return from how many epochs on backends are ahead as text: for programs unchanged."""
    if kind in {"csv", "json"}:
        return render(break_even, kind)
    table = _columns(break_even, _plain(swept) | _BREAK_EVEN)
    title = "From which epoch on a backend is ahead, start-up included; times of both"
    text = render(table, kind, width, title, keys=len(swept) + 1)
    return text + "\n" * (kind == "markdown") + render_sentences(break_even["words"], kind)


def render_scaling(
    growth: pd.DataFrame, crossovers: pd.DataFrame, kind: str, width: int = 80
) -> str:
    """Return the two tables of `harness.tables.scaling` as text.

    People get the first one and sentences. Programs get both unchanged: JSON as an object of two
    lists, CSV with an empty line in between.
    """
    if kind == "csv":
        return render(growth, kind) + "\n" + render(crossovers, kind)
    if kind == "json":
        both = (render(table, kind).rstrip() for table in (growth, crossovers))
        return '{{"growth": {},\n"crossovers": {}}}\n'.format(*both)
    table = _columns(growth, _with_kinds(growth, _GROWTH))
    text = render(table, kind, width, "How the time of an epoch grows, as a power of the size")
    overtaken = crossovers["words"].tolist() or ["no backend is shown to overtake another"]
    lists = (node_legend(growth), growth["words"], overtaken)
    paragraphs = [render_sentences(sentences, kind) for sentences in lists]
    return text + "\n" * (kind == "markdown") + "\n".join(filter(None, paragraphs))


def render_changes(changes: pd.DataFrame, kind: str, width: int, title: str) -> str:
    """Return the changes from one run to another as text: for programs unchanged."""
    if kind in {"csv", "json"}:
        return render(changes, kind)
    return render(_columns(changes, _CHANGE), kind, width, title)


def letter(place: int) -> str:
    """Return a letter for each of 0, 1, 2, ...; after Z comes AA, then BB."""
    return _LETTERS[place % 26] * (1 + place // 26)


def _letters(summary: pd.DataFrame) -> dict[str, str]:
    """Return a letter for each kind of node, if there are several."""
    kinds = [] if summary.empty else list(dict.fromkeys(summary["node_kind"]))
    return {kind: letter(place) for place, kind in enumerate(kinds) if kinds[1:]}


def _with_kinds(summary: pd.DataFrame, columns: Columns) -> Columns:
    """Return the columns with the letter of the kind of node after the device, if needed."""
    kinds = _letters(summary)
    if not kinds:
        return columns
    first = {name: columns[name] for name in ("backend", "device")}
    return first | {"nodes": lambda row: kinds[row["node_kind"]]} | columns


def _accuracy(summary: pd.DataFrame) -> Columns:
    columns: Columns = {
        **_plain(("backend", "device")),
        "seeds": lambda row: f"{row['seeds']}/{row['trials']}",
        "MSE": lambda row: number(row["final_mse"]),
        "geometric [95 %]": lambda row: (
            number(row["final_mse_geo"])
            + numbers.ratio_interval(row["final_mse_low"], row["final_mse_high"], numbers.bound)
        ),
        "lag_skill [95 %]": lambda row: _mean(row, "lag_skill", "lag_skill_"),
        "r2": lambda row: number(row["r2"]),
        "lag epoch": lambda row: _to_lag(row, "epochs_to_lag"),
        "lag s": lambda row: _to_lag(row, "seconds_to_lag"),
        **_headed("accuracy"),
    }
    if not summary.empty and summary["memory"].notna().any():
        columns["memory [95 %]"] = lambda row: _mean(row, "memory", "memory_")
    return columns


def _times(summary: pd.DataFrame) -> Columns:
    """Return the columns of the table of times; some are there only if they have a value."""
    columns: Columns = {
        "backend": lambda row: row["backend"] + "*" * row["contended"] + "†" * bool(row["noisy"]),
        **_plain(("device",)),
        **_headed("time"),
        "train time [95 %]": lambda row: (
            "fastest"
            if row["fastest"] and pd.notna(row["time_ratio"])
            else _time_ratio(row, "time_ratio")
        ),
    }
    if summary.empty:
        return columns
    if (summary["at_once"] > 1).any():
        columns["at once"] = lambda row: number(row["at_once"])
        columns["all at once s"] = lambda row: number(row["train_at_once_s"])
    if summary["floor_ratio"].notna().any():
        columns["x floor [95 %]"] = lambda row: (
            "floor" if row["backend"] == "floor" else _time_ratio(row, "floor_ratio")
        )
    known = summary.columns[summary.notna().any()]
    return columns | _headed("memory", known) | _headed("energy", known)


def _headed(kind: str, known: Iterable[str] = METRICS) -> Columns:
    """Return the columns of the metrics of a kind that the summary prints as plain numbers."""
    metrics = [METRICS[name] for name in known if name in METRICS]
    headed = {metric.heading: metric.name for metric in metrics if metric.kind == kind}
    return _plain({heading: name for heading, name in headed.items() if heading})


def _plain(columns: Sequence[str] | Mapping[str, str]) -> Columns:
    """Return columns of plain values, by heading if that is not the name."""
    names = columns if isinstance(columns, Mapping) else {name: name for name in columns}

    def column(name: str) -> Callable[[Any], str]:
        return lambda row: _cell(row[name])

    return {heading: column(name) for heading, name in names.items()}


def _noise_warning(summary: pd.DataFrame, run: Sequence[str]) -> str:
    noisy = [row for _, row in summary.iterrows() if row["noisy"]]
    if not noisy:
        return ""
    lines = [
        f"† noisy: {r['noisy']} of {r['seeds']} of {r['backend']} on {r['device']}" for r in noisy
    ]
    trials = command("show", *run, "--table", "trials")
    lines += ["  disturbed while on the clock; this says by what:", f"  {trials}"]
    return "\n".join(lines) + "\n"


def _columns(table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    rows = [{name: text(row) for name, text in columns.items()} for _, row in table.iterrows()]
    return pd.DataFrame(rows, columns=list(columns), dtype="object")


def _mean(row: Any, value: str, ends: str) -> str:
    interval = numbers.interval(row[f"{ends}low"], row[f"{ends}high"], numbers.bound)
    return number(row[value]) + interval


def _to_lag(row: Any, name: str) -> str:
    if not row["lag_seeds"]:
        return "-" if pd.isna(row["lag_skill"]) else "not yet"
    some = f" ({row['lag_seeds']}/{row['seeds']})" if row["lag_seeds"] < row["seeds"] else ""
    return number(row[name]) + some


def _time_ratio(row: Any, name: str) -> str:
    if pd.isna(row[name]):
        return "-"
    interval = numbers.ratio_interval(row[f"{name}_low"], row[f"{name}_high"], numbers.ratio)
    return f"{numbers.ratio(row[name])}x{interval or ' [no interval]'}"


def _compared(row: Any) -> str:
    """Return what a row compares: `train_s/epoch, torch on cpu`."""
    metric = row["metric"] + "/epoch" * METRICS[row["metric"]].per_epoch
    across = row.get("across")
    over = "" if across is None or pd.isna(across) else f" over {across}"
    return f"{metric}, {row['backend']}{over} on {row['device']}"


def _ratio_or_difference(row: Any) -> str:
    """Return the value of a comparison with its interval; a difference has its sign."""
    ratio = row["kind"] == "ratio"
    text = numbers.ratio if ratio else "{:+.2g}".format
    if pd.isna(row["value"]):
        return "-"
    interval = numbers.ratio_interval if ratio else numbers.interval
    return f"{text(row['value'])}{'x' * ratio}" + interval(row["low"], row["high"], text)


def _change(row: Any) -> str:
    """Return a ratio as a change in per cent unless it is large, a difference with its sign."""
    if row["kind"] == "difference" or not 0.5 < row["value"] < 2:
        return _ratio_or_difference(row)
    interval = numbers.interval(row["low"] - 1, row["high"] - 1, numbers.percentage)
    return numbers.change(row["value"]) + interval


_CHANGE: Columns = {
    "comparison": _compared,
    "change": _change,
    "verdict": lambda row: str(row["verdict"]),
    **_plain({"A": "a", "B": "b", "p (Holm)": "p_holm"}),
}
_GROWTH: Columns = {
    **_plain(("backend", "device", "field")),
    "exponent [95 %]": lambda row: _mean(row, "exponent", ""),
    **_plain({"trials": "trials", "sizes": "sizes", "p (Holm), bent": "p_bent_holm"}),
}
_BREAK_EVEN: Columns = {
    "backend": lambda row: f"{row['backend']} on {row['device']}",
    "against": lambda row: f"{row['against_backend']} on {row['against_device']}",
    "start s": lambda row: f"{number(row['start_s'])} / {number(row['against_start_s'])}",
    "epoch s": lambda row: f"{number(row['epoch_s'])} / {number(row['against_epoch_s'])}",
    "ahead from [95 %]": lambda row: epoch(row["at"]) + epochs_interval(row["low"], row["high"]),
    **_plain({"n": "n"}),
}
_COMPARISON: Columns = {
    "comparison": _compared,
    "against": lambda row: f"{row['against_backend']} on {row['against_device']}",
    "ratio [95 %]": _ratio_or_difference,
    "n": lambda row: f"{row['n']}/{row['of']}",
    **_plain({"p (Holm)": "p_holm"}),
}


def _cell(value: Any) -> str:
    """Return text on one line, a number to three digits, and `-` for a missing value."""
    if isinstance(value, str):
        return one_line(middle_cut(value, _LONGEST))
    if pd.isna(value):
        return "-"
    if isinstance(value, bool | np.bool):
        return "yes" if value else "no"
    return number(value)


def _markdown(frame: pd.DataFrame) -> str:
    rows = [[_no_markup(cell) for cell in row] for row in frame.to_numpy().tolist()]
    lines = [list(frame.columns), ["---"] * len(frame.columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _no_markup(cell: str) -> str:
    """Return a cell that ends no cell of Markdown, and holds no HTML, link or picture."""
    for sign, escaped in (("|", "&#124;"), ("<", "&lt;"), ("](", "]&#40;"), ("`", "&#96;")):
        cell = cell.replace(sign, escaped)
    return cell


def _terminal(frame: pd.DataFrame, width: int, title: str, keys: int) -> str:
    """Draw the table; columns that do not fit go below it, beside the first ones again."""
    widths = {c: max(len(c), *frame[c].map(len), 0) for c in frame.columns}
    first = list(frame.columns[:keys])
    parts = [list(first)]
    for column in frame.columns[keys:]:
        needed = sum(widths[c] + len(_GAP) for c in parts[-1]) + widths[column]
        if len(parts[-1]) > keys and needed > width:
            parts.append(list(first))
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
    head, *body = map(line, [list(frame.columns), *frame.to_numpy().tolist()])
    return "".join(f"{text}\n" for text in (head, rule, *body))
