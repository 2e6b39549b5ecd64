"""Debian's chromium, driven through Playwright; where either is absent these tests skip and say so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lavita.files import atomic_write_text
from lavita.report.page import report_html
from lavita.report.write import tables_of_run
from lavita.results.run_folder import read_run
from tests.report.folder_of_run import make_run

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOW = "`make browser` installs what these tests need (chromium only as root)"


@pytest.fixture(scope="session")
def chromium():
    """A headless browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason=f"Playwright is not installed; {HOW}")
    path = os.environ.get("LAVITA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no chromium on this machine, nor in LAVITA_CHROMIUM; {HOW}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Path:
    """The report of a hand-made run, in its folder beside rows.csv."""
    folder = make_run(tmp_path_factory.mktemp("browser") / "out")
    run = read_run(folder)
    atomic_write_text(folder / "rows.csv", tables_of_run(run).texts["rows.csv"])
    atomic_write_text(folder / "report.html", report_html(run, None))
    return folder / "report.html"


@pytest.fixture
def opened(chromium, report) -> Iterator[Callable]:
    """opened(width, **context) is the page in a context of its own, where every request but the page's is refused.

    Whatever the page asks for fails the test, and so does what the console says; opened.said is a list of that, which a
    test clears where it provoked it.
    """
    contexts, asked, said = [], [], []

    def open_page(width: int = 1280, **options):
        context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)

        def decide(route):
            url = route.request.url
            if url == report.as_uri():
                route.continue_()
            else:
                asked.append(url)
                route.abort()

        context.route(lambda url: not url.startswith("data:"), decide)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(report.as_uri())
        return page

    open_page.said = said
    yield open_page
    for context in contexts:
        context.close()
    assert not asked, f"the page asked for {asked}"
    assert not said, f"the console says {said}"
