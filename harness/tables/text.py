"""Turns the summary tables into text: for a terminal, Markdown, CSV or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.tables import numbers
from harness.tables.numbers import number

FORMATS = ("table", "csv", "markdown", "json")


def render(frame: pd.DataFrame, kind: str, width: int = 80, title: str = "", keys: int = 1) -> str:
    """Return a table as text in one of `FORMATS`; only "table" looks at what comes after that.

    The first `keys` columns say what a row is of: they are repeated if the table is broken up.
    """
    match kind:
        case "csv":
            return frame.to_csv(index=False)
        case "json":
            return frame.to_json(orient="records", indent=1) + "\n"
        case "markdown":
            return _markdown(cells(frame))
        case _:
            return _terminal(cells(frame), width, title, keys)


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with everything in it as a person reads it: numbers to three digits."""
    return frame.map(_cell)


def summary_tables(
    summary: pd.DataFrame, swept: Sequence[str] = ()
) -> list[tuple[str, pd.DataFrame]]:
    """Return the summary as a person reads it: titles and tables of text, accuracy and time.

    Of a sweep over the fields `swept`, each row begins with its point.
    """
    kinds = _letters(summary)
    at = {name: _plain(name) for name in swept}
    return [
        ("Accuracy, mean over seeds", _columns(summary, at | _by_kind(_ACCURACY, kinds))),
        (_time_title(summary), _columns(summary, at | _by_kind(_times(summary), kinds))),
    ]


def node_legend(summary: pd.DataFrame) -> list[str]:
    """Say which kind of node is called by which letter, if there are several."""
    return [f"nodes {letter}: {name}" for name, letter in _letters(summary).items()]


def stated(comparisons: pd.DataFrame) -> list[str]:
    """Return what is stated; `lag_skill` says the same as the MSE, and epochs as seconds do."""
    told = comparisons["metric"].isin(["train_s", "final_mse", "seconds_to_lag"])
    return [str(words) for words in comparisons.loc[told, "words"]]


def render_summary(
    summary: pd.DataFrame,
    kind: str,
    width: int = 80,
    comparisons: pd.DataFrame | None = None,
    conclusion: Sequence[str] = (),
    swept: Sequence[str] = (),
) -> str:
    """Return the summary as text: for people two tables and sentences, for programs as it is.

    `conclusion` is said last. Of a sweep over the fields `swept`, each row begins with its point.
    """
    if kind in {"csv", "json"}:
        return render(summary, kind)
    separator, keys = "\n" if kind == "markdown" else "", len(swept) + 1
    text = separator.join(
        render(table, kind, width, title, keys) for title, table in summary_tables(summary, swept)
    )
    contended = not summary.empty and bool(summary["contended"].any())
    text += "* contended: other trials ran beside it; do not compare times\n" * contended
    sentences = [] if comparisons is None else stated(comparisons)
    sentences += conclusion
    paragraphs = [
        _list(node_legend(summary), kind),
        _noise_note(summary),
        _list(sentences, kind),
    ]
    return text + separator + "".join(f"{told}\n" for told in paragraphs if told)


def render_comparisons(
    comparisons: pd.DataFrame, kind: str, width: int = 80, swept: Sequence[str] = ()
) -> str:
    """Return the comparisons of backends as text: for programs as they are."""
    if kind in {"csv", "json"}:
        return render(comparisons, kind)
    table = _columns(comparisons, {name: _plain(name) for name in swept} | _COMPARISON)
    title = "Each backend against the fastest, 95 % intervals"
    text = render(table, kind, width, title, keys=len(swept) + 1)
    return text + "\n" * (kind == "markdown") + _list(comparisons["words"], kind)


