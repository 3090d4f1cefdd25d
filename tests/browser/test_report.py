"""The rendered report in a real browser: whole, readable on a phone and by keyboard, and without a
network."""

import pytest

from report.publish import pages_of_targets
from tests.conftest import run_python

PAGES = (
    "index",
    "data_parallelism",
    "model_parallelism",
    "regimes",
    "precision",
    "cpp",
    "claims",
    "api/config",
    "api/engines",
    "api/analysis",
)
# docutils marks a bibliography up with roles of an earlier standard
DOCUTILS = {rule: {"enabled": False} for rule in ("aria-deprecated-role", "aria-required-children")}
PHONE = {"width": 390, "height": 800}
DESK = {"width": 1280, "height": 1000}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Render the committed records of MNIST into a folder of its own."""
    folder = tmp_path_factory.mktemp("from-results")
    process = run_python(
        "report/build.py",
        "--dataset",
        "mnist",
        "--preset",
        "full",
        "--from-results",
        "--scratch",
        "--folder",
        folder,
        timeout=300,
    )
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
    return folder


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_asks_the_network_for_nothing(page, report, name):
    page.set_viewport_size(DESK)
    page.goto((report / "html" / f"{name}.html").as_uri())
    page.wait_for_load_state("networkidle")
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert (
        page.evaluate(
            "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
        )
        == []
    )
    dead = """[...document.querySelectorAll("main a[href^='#']")].map(a => a.getAttribute("href"))
              .filter(href => href.length > 1)
              .filter(href => !document.getElementById(decodeURIComponent(href.slice(1))))"""
    assert page.evaluate(dead) == []
    assert "??" not in page.inner_text("main")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(page, report, name):
    page.set_viewport_size(PHONE)
    page.goto((report / "html" / f"{name}.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("name", PAGES)
def test_a_figure_can_be_heard(page, report, name):
    page.goto((report / "html" / f"{name}.html").as_uri())
    said = page.evaluate("[...document.querySelectorAll('main figure img')].map(i => i.alt)")
    assert [text for text in said if len(text) < 20 or ".png" in text or ".svg" in text] == []


@pytest.mark.parametrize("name", PAGES)
def test_contrast_names_and_structure_are_accessible(page, report, name):
    from axe_playwright_python.sync_playwright import Axe

    page.set_viewport_size(DESK)
    page.goto((report / "html" / f"{name}.html").as_uri())
    found = Axe().run(
        page, context="main", options={"runOnly": ["wcag2a", "wcag2aa"], "rules": DOCUTILS}
    )
    assert found.violations_count == 0, found.generate_report()


def test_formulas_are_drawn_and_links_are_reached_by_keyboard(page, report):
    page.set_viewport_size(DESK)
    page.goto((report / "html" / "index.html").as_uri())
    heights = page.evaluate(
        "[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)"
    )
    assert len(heights) >= 4 and min(heights) > 8
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.tagName + ' ' + (document.activeElement.href || '')"
            )
        )
    assert any("claims.html" in one for one in reached) and len(reached) > 10


def test_links_of_the_report_in_one_piece_lead_to_one_place_each(page, report):
    page.goto((report / "nnpar.html").as_uri())
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    links = page.evaluate(
        "[...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))"
    )
    assert len(ids) == len(set(ids)) and len(links) > 100
    assert [link for link in links if link.startswith("#") and link[1:] not in ids] == []


def test_the_report_in_one_piece_prints_with_an_outline(report):
    pdf = (report / "nnpar.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Outlines" in pdf and b"/StructTreeRoot" in pdf


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_the_report_in_one_piece_fits_a_screen(page, report, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto((report / "nnpar.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = """[...document.querySelectorAll("body *")].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1
             && !e.closest("div.picture, div.table, div.math, pre")).map(e => e.outerHTML)"""
    assert page.evaluate(beyond) == []


def test_text_in_printed_figures_can_be_read(page, report):
    page.emulate_media(media="print")
    page.goto((report / "nnpar.html").as_uri())
    page.add_style_tag(content="body { width: 504pt; }")  # as on paper
    widths = page.evaluate(
        """[...document.querySelectorAll("figure img")].map(i => [
            i.closest("figure").id, 0.75 * i.getBoundingClientRect().width,
            parseFloat(i.style.getPropertyValue("--needed"))])"""
    )
    assert len(widths) > 15
    assert [name for name, width, needed in widths if not width > needed - 0.5] == []


def test_the_printed_report_is_an_article(report):
    pages = pages_of_targets((report / "nnpar.pdf").read_bytes())
    assert 14 <= pages["appendix"] <= 23  # the appendix begins there
    assert pages["ladder"] <= 2 and pages["regimes"] <= 2
