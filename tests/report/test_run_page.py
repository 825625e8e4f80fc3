"""The report as files: what is in it, for runs of every kind, and that it needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest

from benchmarks.helpers.runs import cloned
from harness import InvalidInput, Run
from harness.charts import draw, figures, page, series
from harness.diagnosis.types import SEVERITIES
from harness.report import run_page
from harness.store.manifest import PAGE
from harness.store.run_writer import RunWriter
from harness.tables.points import points
from tests.helpers import trainings
from tests.helpers.commands import TINY_RUN, Cli, in_this_process
from tests.helpers.records import MANIFEST, TINY_TASK, record

# Two names of one computation, both quick to start.
OTHERS = "reference,tests.helpers.faulty:AnyDevice"


def measure(results: Path, run_id: str, *arguments: object) -> Run:
    where = ("--dispatch", "inline", "--results", results, "--run-id", run_id)
    done = in_this_process(*TINY_RUN, *where, *arguments)
    assert done.returncode == 0, done.stderr
    return Run(run_id, results)


class Shown(HTMLParser):
    """What a browser would make of a page: its elements, their attributes and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        inside = self.elements[-1][0] if self.elements else ""
        (self.scripts if inside == "script" else self.text).append(data)

    @property
    def charts(self) -> dict[str, dict[str, object]]:
        """The specifications of the charts, by name."""
        texts = [text for text in self.scripts if text.startswith('{"specs"')]
        specs: dict[str, dict[str, object]] = json.loads(texts[0])["specs"] if texts else {}
        return specs


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def run(results: Path) -> Run:
    return measure(results, "both", "--backends", OTHERS, "--seeds", 2)


@pytest.fixture(scope="module")
def built(run: Run) -> page.Page:
    return run_page.build(run)


def shown(run: Run) -> Shown:
    return Shown(run_page.build(run).html())


def test_a_run_ends_with_its_report(cli: Cli, tmp_path: Path) -> None:
    arguments = ("--backends", "reference", "--seeds", 1, "--results", tmp_path, "--run-id", "x")
    done = cli(*TINY_RUN, "--dispatch", "inline", *arguments, HARNESS_REPORT="1")
    assert done.returncode == 0, done.stderr
    written = tmp_path / "x" / "report.html"
    assert f"Report: {written}" in done.stdout.splitlines()
    assert "x: reference on cpu" in written.read_text()
    names = {path.name for path in (tmp_path / "x" / "plots").iterdir()}
    assert names == {
        f"{stem}.{kind}"
        for stem in ("convergence-epochs", "convergence-seconds", "steps", "lags", "time")
        for kind in ("svg", "png")
    }


def test_a_run_ends_with_its_findings_and_without_a_report(cli: Cli, tmp_path: Path) -> None:
    arguments = ("--backends", "reference", "--seeds", 1, "--results", tmp_path, "--run-id", "x")
    given = ("--preset", "posted", "--dispatch", "inline", *arguments, "--no-report")
    done = cli(*TINY_RUN, *given, HARNESS_REPORT="1")
    assert done.returncode == 0, done.stderr
    told = done.stdout[done.stdout.index("FAULT wrong-sign: reference on cpu") :]
    assert "Next: Fix the loss:\n  `python -m harness run --preset posted-sign-mended" in told
    assert "FAULT broken-gradient: reference on cpu" in told
    assert "in Flux [h_nn(x) for x in xs]" in told
    assert f"\nWhy: python -m harness explain x --results {tmp_path}\nResults: " in told
    assert "Report:" not in told
    assert not (tmp_path / "x" / "report.html").exists()


