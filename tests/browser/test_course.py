"""Explorers of the course in a real browser: sliders without a kernel, readable on a phone."""

import pytest

from nnpar_lib import schedules
from nnpar_lib.analysis.cost import predictions
from nnpar_lib.course import explorers, pictures

PHONE = {"width": 390, "height": 800}
FRAME = '<!DOCTYPE html><html lang="en"><title>course</title><meta charset="utf-8"><main>{}</main>'


@pytest.fixture
def open_page(page, tmp_path):
    """Return a function that shows HTML on a phone and returns the page."""

    def show(html):
        (tmp_path / "page.html").write_text(FRAME.format(html))
        page.set_viewport_size(PHONE)
        page.goto((tmp_path / "page.html").as_uri())
        return page

    return show


def test_sliders_change_the_schedule_without_a_kernel_or_a_network(open_page):
    page = open_page(explorers.of_schedules().html)
    schedule, stages, microbatches = page.locator("input").all()
    before = page.locator("img").get_attribute("src")
    for _ in schedules.SCHEDULES:
        schedule.press("ArrowLeft")
    stages.press("ArrowLeft")
    microbatches.press("ArrowRight")
    assert page.locator("output").all_inner_texts() == ["sequential", "3", "8"]
    words = "sequential: idle 67% of the time, at most 1 forward passes"
    assert page.locator("p").inner_text().startswith(words)
    assert page.locator("img").get_attribute("alt").startswith(words)
    assert page.locator("img").get_attribute("src") != before
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []


def test_the_picture_of_an_explorer_is_drawn_and_large_enough_on_a_phone(open_page):
    page = open_page(explorers.of_schedules().html)
    page.locator("input").first.press("ArrowLeft")
    drawn = "document.images[0].complete && document.images[0].naturalWidth > 0"
    page.wait_for_function(drawn)
    width = page.locator("img").bounding_box()["width"]
    assert 13.5 * width / 480 >= 9  # the size of its words in pixels
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_calculator_is_moved_by_keys_and_fits_a_phone(open_page):
    page = open_page(explorers.of_costs(predictions.V100).html)
    num_ranks, *_, bandwidth = page.locator("input").all()
    num_ranks.press("ArrowLeft")
    bandwidth.press("ArrowLeft")
    assert page.locator("output").all_inner_texts() == ["2", "256", "10", "1"]
    assert page.locator("p").inner_text().startswith("Of all ways on 2 ranks, pipeline is")
    page.wait_for_function("document.images[0].complete && document.images[0].naturalWidth > 0")
    shown = page.locator("img").get_attribute("src")
    assert "cannot%20run" in shown and "ms%2C%20" in shown
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_explorers_and_pictures_are_accessible(open_page):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(explorers.of_ring(3).html + pictures.copies().image())
    report = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]})
    assert report.violations_count == 0, report.generate_report()
