"""A real headless Chromium for the pages: the system's own, or Playwright's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, sync_playwright

# It asks nobody anything, and runs as root, as in a container.
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start it; skip the test where there is none."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        except Error as error:
            if path is None and "Executable doesn't exist" in str(error):
                pytest.skip("there is no Chromium (`playwright install chromium`)")
            raise
        yield browser
        browser.close()


class Seen:
    """A page as it is opened by a reader, and all that it complained of or asked for."""

    def __init__(
        self,
        browser: Browser,
        path: Path,
        width: int = 1440,
        scheme: str = "light",
        height: int = 900,
    ) -> None:
        self.complaints: list[str] = []
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.goto(path.as_uri())

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(f"asked for {url}")

    def draw_all(self) -> int:
        """Open and scroll through everything, so that it is drawn; return how many charts are."""
        self.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        charts = self.page.locator("[data-chart]")
        for number in range(charts.count()):
            charts.nth(number).scroll_into_view_if_needed()
            charts.nth(number).locator("svg, canvas").first.wait_for(timeout=30_000)
        return charts.count()

    @property
    def violations(self) -> list[str]:
        """What axe finds against the rules of accessibility."""
        found = Axe().run(self.page).response["violations"]
        return [f"{v['id']}: {[n['html'][:200] for n in v['nodes'][:3]]}" for v in found]

    @property
    def overflows(self) -> bool:
        """Whether the page has to be scrolled sideways."""
        return bool(
            self.page.evaluate(
                "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
        )