def test_the_command_writes_into_another_folder(
    cli: Cli, run: Run, built: page.Page, tmp_path: Path
) -> None:
    results = Path(run.location).parent
    to = tmp_path / "some" / "paper"
    done = cli("report", "both", "--results", results, "--to", to)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Report: {to / 'report.html'}\n"
    for figure in built.figures:
        png = (to / "plots" / f"{figure.name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20]) > 1000, "wide enough for print"
        assert (to / "plots" / f"{figure.name}.svg").read_text().startswith("<svg")
    assert not (results / "both" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nope"], "run `nope`"),
        (["both", "--to", "/proc/no"], "`/proc/no` cannot be written"),
    ],
)
def test_a_bad_argument_is_a_sentence(
    cli: Cli, run: Run, arguments: list[str], sentence: str
) -> None:
    done = cli("report", *arguments, "--results", Path(run.location).parent)
    assert done.returncode in {2, 74}
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_it_needs_nothing_else(built: page.Page) -> None:
    """No element of the page loads anything."""
    seen = Shown(built.html())
    for tag, attributes in seen.elements:
        assert tag not in {"link", "iframe", "img", "object", "base"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def test_every_chart_is_there_in_words_and_as_a_table(built: page.Page) -> None:
    seen = Shown(built.html())
    names = ["convergence-epochs", "convergence-seconds", "steps", "lags"]
    names += ["time", "total-time", "ratios"]
    assert list(seen.charts) == names
    figures_ = [a for tag, a in seen.elements if tag == "figure"]
    assert [a["id"] for a in figures_] == names
    for figure in built.figures:
        assert len(figure.words) > 20
        assert len(figure.table)
        assert str(seen.charts[figure.name]["description"]).endswith(figure.words)


def test_every_severity_has_a_mark() -> None:
    notices = [page.Notice(severity, "so it is") for severity in SEVERITIES]
    text = page.Page("title", "subtitle", [page.Section("all", notices)]).html()
    for mark in ("✗ Fault", "! Note", "i Info", "✓ Good"):
        assert f'<span class="mark">{mark}</span> so it is' in text


def test_charts_are_vega_lite(built: page.Page) -> None:
    for figure in built.figures:
        figure.chart.to_dict()  # Raises where the schema is violated.
        for theme in (draw.LIGHT, draw.DARK):
            alt.Config.from_dict(theme)


def test_charts_show_what_was_measured(run: Run) -> None:
    trials = series.with_series(run.trials)
    curves = series.convergence(run.curves, trials)
    last = run.curves[run.curves["epoch"] == 100]
    for name, drawn in curves[curves["epoch"] == 100].set_index("series").iterrows():
        mine = last.loc[last["backend"] == name, "eval_mse"]
        assert drawn["eval_mse"] == pytest.approx(np.exp(np.log(mine).mean()))
        assert (drawn["low"], drawn["high"]) == (mine.min(), mine.max())
        assert drawn["seeds"] == 2
    parts = series.time_parts(trials)
    sums = parts.groupby("series")["seconds"].sum()
    walls = run.trials.groupby("backend")["wall_s"].min()  # Of two, the faster one.
    assert sums.to_dict() == pytest.approx(walls.to_dict())
    totals = figures.totals(run.trials, run.break_even(), run.point({}))
    assert totals is not None
    # The lines go on to where they cross, if that is later.
    here = totals.table[totals.table["epochs"] == run.point({}).task.epochs]
    ends = here.groupby("series")["seconds"].last()
    times = trials["start_s"] + run.point({}).task.epochs / trials["epochs_per_s"]
    assert ends.to_dict() == pytest.approx(times.groupby(trials["series"]).mean().to_dict())
    steps = figures.steps(run.steps, run.trials, run.point({}))
    order = series.series_order(trials)
    assert list(steps.table.columns) == ["t", *order, "variance", "memoryless", "wrong_sign"]


def test_many_seeds_are_drawn_as_their_central_part(run: Run, results: Path) -> None:
    many = Run("many", cloned(results / "both", results / "many", 40).parent)
    table = series.convergence(many.curves, series.with_series(many.trials))
    assert (table["seeds"] == 40).all()
    assert (
        "Over 40 seeds; the band: the central 90% of them."
        in figures.convergence(many.curves, series.with_series(many.trials), many.point({})).words
    )


def test_a_backend_that_lost_its_worst_seed_looks_no_better(run: Run, tmp_path: Path) -> None:
    """All series are drawn over the seeds that all of them have."""
    shutil.copytree(run.location, tmp_path / "both")
    path = tmp_path / "both" / "records" / "seed1-reference-cpu.json"
    lost = json.loads(path.read_text()) | {"status": "diverged", "step_mse": []}
    path.write_text(json.dumps(lost))
    less = Run("both", tmp_path)
    assert less.trials["status"].tolist().count("diverged") == 1
    figure = figures.convergence(less.curves, less.trials, less.point({}))
    assert (figure.table["seeds"] == 1).all()
    same = figure.table.pivot(index="epoch", columns="series", values="eval_mse")
    assert np.allclose(same["reference"], same["tests.helpers.faulty:AnyDevice"])
    assert "1 of 2 seeds are left out: not every backend has a result." in figure.words


def test_contended_times_are_not_drawn(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.location, tmp_path / "both")
    for path in (tmp_path / "both" / "records").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"contended": True}))
    packed = Run("both", tmp_path)
    assert list(shown(packed).charts) == ["convergence-epochs", "steps", "lags", "ratios"]
    with pytest.raises(InvalidInput, match="other trials ran beside these"):
        packed.plot_curves("train_s")


