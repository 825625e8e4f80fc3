"""A history in words: its change points, the newest runs, what the groups are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.history.series import Group, Series
from harness.stats.changepoints import FEWEST, ChangePoint
from harness.tables import numbers
from harness.tables.text import letter, render, render_sentences

if TYPE_CHECKING:
    from harness.history.history import History

_MOST_CHANGES = 4
"""How many of the things that changed elsewhere a sentence names."""


def rendered(history: History, kind: str, width: int = 80) -> str:
    """Return a history as text, in one of `harness.tables.text.FORMATS`.

    People get the change points in words and the newest row of each series. CSV has `table`, JSON
    `steps` (the change points), `latest` and `history`, each a list.
    """
    if kind == "csv":
        return render(history.table, kind)
    if kind == "json":
        parts = {
            "steps": history.change_points,
            "latest": history.latest,
            "history": history.table,
        }
        texts = (f'"{name}": {render(part, kind).rstrip()}' for name, part in parts.items())
        return "{" + ",\n".join(texts) + "}\n"
    keys = 1 + (len(history.references) > 1)
    table = render(newest(history), kind, width, "Newest run of each series", keys=keys)
    sentences = (render_sentences(part, kind) for part in (conclusion(history), legend(history)))
    return f"\n{table}\n".join(sentences)


def conclusion(history: History) -> list[str]:
    """Return the change points in words, or that none was found, and which series are too short."""
    tested = sum(series.tested for series in history.series)
    too_short = len(history.series) - tested
    sentences: list[str] = history.change_points["words"].tolist()
    if tested and not sentences:
        sentences = [f"no change point shown in {tested} series"]
    if too_short:
        few = f"{too_short} series {'have' if too_short > 1 else 'has'} fewer than {FEWEST} runs"
        sentences.append(f"{few}: too few to look for a change point")
    return sentences


def newest(history: History) -> pd.DataFrame:
    """Return `latest` for people, with the last change point of each series in time."""
    groups = list(history.references)
    last = {
        (series.group, series.backend): _last_change(series)
        for series in history.series
        if series.measure != "final_mse" and series.change_points
    }
    rows = []
    for (group, backend, part), row in zip(
        history.parts, history.latest.to_dict("records"), strict=True
    ):
        seeds = row["mse_seeds"]
        differ = not pd.isna(seeds) and seeds != history.mse_seeds[group]
        other = f" (only seeds {seeds})" if differ else ""
        rows.append(
            ({"group": letter(groups.index(group))} if groups[1:] else {})
            | {
                "backend": backend,
                "device": group.device,
                "runs": len(part),
                "newest": row["run"],
                "commit": short_commit(row["commit"]) or "-",
                "ok": f"{row['seeds']}/{row['trials']}",
                "ms/epoch": numbers.short(1e3 * row["epoch_s"]),
                "ratio [95 %]": _with_interval(row, "ratio"),
                "MSE [95 %]": _with_interval(row, "final_mse") + other,
                "mse_seeds": "-" if pd.isna(seeds) else seeds,
                "last change in time": last.get((group, backend), "-"),
            }
        )
    return pd.DataFrame(rows)


def legend(history: History) -> list[str]:
    """Return a sentence for each group: its conditions, the reference, and the seeds of errors."""
    sentences = []
    for place, (group, reference) in enumerate(history.references.items()):
        conditions = [f"{group.task_name}; {group.node_kind}; {group.device}", *unusual(group)]
        ratio = f"ratios to {reference}" if reference else "one backend: no ratios"
        name = f"group {letter(place)}: " if len(history.references) > 1 else ""
        seeds = history.mse_seeds[group]
        mse = f", MSE over seeds {seeds}, where no others are named" if seeds else ""
        means = f"geometric means over blocks{mse}"
        sentences.append(f"{name}{'; '.join(conditions)}; {ratio}; {means}")
    return sentences


def unusual(group: Group) -> Iterator[str]:
    """Yield the conditions of a group that most groups do not have."""
    if group.timing != "rounds":
        yield f"timing {group.timing}"
    if group.at_once > 1:
        yield f"{group.at_once} seeds at once"


def sentence(row: Mapping[str, Any], series: Series, reference_moved: bool) -> str:
    """Return a change point, a row of `CHANGE_POINTS`, as a sentence.

    It says what changed by how much, at which run or commit, and what else changed there.
    """
    arm = f"{series.backend} on {series.group.device}"
    text = f"the MSE of {arm} " if series.measure == "final_mse" else f"{arm} "
    text += _change(row, is_time=series.measure != "final_mse")
    if series.relative_to:
        text += f" relative to {series.relative_to}"
    date = str(row["started_utc"])[:10]
    commit, last = (short_commit(row[name]) for name in ("commit", "last_commit"))
    if commit and str(row["commit"]) != str(row["last_commit"]):
        text += f" at {commit} (run {row['run']}, {date})"
        text += f", last {'good' if row['change'] > 1 else 'before'} {last}" if last else ""
    else:
        text += f" at run {row['run']}, {date}"
        text += f", with no change of commit ({commit})" if commit else ""
    if row["earliest_run"] != row["latest_run"]:
        text += f"; or anywhere from run {row['earliest_run']} to {row['latest_run']}"
    changed = list(filter(None, row["also_changed"].split("; ")))
    if changed:
        left = len(changed) - _MOST_CHANGES
        more = f" and {left} more" if left > 0 else ""
        text += f"; also changed: {', '.join(changed[:_MOST_CHANGES])}{more}"
    if reference_moved:
        text += f"; {series.relative_to} itself changed about there, too"
    return text


def short_commit(commit: Any) -> str:
    """Return a commit with seven digits, and its `+`; empty if it is unknown."""
    text = "" if commit is None or pd.isna(commit) else str(commit)
    return text[:7] + "+" * text.endswith("+")


def change_at(series: Series, point: ChangePoint) -> tuple[str, pd.Series]:
    """Return a change as text, and the row of the first run after it."""
    return numbers.change(np.exp(point.change.value)), series.rows.iloc[point.at]


def _last_change(series: Series) -> str:
    change, row = change_at(series, series.change_points[-1])
    return f"{change} at {short_commit(row['commit']) or row['run']}"


def _with_interval(row: Mapping[Any, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return numbers.short(row[name]) + numbers.interval(low, high, numbers.short)


def _change(row: Mapping[str, Any], is_time: bool) -> str:
    """Return a change as a predicate: `became 4.9 % slower [4.1, 5.7]`."""
    change, low, high = (float(row[name]) for name in ("change", "low", "high"))
    if not 0.5 < change < 2:
        verb, size = ("takes", "as long") if is_time else ("is", "as large")
        interval = numbers.interval(low, high, "{:.3g}".format)
        return f"{verb} {change:.3g} times {size}{interval}"
    more, less = ("slower", "faster") if is_time else ("higher", "lower")
    sign, word = (1, more) if change > 1 else (-1, less)
    ends = sorted(sign * 100 * (ratio - 1) for ratio in (low, high))
    interval = numbers.interval(ends[0], ends[1], "{:.1f}".format)
    return f"became {sign * 100 * (change - 1):.1f} % {word}{interval}"


def conditions(group: Group, groups: Iterable[Group]) -> str:
    """Return the conditions in which a group differs from others: ` [task default, EPYC]`."""
    texts = {
        "task": f"task {group.task_name}",
        "node_kind": group.node_kind,
        "timing": f"timing {group.timing}",
        "at_once": f"{group.at_once} seeds at once",
    }
    differ = [
        text for name, text in texts.items() if len({getattr(other, name) for other in groups}) > 1
    ]
    return f" [{', '.join(differ)}]" if differ else ""