def render_scaling(
    growth: pd.DataFrame, crossovers: pd.DataFrame, kind: str, width: int = 80
) -> str:
    """Return the two tables of `harness.tables.scaling` as text: for people one, and sentences.

    For programs both as they are: JSON as an object of two lists, CSV with an empty line between.
    """
    if kind == "csv":
        return render(growth, kind) + "\n" + render(crossovers, kind)
    if kind == "json":
        both = (render(table, kind).rstrip() for table in (growth, crossovers))
        return '{{"growth": {},\n"crossovers": {}}}\n'.format(*both)
    kinds = _letters(growth)
    table = _columns(growth, _by_kind(_GROWTH, kinds))
    text = render(table, kind, width, "How the time of an epoch grows, as a power of the size")
    overtaken = crossovers["words"].tolist() or ["no backend is shown to overtake another"]
    paragraphs = [_list(told, kind) for told in (node_legend(growth), growth["words"], overtaken)]
    return text + "\n" * (kind == "markdown") + "\n".join(filter(None, paragraphs))


def render_changes(changes: pd.DataFrame, kind: str, width: int, title: str) -> str:
    """Return the changes from one run to another as text: for programs as they are."""
    if kind in {"csv", "json"}:
        return render(changes, kind)
    return render(_columns(changes, _CHANGE), kind, width, title)