def test_a_sweep_has_charts_of_each_point_and_over_all(results: Path) -> None:
    swept = {"hidden": (4, 8), "lag_weight": (0.0, 1.0)}
    run = trainings.run(results / "swept", TINY_TASK, OTHERS.split(","), sweep=swept)
    built = run_page.build(run)
    assert built.subtitle.startswith(
        "A network (rnn, 4 or 8 units) reads a random path x (AR(1), rho = 0.1) step by step and "
        "learns x_t^2 + 0*x_(t-1)^2 or x_t^2 + 1*x_(t-1)^2; it is scored against"
    )
    names = list(Shown(built.html()).charts)
    points = [f"hidden={h}-lag-weight={w}" for h in (4, 8) for w in ("0.0", "1.0")]
    assert names == [
        *(f"sweep-{what}-{f}" for f in ("hidden", "lag-weight") for what in ("time", "error")),
        *(f"convergence-{x}-{point}" for point in points for x in ("epochs", "seconds")),
        *(f"steps-{point}" for point in points),
        *(f"lags-{point}" for point in points),
        "time",
        *(f"total-time-{point}" for point in points),
        "ratios",
    ]
    assert isinstance(run.plot_curves(hidden=4, lag_weight=1), alt.LayerChart)
    with pytest.raises(InvalidInput, match="hidden=4 is not one; there is hidden=4, lag_weight=0"):
        run.plot_curves(hidden=4)


def test_steps_of_a_sweep_are_drawn_together_if_they_share_their_yardsticks(tmp_path: Path) -> None:
    both = {"train_sign": (-1, 1), "gradient": ("exact", "stateful-broadcast")}
    run = trainings.run(tmp_path, TINY_TASK, ["reference"], sweep=both)
    assert "steps" in shown(run).charts
    drawn = [(run.point(values), trials) for values, trials in points(run.trials, run.swept)]
    assert figures.steps_compared(run.steps, 3 * drawn) is None  # Twelve lines are too many.
    compared = figures.steps_compared(run.steps, drawn)
    assert compared is not None
    for (point, _), column in zip(drawn, compared.table.columns[1:5], strict=True):
        assert column == str(point)
        mine = run.steps.merge(run.trials[["trial", *run.swept]])
        for name, value in point.values.items():
            mine = mine[mine[name] == value]
        mean = np.exp(np.log(mine["mse"]).groupby(mine["t"]).mean())
        np.testing.assert_allclose(compared.table[column], mean)


def test_charts_of_a_run_display_by_themselves(run: Run) -> None:
    for chart in (run.plot_curves(), run.plot_curves("train_s"), run.plot_steps(), run.plot_lags()):
        assert "text/html" in str(chart._repr_mimebundle_(None, None))
    with pytest.raises(InvalidInput, match="unknown axis `epochs`"):
        run.plot_curves("epochs")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="no sweep: name no values"):
        run.plot_steps(hidden=3)


