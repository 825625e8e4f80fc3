"""How far back does each cell remember, and how long does it take to learn that?

    python -m benchmarks.memory [--results FOLDER] [--small]

Measures the time of an epoch of each backend and cell, then trains each cell at lags of 1 to 32,
many seeds at once. Four runs in the folder, `memory-...`, keep what was measured: started again,
the command goes on where it was broken off. It prints the tables of docs/memory.md and draws its
picture, `memory.svg` in that folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import altair as alt
import numpy as np
import pandas as pd
from rich.console import Console

from harness import Run, Task, UnknownName, yardsticks
from harness.charts import draw
from harness.charts.page import Figure
from harness.charts.saved import save
from harness.measure import machine
from harness.measure.clock import timestamp
from harness.runs.progress import Lines
from harness.runs.request import RunRequest
from harness.runs.settings import Settings, Site
from harness.runs.start import start
from harness.stats.median import Median
from harness.store.results_folder import find_run
from harness.tables.numbers import interval, number, ratio
from harness.tables.text import render

HALF = 0.5
"""From this `lag_skill` on, half of the lag is learned; the luck of the paths is far below it."""
FASTEST = "fastest"
NETWORK = ["cell", "hidden"]
UNITS = 10
"""Of the default network, which all cells have; the rnn has a wider one, too."""


class Size(NamedTuple):
    """How much is trained."""

    name: str
    lags: Sequence[int]
    every: int
    """Epochs between two evaluations."""
    epochs: int
    """After so many, the cells are compared; gru and lstm are not trained any longer."""
    rnn_epochs: int
    """The rnn is, because it takes less time."""
    timed: int
    """Epochs of the runs that measure the time of an epoch."""
    timed_seeds: int
    seeds: int
    fields: dict[str, Any]


FULL = Size("", (1, 2, 4, 8, 16, 32), 200, 10_000, 30_000, 1000, 5, 8, {"eval_paths": 500})
_FEW = {"n_steps": 5, "batch_size": 4, "eval_paths": 100}
SMALL = Size("small-", (1,), 10, 40, 80, 40, 1, 2, _FEW)


class Measured(NamedTuple):
    """All runs together."""

    size: Size
    times: pd.DataFrame
    overtakes: Sequence[str]
    """`Run.summary()` and what `Run.break_even()` says, of the runs that were timed."""
    curves: pd.DataFrame
    """`Run.curves` of the trainings, with the `skill` at each evaluation."""
    reach: pd.DataFrame
    lags: pd.DataFrame
    """`Run.reach()` and `Run.lags` of the trainings."""


def measure(results: Path, size: Size) -> Measured:
    """Carry out the runs, or what they still lack."""

    def run(name: str, epochs: int, backends: Sequence[str], **settings: Any) -> Run:
        points = {"curve_points": epochs // size.every} if "vectorize" in settings else {}
        task = Task.preset("strong-lag", epochs=epochs, **points, **size.fields)
        return _kept(f"memory-{size.name}{name}", task, results, backends=backends, **settings)

    rnn: dict[str, Any] = {"cell": ("rnn",)}
    gated: dict[str, Any] = {"cell": ("gru", "lstm")}
    # The fast ones have an rnn only.
    both, fast = ("torch", "jax"), ("floor", "jax-tuned", "torch-tuned")
    timed = [
        run("time-rnn", size.timed, (*both, *fast), seeds=size.timed_seeds, sweep=rnn),
        run("time-gated", size.timed, both, seeds=size.timed_seeds, sweep=gated),
    ]
    rnn = rnn | {"hidden": (UNITS, 32), "lag": size.lags}
    gated = gated | {"hidden": (UNITS,), "lag": size.lags}
    # Their times are not used.
    many = {"seeds": size.seeds, "vectorize": True, "packed": True}
    trained = [
        run("rnn", size.rnn_epochs, ("floor",), sweep=rnn, **many),
        run("gated", size.epochs, ("jax",), sweep=gated, **many),
    ]
    return Measured(
        size,
        pd.concat([run.summary() for run in timed]),
        [str(words) for run in timed for words in run.break_even()["words"]],
        pd.concat([_with_skill(run) for run in trained]),
        pd.concat([run.reach() for run in trained]),
        pd.concat([run.lags for run in trained]),
    )


def _kept(name: str, task: Task, results: Path, **settings: Any) -> Run:
    """Return a run of this name and plan: a new one, or what there is of it, made complete."""
    try:
        find_run(results, name)
        names = {"resume": name}
    except UnknownName:
        names = {"run_id": name}
    asked = Settings(devices=("cpu",), **settings)
    site = Site(dispatch="inline", results=results)
    return start(RunRequest(task, asked, site, **names), Lines(Console(stderr=True)))


def _with_skill(run: Run) -> pd.DataFrame:
    exact = {p.task.lag: yardsticks(p.task).without_lag.mean() for p in run.manifest.plan.points}
    return run.curves.assign(skill=1 - run.curves["eval_mse"] / run.curves["lag"].map(exact))


def time_table(measured: Measured) -> Iterator[dict[str, str]]:
    """Yield the time of an epoch of each cell and backend."""
    for _, row in measured.times.iterrows():
        ends = interval(row["time_ratio_low"], row["time_ratio_high"], ratio)
        yield {
            "cell": row["cell"],
            "backend": row["backend"],
            "ms per epoch": number(1e3 / row["epochs_per_s"]),
            "x fastest": "1" if row["fastest"] else ratio(row["time_ratio"]) + ends,
        }


def epochs_table(measured: Measured) -> Iterator[dict[str, str]]:
    """Yield the skill of each network after equally many epochs."""
    here = measured.curves[measured.curves["epoch"] == measured.size.epochs]
    for lag, at_lag in here.groupby("lag"):
        networks = at_lag.groupby(NETWORK, sort=False)["skill"]
        yield {"lag": str(lag)} | {_name(network): _median(v) for network, v in networks}


def end_table(measured: Measured) -> Iterator[dict[str, str]]:
    """Yield the coefficient of x_{t-L}^2 at the end (the target has 1), and how many prove it."""
    own = measured.lags[measured.lags["k"] == measured.lags["lag"]]
    for lag, proven in measured.reach.groupby("lag"):
        row = {"lag": str(lag)}
        for _, found in proven.iterrows():
            mine = own[(own[["lag", *NETWORK]] == found[["lag", *NETWORK]]).all(axis=1)]
            counted = f"{found['reached']} of {found['seeds']}"
            row[_name(tuple(found[NETWORK]))] = f"{_median(mine['coefficient'])}; {counted}"
        yield row


def way_table(measured: Measured) -> Iterator[dict[str, str]]:
    """Yield how long each cell takes to learn half of the lag."""
    for (lag, cell), mine in _default(measured).groupby(["lag", "cell"], sort=False):
        first = mine[mine["skill"] >= HALF].groupby("seed")["epoch"].min()
        epochs = first.reindex(mine["seed"].unique()).fillna(np.inf)
        median = Median(epochs.to_numpy(dtype=float)).value
        row = {"lag": str(lag), "cell": str(cell), "seeds": f"{len(first)} of {len(epochs)}"}
        row["epochs"] = _median(epochs, _reached)
        for backend, epoch_s in _backends(measured, str(cell)):
            row[f"{backend}, s"] = _reached(median * epoch_s)
        yield row


def seconds_table(measured: Measured) -> Iterator[dict[str, str]]:
    """Yield the skill of each cell after equally many seconds of training, by backend."""
    curves = _default(measured)
    last = curves.groupby("cell", sort=False)["epoch"].max()
    for backend in ("torch", "jax", FASTEST):
        epoch_s = {cell: dict(_backends(measured, cell))[backend] for cell in last.index}
        # As long as all of them were trained.
        seconds = min(last[cell] * epoch_s[cell] for cell in last.index)
        until = curves[curves["epoch"] * curves["cell"].map(epoch_s) <= seconds * (1 + 1e-9)]
        for lag, at_lag in until.groupby("lag"):
            row = {"backend": backend, "seconds": number(seconds), "lag": str(lag)}
            for cell, mine in at_lag.groupby("cell", sort=False):
                skill = _median(mine.groupby("seed")["skill"].last())
                row[cell] = f"{skill}, {mine['epoch'].max():,} epochs"
            yield row


def _default(measured: Measured) -> pd.DataFrame:
    """Return the curves of the networks that all cells have, by lag."""
    here = measured.curves[measured.curves["hidden"] == UNITS]
    return here.sort_values("lag", kind="stable")


def _backends(measured: Measured, cell: str) -> Iterator[tuple[str, float]]:
    """Yield the seconds of an epoch of a cell in torch, in jax, and in its fastest backend."""
    times = measured.times[measured.times["cell"] == cell]
    each = 1 / times.set_index("backend")["epochs_per_s"]
    yield from {"torch": each["torch"], "jax": each["jax"], FASTEST: each.min()}.items()


def picture(measured: Measured) -> Figure:
    """Draw the skill of each network against the lag, after equally many epochs."""
    here = measured.curves[measured.curves["epoch"] == measured.size.epochs]
    names = [_name(network) for network in here[NETWORK].itertuples(index=False)]
    table = here.assign(series=names).groupby(["series", "lag"], sort=False)["skill"]
    shares = table.agg(share="median", low="min", high="max", seeds="count").reset_index()
    order = list(dict.fromkeys(names))
    x = alt.X("lag:Q", title="lag: how many steps back (log scale)")
    x = x.scale(type="log", base=2, nice=False).axis(values=list(measured.size.lags), format="d")
    y = alt.Y("share:Q", title="lag_skill: the share of the lag that is learned")
    lines = draw.series_lines(shares, x, y, [], order, scale="linear")
    chart = cast("draw.Chart", alt.layer(*lines).properties(height=300))
    title = f"Share of the lag that is learned in {measured.size.epochs:,} epochs"
    return Figure("memory", title, chart, "Median over seeds; the band: all of them.", shares)


def _name(network: Sequence[Any]) -> str:
    cell, hidden = network
    return f"{cell}, {hidden} units"


def _median(values: pd.Series[float], text: Callable[[float], str] = "{:.2f}".format) -> str:
    """Return the median over seeds with its interval by the sign test."""
    median = Median(values.to_numpy(dtype=float))
    return text(median.value) + interval(*median.interval(), text)


def _reached(value: float) -> str:
    return number(value) if np.isfinite(value) else "never"


def main() -> None:
    """Measure what is not there yet, print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the runs")
    parser.add_argument("--small", action="store_true", help="ends in minutes; says nothing")
    options = parser.parse_args()
    measured = measure(options.results, SMALL if options.small else FULL)
    print(f"{timestamp()}, {machine.describe()['cpu']}, one core\n")
    for table in (time_table, epochs_table, seconds_table, way_table, end_table):
        print(render(pd.DataFrame(table(measured)), "markdown"))
    print("\n".join(measured.overtakes))
    save(picture(measured).printable, options.results / "memory.svg")


if __name__ == "__main__":
    main()