def _letters(summary: pd.DataFrame) -> dict[str, str]:
    """Return a letter for each kind of node, if there are several."""
    kinds = [] if summary.empty else list(dict.fromkeys(summary["node_kind"]))
    return {kind: _LETTERS[n % 26] * (1 + n // 26) for n, kind in enumerate(kinds) if kinds[1:]}


def _by_kind(
    columns: dict[str, Callable[[Any], str]], kinds: dict[str, str]
) -> dict[str, Callable[[Any], str]]:
    """Return the columns with the letter of the kind of node after the device."""
    if not kinds:
        return columns
    first = {name: columns[name] for name in ("backend", "device")}
    return first | {"nodes": lambda row: kinds[row["node_kind"]]} | columns


def _list(sentences: Iterable[str], kind: str) -> str:
    bullet = "- " if kind == "markdown" else ""
    return "".join(f"{bullet}{sentence}\n" for sentence in sentences)


def _compared(row: Any) -> str:
    """Return what a row of comparisons is about: `train_s/epoch, torch on cpu`."""
    metric = "train_s/epoch" if row["metric"] == "train_s" else row["metric"]
    across = row.get("across")
    over = "" if across is None or pd.isna(across) else f" over {across}"
    return f"{metric}, {row['backend']}{over} on {row['device']}"


def _ratio_or_difference(row: Any) -> str:
    """Return the figures of a comparison; a difference has its sign."""
    ratio = row["kind"] == "ratio"
    show = numbers.ratio if ratio else "{:+.2g}".format
    if pd.isna(row["value"]):
        return "-"
    interval = numbers.interval(row["low"], row["high"], show)
    return f"{show(row['value'])}{'x' if ratio else ''}{interval}"


def _change(row: Any) -> str:
    """Return a ratio as a change in per cent, a large one as it is, a difference with its sign."""
    if pd.isna(row["value"]):
        return "-"
    if row["kind"] == "difference" or not 0.5 < row["value"] < 2:
        return _ratio_or_difference(row)
    interval = numbers.interval(row["low"] - 1, row["high"] - 1, numbers.percentage)
    return numbers.change(row["value"]) + interval


def _noise_note(summary: pd.DataFrame) -> str:
    noisy = [row for _, row in summary.iterrows() if row["noisy"]]
    if not noisy:
        return ""
    lines = [
        f"† noisy: {r['noisy']} of {r['seeds']} of {r['backend']} on {r['device']}" for r in noisy
    ]
    return "\n".join(lines) + (
        "\n  disturbed while on the clock: `show --table trials` says by what,\n"
        "  `run --retry-noisy N` measures again where the processor was taken away\n"
    )


def _columns(summary: pd.DataFrame, columns: dict[str, Callable[[Any], str]]) -> pd.DataFrame:
    rows = [{name: text(row) for name, text in columns.items()} for _, row in summary.iterrows()]
    return pd.DataFrame(rows, columns=list(columns), dtype="object")


def _with_interval(value: str, interval: str) -> Callable[[Any], str]:
    def text(row: Any) -> str:
        low, high = (row[f"{interval}_{end}".lstrip("_")] for end in ("low", "high"))
        return number(row[value]) + numbers.interval(low, high, "{:.2g}".format)

    return text


def _plain(name: str) -> Callable[[Any], str]:
    return lambda row: _cell(row[name])


def _to_lag(name: str) -> Callable[[Any], str]:
    def text(row: Any) -> str:
        if not row["lag_seeds"]:
            return "-" if pd.isna(row["lag_skill"]) else "not yet"
        some = f" ({row['lag_seeds']}/{row['seeds']})" if row["lag_seeds"] < row["seeds"] else ""
        return _cell(row[name]) + some

    return text


def _times(summary: pd.DataFrame) -> dict[str, Callable[[Any], str]]:
    """Return the columns of the table of times: some are there only where there is something."""
    columns = dict(_TIME)
    if summary.empty:
        return columns
    if (summary["at_once"] > 1).any():
        columns |= {"at once": _plain("at_once"), "all at once s": _plain("train_at_once_s")}
    if summary["floor_ratio"].notna().any():
        columns["x floor [95 %]"] = _ratio("floor_ratio")
    if summary["energy_j"].notna().any():
        columns["energy J"] = _plain("energy_j")
    return columns


def _time_title(summary: pd.DataFrame) -> str:
    shared = not summary.empty and bool((summary["at_once"] > 1).any())
    per_seed = "; epochs/s and train s per seed, the rest of all at once"
    return "Time, median over seeds" + per_seed * shared


def _time_ratio(row: Any) -> str:
    return "fastest" if row["fastest"] and pd.notna(row["time_ratio"]) else _TIME_RATIO(row)


def _ratio(name: str) -> Callable[[Any], str]:
    def text(row: Any) -> str:
        if pd.isna(row[name]):
            return "-"
        ratio, low, high = (numbers.ratio(row[name + end]) for end in ("", "_low", "_high"))
        if pd.isna(row[f"{name}_low"]):
            return f"{ratio}x [one block]"
        return f"{ratio}x [{low}, {high}]"

    return text


_TIME_RATIO = _ratio("time_ratio")


_ACCURACY: dict[str, Callable[[Any], str]] = {
    "backend": lambda row: str(row["backend"]),
    "device": lambda row: str(row["device"]),
    "seeds": lambda row: f"{row['seeds']}/{row['trials']}",
    "MSE": _plain("final_mse"),
    "geometric [95 %]": _with_interval("final_mse_geo", "final_mse"),
    "lag_skill [95 %]": _with_interval("lag_skill", "lag_skill"),
    "r2": _plain("r2"),
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
_CHANGE: dict[str, Callable[[Any], str]] = {
    "comparison": _compared,
    "change": _change,
    "verdict": lambda row: str(row["verdict"]),
    "A": _plain("a"),
    "B": _plain("b"),
    "p (Holm)": _plain("p_holm"),
}
_GROWTH: dict[str, Callable[[Any], str]] = {
    "backend": lambda row: str(row["backend"]),
    "device": lambda row: str(row["device"]),
    "field": lambda row: str(row["field"]),
    "exponent [95 %]": _with_interval("exponent", ""),
    "trials": _plain("trials"),
    "sizes": _plain("sizes"),
    "p (Holm), bent": _plain("p_bent_holm"),
}
_COMPARISON: dict[str, Callable[[Any], str]] = {
    "comparison": _compared,
    "against": lambda row: f"{row['against_backend']} on {row['against_device']}",
    "ratio [95 %]": _ratio_or_difference,
    "n": lambda row: f"{row['n']}/{row['of']}",
    "p (Holm)": _plain("p_holm"),
}


def _cell(value: Any) -> str:
    """Return text as it is, a number to three digits, and `-` for a missing value."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "-"
    return number(value) if not isinstance(value, bool | np.bool) else "yes" if value else "no"


def _markdown(frame: pd.DataFrame) -> str:
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
    rows = [list(frame.columns), *frame.to_numpy().tolist()]
    head, *body = map(line, rows)
    return "".join(f"{text}\n" for text in (head, rule, *body))


_GAP = "  "
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TEXT = (
    *("backend", "device", "quantity", "dtype", "element", "trial", "status", "error"),
    *("subject", "metric", "verdict", "noise", "check", "value", "advice"),
    *("comparison", "against", "nodes", "node", "node_kind", "field", "lost", "isolation", "what"),
)
