"""The report of a run: what it shows in words first, then in tables and charts, then from what.

`report.html` is one file that can be sent to anybody. The same charts, in light colours, are files
under `plots/`: SVG and PNG, fit for print.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from harness.charts import figures, page, vega
from harness.charts.figures import MOST_POINTS
from harness.charts.page import Command, Figure, Items, Note, Page, Section, Table, Text
from harness.diagnosis.wording import target
from harness.errors import StoreError, brief
from harness.runs.progress import describe_certificate
from harness.runs.results import Run
from harness.store.files import LocalFolder
from harness.tables.points import points
from harness.tables.text import node_legend, stated, summary_tables
from harness.task.task import Task

NAME = "report.html"
PLOTS = "plots"
_PPI = 150
"""Of the PNG files: 1,200 pixels for the width of a column of print."""
_FEW = 10
"""Disturbed trials that are shown without being asked for."""
_MOST_TRIALS = 200
"""Rows of a table of trials; all of them are in `trials.csv`."""


def write(run: Run, to: Path | None = None, with_plots: bool = True) -> str:
    """Write the report of a run into its folder, or into another; return where the page is.

    Raises `StoreError` if it cannot be written.
    """
    for name, content in files(run, with_plots):
        if to is None:
            run.folder.write(name, content)
        else:
            _write(to, name, content)
    return f"{run.location if to is None else to}/{NAME}"


def _write(folder: Path, name: str, content: bytes) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        LocalFolder(folder).write(name, content)
    except OSError as error:
        raise StoreError(f"`{folder}` cannot be written: {brief(error)}") from error


def files(run: Run, with_plots: bool = True) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file of the report, the page first."""
    vega.prepare()
    built = build(run)
    yield NAME, built.html().encode()
    if with_plots:
        yield from plots(built.figures)


def plots(drawn: Sequence[Figure]) -> Iterator[tuple[str, bytes]]:
    """Yield each figure as SVG and as PNG."""
    import vl_convert

    for figure in drawn:
        svg = vl_convert.vegalite_to_svg(figure.printable)
        yield f"{PLOTS}/{figure.name}.svg", svg.encode()
        yield f"{PLOTS}/{figure.name}.png", vl_convert.svg_to_png(svg, ppi=_PPI)


def build(run: Run) -> Page:
    """Return the report of a run as a page."""
    trials = run.trials
    plan = run.manifest.plan
    made = [
        Section("What it shows", list(_verdict(run))),
        Section("Summary", list(_summary(run))),
        *_sweep(run, trials),
        *_learning(run, trials),
        *_times(run, trials),
        *_noise(trials),
        *_failures(run),
        Section("Parity certificate", list(_parity(run)), folded=True),
        Section("Task, plan and environment", list(_environment(run)), folded=True),
    ]
    arms = ", ".join(map(str, plan.arms))
    return Page(
        title=f"{run.name}: {arms}",
        subtitle=f"{_formula(plan.task)} {_extent(run)}",
        sections=made,
    )


def _formula(task: Task) -> str:
    return (
        f"A network ({task.cell}, {task.hidden} units) reads a random path x (AR(1), rho = "
        f"{task.rho:g}) step by step and learns {target(task.train_sign * task.lag_weight)}; it is "
        f"scored against {target(task.lag_weight)}."
    )


def _extent(run: Run) -> str:
    plan, ended = run.manifest.plan, len(run.records)
    seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
    some = "" if ended == plan.size else f" ({ended} of {plan.size} trials have ended)"
    return f"{plan.task.epochs} epochs, {seeds}{some}; started {_moment(run)}."


def _moment(run: Run) -> str:
    """Return when the run was started: `2026-11-25 13:15 UTC`."""
    started = run.manifest.started_utc
    return f"{started[:16].replace('T', ' ')} UTC" if "T" in started else started


def _verdict(run: Run) -> Iterator[page.Block]:
    for finding in run.findings():
        yield Note(
            finding.severity,
            finding.headline,
            finding.evidence,
            finding.remedy,
            ", ".join((*finding.subjects, finding.where) if finding.where else finding.subjects),
        )
    if not run.swept and (said := stated(run.comparisons())):
        yield Items(said)


def _summary(run: Run) -> Iterator[page.Block]:
    summary = run.summary()
    if not (run.trials["status"] == "ok").any():
        yield Text("No trial ended ok." if run.records else "No trial has ended yet.")
    if not summary.empty:
        for title, table in summary_tables(summary, run.swept):
            yield Table(title, table)
        yield Items(
            [
                "MSE: mean squared error over held-out paths; lag_skill above 0 means that the "
                "network uses the past; train s: steady training only, without import, set-up and "
                "the first call.",
                *node_legend(summary),
            ]
        )


