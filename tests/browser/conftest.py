"""A page of a real browser, for notebooks and for the report."""

import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def page():
    """Return a page of a browser, which keeps the addresses it was made to ask in `page.asked`."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = running.new_page(viewport={"width": 1280, "height": 1000})
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        yield page
        running.close()
