"""The report of a run: first what it shows in words, then tables and charts, then task and plan.

`report.html` is one file that can be sent to anybody. The same charts, in light colours, are files
for print under `plots/`, as SVG and PNG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from harness.charts import figures, page, vega
from harness.charts.figures import MOST_POINTS
from harness.charts.page import Command, Figure, Items, Notice, Page, Section, Table, Text
from harness.charts.saved import PPI
from harness.diagnosis.wording import target
from harness.errors import StoreError, explained
from harness.inputs.commands import command
from harness.runs.progress import describe_certificate
from harness.runs.results import Run
from harness.store.files import LocalFolder
from harness.store.manifest import PAGE, PLOTS
from harness.tables.points import points
from harness.tables.reach import TITLE as REACH_TITLE
from harness.tables.reach import by_lag, reach_words
from harness.tables.text import node_legend, summary_tables
from harness.tables.waterfall import side_by_side
from harness.task.task import Task

_FEW = 10
"""If more trials were disturbed, the section on them is folded."""
_NAMED_VALUES = 4
"""Of more values of a swept field, the sentence at the top names the first and the last."""
_MOST_TRIALS = 200
"""Rows of a table of trials; all of them are in `trials.csv`."""


def write(run: Run, to: Path | None = None, with_plots: bool = True) -> str:
    """Write the report of a run into its folder, or into another; return where the page is.

    Raises `StoreError` if it cannot be written.
    """
    made = files(run, with_plots)
    if to is None:
        run.folder.write(made)
        return f"{run.location}/{PAGE}"
    with explained(StoreError, f"`{to}` cannot be written"):
        to.mkdir(parents=True, exist_ok=True)
        folder = LocalFolder(to)
        folder.refuse_links(PAGE, PLOTS)
        for name, content in made:
            folder.write(name, content)
    return f"{to}/{PAGE}"


def files(run: Run, with_plots: bool = True) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file of the report, the page first."""
    vega.prepare()
    built = build(run)
    yield PAGE, built.html().encode()
    if with_plots:
        yield from plots(built.figures)


def plots(drawn: Sequence[Figure]) -> Iterator[tuple[str, bytes]]:
    """Yield each figure as SVG and as PNG."""
    import vl_convert

    for figure in drawn:
        svg = vl_convert.vegalite_to_svg(page.to_dict(figure.printable))
        yield f"{PLOTS}/{figure.name}.svg", svg.encode()
        yield f"{PLOTS}/{figure.name}.png", vl_convert.svg_to_png(svg, ppi=PPI)


def build(run: Run) -> Page:
    """Return the report of a run as a page."""
    trials = run.trials
    sections = [
        Section("What it shows", list(_findings(run))),
        Section("Summary", list(_summary(run))),
        *_sweep(run, trials),
        *_learning(run, trials),
        *_times(run, trials),
        *_profile(run),
        *_noise(trials),
        *_failures(trials),
        Section("Parity certificate", list(_parity(run)), folded=True),
        Section("Task, plan and environment", list(_environment(run)), folded=True),
    ]
    arms = ", ".join(map(str, run.manifest.plan.arms))
    return Page(f"{run.name}: {arms}", _subtitle(run), sections)


def _subtitle(run: Run) -> str:
    plan, ended, started = run.manifest.plan, run.ended, run.manifest.started_utc
    seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
    if ended < plan.size:
        seeds += f" ({ended} of {plan.size} trials have ended)"
    if "T" in started:
        started = f"{started[:16].replace('T', ' ')} UTC"

    def each(text: Callable[[Task], str]) -> str:
        return _each([point.task for point in plan.points], text)

    gradient = each(lambda task: task.gradient)
    swept = f"; a sweep over {' and '.join(run.swept)}, {len(plan.points)} points"
    return (
        f"A network ({each(lambda task: task.cell)}, {each(lambda task: f'{task.hidden}')} units) "
        f"reads a random path x (AR(1), rho = {each(lambda task: f'{task.rho:g}')}) step by step "
        f"and learns {each(lambda task: target(task.train_sign * task.lag_weight, task.lag))}; "
        f"it is scored against {each(lambda task: target(task.lag_weight, task.lag))}. "
        f"{each(lambda task: f'{task.epochs}')} epochs, {seeds}"
        f"{'' if gradient == 'exact' else f', gradient {gradient}'}{swept * bool(run.swept)}; "
        f"started {started}."
    )


