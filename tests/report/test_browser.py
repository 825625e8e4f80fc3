"""The report in a real browser: what a reader sees, hears and can do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest
from playwright.sync_api import Browser, expect

from benchmarks.helpers.browser import Seen, chromium
from benchmarks.helpers.runs import cloned, measure
from harness import Run
from harness.report import run_page
from tests.helpers.commands import ROOT, command

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


Pages: TypeAlias = Callable[[str], Path]


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Return the report of a real run; each run is made when it is first asked for."""
    results = tmp_path_factory.mktemp("results")

    @cache
    def page(name: str) -> Path:
        match name:
            case "one":
                measure(results, name, "--backends", "reference", "--seeds", 1)
            case "both":
                measure(results, name, "--backends", "torch,jax", "--seeds", 2)
            case "thousand":
                cloned(page("both").parent, results / name, 500)
            case "failed":
                measure(
                    results, name, "--backends", "tests.helpers.faulty:RaisesMidTraining", ok=False
                )
            case "sweep":
                both = ("--backends", "reference,tests.helpers.faulty:AnyDevice", "--seeds", 2)
                measure(results, name, *both, "--sweep", "hidden=4,8", "--sweep", "cell=rnn,gru")
            case "hostile":
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("PYTHONPATH", str(_installed(results.parent / "site")))
                    measure(results, name, "--backends", HOSTILE, "--seeds", 2)
            case "both-faults":
                measure(results, name, "--preset", "posted", "--backends", "reference")
            case "posted":
                posted = ("--preset", "posted-gradient-mended", "--set", "epochs=10000")
                where = ("--dispatch", "inline", "--results", results, "--run-id", name)
                done = command("run", *posted, "--backends", "floor", *where)
                subprocess.run(done, cwd=ROOT, check=True, capture_output=True)
        return Path(run_page.write(Run(name, results), with_plots=False))

    return page


def _installed(site: Path) -> Path:
    """Install a backend under a name that is a script."""
    (site / "evil-1.0.dist-info").mkdir(parents=True)
    (site / "evil-1.0.dist-info" / "METADATA").write_text("Name: evil\nVersion: 1.0\n")
    (site / "evil-1.0.dist-info" / "entry_points.txt").write_text(
        f"[harness.backends]\n{HOSTILE} = backends.reference:ReferenceBackend\n"
    )
    return site


@pytest.mark.parametrize(
    ("run", "charts"), [("one", 4), ("both", 6), ("thousand", 6), ("failed", 0), ("sweep", 23)]
)
def test_it_is_clean_on_every_screen(
    browser: Browser, page_of: Pages, run: str, charts: int
) -> None:
    page = page_of(run)
    for width in (360, 1440):
        for scheme in ("light", "dark"):
            seen = Seen(browser, page, width, scheme)
            assert seen.draw_all() == charts
            drawn = seen.page.locator(f"[data-drawn={scheme}]")
            expect(drawn).to_have_count(charts)
            assert seen.complaints == []
            assert seen.violations == []
            assert not seen.overflows
            seen.page.close()


def test_a_name_that_is_a_script_stays_text(browser: Browser, page_of: Pages) -> None:
    seen = Seen(browser, page_of("hostile"))
    seen.draw_all()
    assert seen.complaints == [], "an alert would have been one"
    expect(seen.page.locator("h1")).to_contain_text(HOSTILE)
    expect(seen.page.locator("td", has_text=HOSTILE).first).to_be_visible()
    expect(seen.page.locator("svg text", has_text=HOSTILE).first).to_be_attached()
    assert seen.page.evaluate("[...document.scripts].every(s => !s.text.includes('alert('))") or (
        seen.page.locator("script[type='application/json']").count() == 1
    )


