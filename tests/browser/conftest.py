"""A page of a real browser, for notebooks and for the report."""

import pytest

from report.publish import find_browser


@pytest.fixture(scope="module")
def browser():
    """Return a running browser."""
    path = find_browser()
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser):
    """Return a new page, which keeps the addresses it was made to ask in `page.asked`."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    page.close()