def _learning(run: Run, trials: pd.DataFrame) -> Iterator[Section]:
    """Yield the charts of each point of the sweep at which something was learned."""
    learned = list(points(trials[trials["status"] == "ok"], run.swept))
    drawn = [(run.point(values), there) for values, there in learned if not there.empty]
    if not drawn:
        return
    some: list[page.Block] = []
    if len(drawn) > MOST_POINTS:
        some = [Text(f"The first {MOST_POINTS} of {len(drawn)} points of the sweep are drawn.")]
        drawn = drawn[:MOST_POINTS]
    # With other trials beside them, times are not compared.
    axes = ("epoch",) if trials["contended"].any() else figures.AGAINST
    yield Section(
        "Convergence",
        [
            *some,
            *(
                figures.convergence(run.curves, there, point, against)
                for point, there in drawn
                for against in axes
            ),
        ],
    )
    stepwise = [figures.steps(run.steps, there, point) for point, there in drawn]
    yield Section("Accuracy per time step", [*some, *stepwise])


def _sweep(run: Run, trials: pd.DataFrame) -> Iterator[Section]:
    if not run.swept or not (trials["status"] == "ok").any():
        return
    words = [str(said) for table in (run.growth(), run.crossovers()) for said in table["words"]]
    told = [Items(words)] if words else []
    yield Section("Over the sweep", [*told, *figures.over_sweep(trials, run.swept)])


def _times(run: Run, trials: pd.DataFrame) -> Iterator[Section]:
    both = (figures.times(trials, run.swept), figures.ratios(run.comparisons(), run.swept))
    if drawn := [figure for figure in both if figure]:
        yield Section("Time", drawn)


def _noise(trials: pd.DataFrame) -> Iterator[Section]:
    noisy = trials[trials["noisy"].fillna(False).astype(bool)]
    contended = bool(trials["contended"].any())
    if not contended and not trials["noisy"].notna().any():
        return
    blocks: list[page.Block] = []
    if contended:
        blocks.append(Text("Trials ran beside each other: their times are not to be compared."))
    if noisy.empty and not contended:
        blocks.append(Text("No trial was disturbed while on the clock."))
    elif not noisy.empty:
        blocks.append(
            Text(
                f"{len(noisy)} of {len(trials)} trials were disturbed while on the clock. Those "
                "whose processor was taken away are measured again by run --retry-noisy N."
            )
        )
        columns = ["backend", "device", "seed", "node", "noise", "lost_share", "train_s"]
        blocks.append(Table("Disturbed trials", noisy[columns].head(_MOST_TRIALS)))
    yield Section("Noise", blocks, folded=len(noisy) > _FEW)


def _failures(run: Run) -> Iterator[Section]:
    ended = run.trials
    bad = ended[~ended["status"].isin(["ok"])]
    if bad.empty:
        return
    columns = ["trial", "seed", "status", "error", "node"]
    table = Table("Trials that did not end ok", bad[columns].head(_MOST_TRIALS))
    more = [Text(f"The first {_MOST_TRIALS} of {len(bad)}.")] if len(bad) > _MOST_TRIALS else []
    yield Section("Trials that did not end ok", [*more, table])


def _parity(run: Run) -> Iterator[page.Block]:
    certificates = run.manifest.parity
    if not certificates:
        yield Text("No backend was held against the reference yet.")
        return
    yield Text(
        "Each backend was held against a reference in float64, derived by hand: outputs, gradients "
        "element by element, and twenty steps of Adam. Only what passed was timed."
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
    described = plan.task.model_dump()
    yield Table(
        "Task", pd.DataFrame({"field": described.keys(), "value": map(str, described.values())})
    )
    how = plan.model_dump(exclude={"task", "arms", "many", "run"}, exclude_none=True)
    yield Table("Plan", pd.DataFrame({"field": how.keys(), "value": map(str, how.values())}))
    for environment, nodes in _environments(run):
        table = pd.DataFrame({"what": environment.keys(), "value": environment.values()})
        yield Table(f"Environment of {nodes}", table)
    yield Text("The figures are made from the records of the run:")
    yield Command(f"python -m harness show {run.name} --table trials")


def _environments(run: Run) -> Iterator[tuple[dict[str, str], str]]:
    """Yield what was the same in the trials of a backend on a node, and whose that is."""
    first: dict[tuple[str, str, str], dict[str, str]] = {}
    for record in run.records:
        first.setdefault((record.backend, record.device, record.node), record.environment)
    if not first:
        yield run.manifest.environment, "the machine where the run was started"
    for (backend, device, node), environment in first.items():
        if environment:
            yield environment, f"{backend} on {device}, node {node}"