@pytest.mark.parametrize("name", ["steps.png", "steps.svg", "steps.PDF", "steps.html"])
def test_a_chart_is_saved_as_its_name_says(run: Run, name: str, tmp_path: Path) -> None:
    assert isinstance(run.plot_steps(tmp_path / name), alt.LayerChart)
    begins = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF", "html": b"<!DOCTYPE html"}
    content = (tmp_path / name).read_bytes()
    assert content.startswith(begins[name.lower().partition(".")[2]])
    assert b"cdn" not in content[:2000]


def test_a_chart_is_saved_or_refused(run: Run, tmp_path: Path) -> None:
    run.plot_curves("train_s", str(tmp_path / "curves.svg"))
    for name, why in {
        "steps.jpg": "is saved as one of .png, .svg, .pdf, .html",
        "steps": "is saved as one of",
        "no/steps.png": "there is no folder",
        "folder.png": "cannot be written: Is a directory",
    }.items():
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        with pytest.raises(InvalidInput, match=why):
            run.plot_steps(tmp_path / name)
    with pytest.raises(InvalidInput, match=r'to save the chart: plot_curves\(file="curves.png"\)'):
        run.plot_curves("curves.png")  # type: ignore[arg-type]


def test_a_run_of_failures_lists_them(tmp_path: Path) -> None:
    backend = "tests.helpers.faulty:RaisesMidTraining"
    run = trainings.run(tmp_path, TINY_TASK, [backend], seeds=(0, 1))
    seen = shown(run)
    text = " ".join(seen.text)
    assert seen.charts == {}
    assert text.count(str(run.records[0].error)) >= 2
    assert "No trial ended ok." in text
    with pytest.raises(InvalidInput, match="nothing to draw"):
        run.plot_curves()


def test_a_run_that_has_not_begun_and_one_that_goes_on(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path, MANIFEST) as writer:
        assert "No trial has ended yet." in " ".join(shown(Run("r", tmp_path)).text)
        writer.add(record(0))
        seen = shown(Run("r", tmp_path))
        assert "1 of 2 trials have ended" in " ".join(seen.text)
        assert "steps" in seen.charts
        run_page.write(Run("r", tmp_path), with_plots=False)  # Though another process holds it.
    assert (tmp_path / "r" / PAGE).is_file()


def test_a_report_goes_where_the_run_is() -> None:
    results = "memory://reports/results"
    with RunWriter.create(results, MANIFEST) as writer:
        writer.add(record(0))
    made = Run("r", results)
    assert run_page.write(made) == f"{made.location}/report.html"
    assert b"r: a:B on cpu" in made.folder._files.read(PAGE)


def test_names_and_errors_stay_text(tmp_path: Path) -> None:
    """A backend may have any name; an error may hold anything."""
    name, attack = "<script>alert(1)</script>", "</script><img src=x onerror=alert(2)> & 'x' \"y\""
    plan = MANIFEST.plan.model_copy(
        update={"arms": (MANIFEST.plan.arms[0].model_copy(update={"backend": name}),)}
    )
    with RunWriter.create(tmp_path, MANIFEST.model_copy(update={"plan": plan})) as writer:
        trials = list(plan.trials())
        writer.add(record(0, backend=name, trial=trials[0], node=attack))
        failed = {"status": "failed", "error": attack, "points": (), "step_mse": ()}
        writer.add(record(1, backend=name, trial=trials[1], **failed))
    run = Run("r", tmp_path)
    assert len(run.records) == 2
    seen = shown(run)
    assert not [tag for tag, _ in seen.elements if tag == "img"]
    scripts = [attributes for tag, attributes in seen.elements if tag == "script"]
    assert len(scripts) == 3, "the data of the charts, Vega, and the page's own"
    text = "".join(seen.text)
    assert name in text
    assert attack in text
    assert name in json.dumps(seen.charts["time"])


def test_svg_files_escape_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"series": ["<script>alert(1)</script>"], "phase": ["training"]})
    chart = draw.time_parts(frame.assign(seconds=1.0), list(frame["series"]))
    figure = page.Figure("f", "t", chart, "w", frame)
    svg = dict(run_page.plots([figure]))["plots/f.svg"].decode()
    assert "<script" not in svg
    assert re.search(r"&lt;script&gt;alert\(1\)", svg)