def _each(tasks: Sequence[Task], text: Callable[[Task], str]) -> str:
    """Return a text on each task, each once: `10, 64 or 256`; in the middle of many, dots."""
    *others, last = dict.fromkeys(map(text, tasks))
    others = others if len(others) < _NAMED_VALUES else [others[0], "..."]
    return f"{', '.join(others)} or {last}" if others else last


def _findings(run: Run) -> Iterator[page.Block]:
    for finding in run.findings():
        about = ", ".join(filter(None, (*finding.subjects, finding.where)))
        yield Notice(finding.severity, finding.headline, finding.evidence, finding.remedy, about)
    if not run.swept and (sentences := [*run.sentences(), *run.caveats]):
        yield Items(sentences)


def _summary(run: Run) -> Iterator[page.Block]:
    summary = run.summary()
    if not (run.trials["status"] == "ok").any():
        yield Text("No trial ended ok." if run.ended else "No trial has ended yet.")
    if not summary.empty:
        for title, table in summary_tables(summary, run.swept):
            yield Table(title, table)
        legend = (
            "MSE: mean squared error over held-out paths; lag_skill above 0 means that the network "
            "uses the past; train s: steady training only; start s: import, set-up, and what the "
            "first call takes beyond its usual work, such as compilation."
        )
        yield Items([legend, *node_legend(summary)])


def _learning(run: Run, trials: pd.DataFrame) -> Iterator[Section]:
    """Yield the charts of each point of the sweep at which a trial ended ok."""
    ok = trials[trials["status"] == "ok"]
    if ok.empty:
        return
    drawn = [(run.point(values), at_point) for values, at_point in points(ok, run.swept)]
    some: list[page.Block] = []
    if len(drawn) > MOST_POINTS:
        some = [Text(f"The first {MOST_POINTS} of {len(drawn)} points of the sweep are drawn.")]
        drawn = drawn[:MOST_POINTS]
    # With other trials beside them, times are not compared.
    axes = ("epoch",) if trials["contended"].any() else figures.AGAINST
    curves = [
        figures.convergence(run.curves, at_point, point, against)
        for point, at_point in drawn
        for against in axes
    ]
    steps = [figures.steps(run.steps, at_point, point) for point, at_point in drawn]
    compared = figures.steps_compared(run.steps, drawn) if run.swept else None
    yield Section("Convergence", [*some, *curves])
    yield Section("Accuracy per time step", [*some, *([compared] if compared else []), *steps])
    lags = [figures.lags(run.lags, at_point, point) for point, at_point in drawn]
    if known := [figure for figure in lags if figure]:
        yield Section("What was learned at each lag", [*some, *known])


def _sweep(run: Run, trials: pd.DataFrame) -> Iterator[Section]:
    if run.swept and (trials["status"] == "ok").any():
        reached = run.reach()
        timed = [*run.growth()["words"], *run.crossovers()["words"]]
        words = [*reach_words(reached, run.swept), *timed]
        blocks: list[page.Block] = [Items(words)] if words else []
        if len(reached):
            blocks.insert(0, Table(REACH_TITLE, by_lag(reached, run.swept)))
        yield Section("Over the sweep", [*blocks, *figures.over_sweep(trials, run.swept)])


def _times(run: Run, trials: pd.DataFrame) -> Iterator[Section]:
    drawn = [
        figures.times(trials, run.swept),
        *_total_times(run, trials),
        figures.ratios(run.comparisons(), run.swept),
    ]
    if known := [figure for figure in drawn if figure]:
        yield Section("Time", known)