def test_a_click_in_the_legend_fades_the_others(browser: Browser, page_of: Pages) -> None:
    seen = Seen(browser, page_of("both"))
    chart = seen.page.locator("[data-chart=convergence-epochs]")
    chart.locator("svg").wait_for()
    # One point of each series and evaluation; a faded one is all but transparent.
    dots = chart.locator("g.mark-symbol[role=graphics-object] path[aria-roledescription=point]")
    assert dots.count() == 20
    assert _faded(seen) == 0
    chart.locator("g.role-legend-symbol path").first.click()
    assert _faded(seen) == 10
    chart.locator("g.role-legend-symbol path").first.click()
    assert _faded(seen) == 0


def _faded(seen: Seen) -> int:
    return int(
        seen.page.evaluate(
            """[...document.querySelectorAll(
                 '[data-chart=convergence-epochs] path[aria-roledescription=point]')]
               .filter(p => p.getAttribute('opacity') < 0.5).length"""
        )
    )


def test_hovering_shows_the_figures(browser: Browser, page_of: Pages) -> None:
    seen = Seen(browser, page_of("both"))
    dot = seen.page.locator("[data-chart=convergence-epochs] path[aria-roledescription=point]")
    dot.last.hover(force=True)
    tooltip = seen.page.locator("#vg-tooltip-element.visible")
    for word in ("torch", "epoch", "100", "MSE, geometric mean"):
        expect(tooltip).to_contain_text(word)


def test_tables_are_sorted_with_the_keyboard(browser: Browser, page_of: Pages) -> None:
    seen = Seen(browser, page_of("both"))
    table = seen.page.locator("table").filter(has_text="epochs/s").first
    heading = table.locator("th", has_text="epochs/s")
    rates = table.locator("tbody tr td:nth-child(3)")
    heading.locator("button").focus()
    seen.page.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "ascending")
    ascending = [float(text) for text in rates.all_text_contents()]
    assert ascending == sorted(ascending)
    seen.page.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "descending")
    assert [float(text) for text in rates.all_text_contents()] == ascending[::-1]


def test_it_changes_with_the_colours_of_the_reader(browser: Browser, page_of: Pages) -> None:
    seen = Seen(browser, page_of("one"))
    drawn = seen.page.locator("[data-chart=convergence-epochs]")
    expect(drawn).to_have_attribute("data-drawn", "light")
    seen.page.emulate_media(color_scheme="dark")
    expect(drawn).to_have_attribute("data-drawn", "dark")
    assert seen.complaints == []


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (360, 740)])
def test_the_first_screen_says_what_is_wrong_and_what_to_do(
    browser: Browser, page_of: Pages, width: int, height: int
) -> None:
    seen = Seen(browser, page_of("posted"), width, height=height)
    note = seen.page.locator(".note").first
    expect(note.locator("h3")).to_contain_text("sign")
    expect(note).to_contain_text("--preset corrected")
    expect(note.locator("h3")).to_be_in_viewport(ratio=1)
    expect(note.locator("p", has_text="What to do")).to_be_in_viewport(ratio=0.9)


def test_both_faults_are_on_the_first_screen(browser: Browser, page_of: Pages) -> None:
    seen = Seen(browser, page_of("both-faults"), 1440, height=900)
    for number, word in enumerate(("sign", "gradient")):
        note = seen.page.locator(".note").nth(number)
        expect(note.locator("h3")).to_contain_text(word)
        expect(note.locator("h3")).to_be_in_viewport(ratio=1)
        expect(note.locator("p", has_text="What to do")).to_be_in_viewport(ratio=1)


def test_data_behind_a_chart_are_those_it_draws(browser: Browser, page_of: Pages) -> None:
    seen = Seen(browser, page_of("both"))
    spec = json.loads(seen.page.locator("#charts").text_content() or "")["specs"]["ratios"]
    drawn = [row for data in spec["datasets"].values() for row in data if "label" in row]
    rows = seen.page.locator("#ratios details tbody tr")
    assert rows.count() == len(drawn)
    for number, row in enumerate(drawn):
        assert row["label"] in (rows.nth(number).text_content() or "")