def _total_times(run: Run, trials: pd.DataFrame) -> Iterator[Figure | None]:
    """Yield a figure for each of the first points of the sweep."""
    ok = trials[trials["status"] == "ok"]
    found = run.break_even()
    for values, at_point in list(points(ok, run.swept))[:MOST_POINTS]:
        here = found[(found[list(values)] == list(values.values())).all(axis=1)]
        yield figures.totals(at_point, here, run.point(values))


def _profile(run: Run) -> Iterator[Section]:
    table = run.profile if run.manifest.plan.profile else pd.DataFrame()
    if not table.empty and (figure := figures.profile(table, run.swept)):
        shown = side_by_side(table, run.swept)
        tables = [Table(title, frame) for title, frame in shown if len(frame)]
        yield Section("Where the time of an epoch goes", [figure, *tables])


def _noise(trials: pd.DataFrame) -> Iterator[Section]:
    noisy = trials[trials["noisy"].fillna(False).astype(bool)]
    contended = bool(trials["contended"].any())
    if not contended and not trials["noisy"].notna().any():
        return
    blocks: list[page.Block] = []
    if contended:
        blocks.append(Text("Trials ran beside each other: their times are not to be compared."))
    elif noisy.empty:
        blocks.append(Text("No trial was disturbed while on the clock."))
    if len(noisy):
        text = f"{len(noisy)} of {len(trials)} trials were disturbed while on the clock."
        columns = ["backend", "device", "seed", "node", "noise", "lost_share", "train_s"]
        table = Table("Disturbed trials", noisy[columns].head(_MOST_TRIALS))
        blocks += [Text(text), table]
    yield Section("Noise", blocks, folded=len(noisy) > _FEW)


def _failures(trials: pd.DataFrame) -> Iterator[Section]:
    bad = trials[trials["status"] != "ok"]
    if len(bad):
        title, columns = "Trials that did not end ok", ["trial", "seed", "status", "error", "node"]
        table = Table(title, bad[columns].head(_MOST_TRIALS))
        some = [Text(f"The first {_MOST_TRIALS} of {len(bad)}.")] if len(bad) > _MOST_TRIALS else []
        yield Section(title, [*some, table])


def _parity(run: Run) -> Iterator[page.Block]:
    certificates = run.manifest.parity
    if not certificates:
        yield Text("No backend was checked against the reference yet.")
        return
    yield Text(
        "Each backend was checked against a reference in float64, derived by hand: outputs, "
        "gradients element by element, and twenty steps of Adam. Only what passed was timed."
    )
    rows = [
        {
            "backend": c.backend,
            "device": c.device,
            "node": c.node,
            "passed": c.passed,
            "quantity": check.quantity,
            "dtype": check.dtype,
            "network": check.network,
            "at once": check.at_once,
            "largest error": check.error,
            "allowed": check.tolerance,
            "where": check.element,
        }
        for c in certificates
        for check in c.checks
    ]
    yield Items([describe_certificate(certificate) for certificate in certificates])
    yield Table("Relative errors against the reference", pd.DataFrame(rows))


def _environment(run: Run) -> Iterator[page.Block]:
    plan = run.manifest.plan
    yield _fields("Task", "field", {k: str(v) for k, v in plan.task.model_dump().items()})
    settings = plan.model_dump(exclude={"task", "arms", "many", "run"}, exclude_none=True)
    yield _fields("Plan", "field", {name: str(value) for name, value in settings.items()})
    # It is the same in all trials of a backend on a node.
    nodes: dict[str, dict[str, str]] = {}
    for record in run.examples():
        where = f"{record.backend} on {record.device}, node {record.node}"
        nodes.setdefault(where, record.environment)
    if not nodes:
        nodes["the machine where the run was started"] = run.manifest.environment
    for where, environment in nodes.items():
        if environment:
            yield _fields(f"Environment of {where}", "what", environment)
    yield Text("The figures are made from the records of the run:")
    yield Command(command("show", *run.words, "--table", "trials"))


def _fields(title: str, key: str, values: dict[str, str]) -> Table:
    return Table(title, pd.DataFrame({key: values.keys(), "value": values.values()}))
