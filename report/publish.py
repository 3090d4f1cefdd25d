"""The report in one piece: an HTML file that needs no other one, and a PDF that Chromium prints."""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typeset
from bs4 import BeautifulSoup, Tag
from pypdf import PdfReader

from nnpar_lib import __version__

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NAME = "nnpar"
FIRST_CHAPTER = "index"
CHAPTER_PREFIX = "document-"  # of the ids that Sphinx puts in front of chapters
GLUED = "application/papermill.record/text/plain"  # how a notebook keeps what it puts into a text
FOOTER = (
    '<div style="width: 100%; text-align: center; font-size: 8px">'
    '<span class="pageNumber"></span> / <span class="totalPages"></span></div>'
)

NUMBER_CONTENTS = """numbers => {
    for (const link of document.querySelectorAll("nav.contents a"))
        link.dataset.page = numbers[link.hash.slice(1)] || "";
}"""
PREPARE = Path(__file__).with_name("typeset.js")
PAGE_HEIGHT = 748.0  # points, of what `article.css` leaves of A4


def find_browser() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def require_browser() -> str:
    """Return the path of a Chromium; a machine without one is a ValueError that says what to
    install."""
    browser = find_browser()
    if browser is None:
        raise ValueError(
            f"the PDF needs a browser ({', '.join(BROWSERS)}) and there is none; install Chromium"
            " (apt-get install chromium)"
        )
    return browser


def render(builder: str, source: Path, target: Path, *options: str) -> None:
    """Build the pages of a folder anew with Sphinx; a warning is an error."""
    shutil.rmtree(target, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        builder,
        "-W",
        "--keep-going",
        "-q",
        *options,
        str(source),
        str(target),
    ]
    subprocess.run(command, check=True, env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"})


def article(source: Path, scratch: Path, folder: Path) -> list[Path]:
    """Write the chapters as one HTML file and as one PDF; return both files.

    Both are made in the folder `scratch` and published together. A machine without Chromium is a
    ValueError, and nothing is published.
    """
    browser = require_browser()
    pages = scratch / "pages"
    render("singlehtml", source, pages, "-t", "article")
    page = scratch / f"{NAME}.html"
    page.write_text(_in_one_piece(pages / "index.html", edition(source)), encoding="utf-8")
    return _publish([page, _print(page, scratch / f"{NAME}.pdf", browser)], folder)


def _publish(files: list[Path], folder: Path) -> list[Path]:
    """Copy files into a folder under their names; none of them appears before all are copied."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder / f"{file.name}.part")
    return [(folder / f"{file.name}.part").replace(folder / file.name) for file in files]


def edition(source: Path) -> str:
    """Return the version of the project, and the days and the commit of the records, as the first
    chapter knows them."""
    notebook = source / f"{FIRST_CHAPTER}.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.exists() else []
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    values = {
        output["metadata"]["scrapbook"]["name"]: "".join(output["data"].get(GLUED, "")).strip("'")
        for output in outputs
        if "scrapbook" in output.get("metadata", {})
    }
    parts = [f"Version {__version__}"]
    if "days" in values:
        parts.append(f"measured {values['days']}")
    if "commit" in values:
        parts.append(f"at commit {values['commit']}")
    return ", ".join(parts)


def _in_one_piece(file: Path, edition: str = "") -> str:
    """Return a page as an article, with its styles and pictures inside it and without scripts."""
    page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    for part in page.select("script, .related, .sphinxsidebar, .footer"):  # controls, navigation
        part.decompose()
    for link in page.find_all("link"):
        if "stylesheet" in link.get("rel", []):
            style = page.new_tag("style")
            style.string = _style(file.parent / str(link["href"]).split("?")[0])
            link.replace_with(style)
        else:
            link.decompose()
    link_chapters(page)
    typeset.arrange(page, file.parent, edition)
    for image in page.find_all("img"):
        image["src"] = _data_uri(file.parent / str(image["src"]))
    return str(page)


def link_chapters(page: BeautifulSoup) -> None:
    """Make ids unique in a page that holds several chapters, and lead all links within it there.

    Sphinx puts `<span id="document-NAME">` in front of each chapter but the first, keeps ids that
    are unique only within a chapter, and writes links to other chapters as `#document-NAME#ID`. A
    link that leads nowhere is a ValueError.
    """
    tags = _tags_of_chapters(page)
    counts = Counter(tag["id"] for tag, _ in tags if tag.has_attr("id"))
    targets: dict[tuple[str, str], str] = {}
    for tag, chapter in tags:
        if tag.has_attr("id"):
            name = str(tag["id"])
            tag["id"] = name if counts[name] == 1 else f"{chapter}-{name}"
            targets[chapter, name] = str(tag["id"])
    names = set(targets.values())
    for tag, chapter in tags:
        reference = str(tag.get("href", ""))
        if reference.startswith("#"):
            target = _target(reference[1:], chapter, targets)
            if target not in names:
                raise ValueError(f"the article has a link to {reference}, which is not in it")
            tag["href"] = f"#{target}"


def _tags_of_chapters(page: BeautifulSoup) -> list[tuple[Tag, str]]:
    """Return each tag that has an id or a link with the name of its chapter, as the page has
    them."""
    tags = []
    chapter = FIRST_CHAPTER
    for tag in page.find_all(lambda tag: tag.has_attr("id") or tag.has_attr("href")):
        if str(tag.get("id", "")).startswith(CHAPTER_PREFIX):
            chapter = tag["id"].removeprefix(CHAPTER_PREFIX)
        tags.append((tag, chapter))
    return tags


def _target(reference: str, chapter: str, targets: dict[tuple[str, str], str]) -> str:
    """Return the unique id of what a chapter refers to as `ID`, `document-NAME` or
    `document-NAME#ID`."""
    document, separator, name = reference.partition("#")
    if separator:
        return targets.get((document.removeprefix(CHAPTER_PREFIX), name), "")
    return targets.get((chapter, reference), reference)


def _style(file: Path) -> str:
    """Return a style sheet with the files that it names inside it."""
    return re.sub(
        r"url\((?!data:)[\"']?([^)\"']+)[\"']?\)",
        lambda match: f"url({_data_uri(file.parent / match[1])})",
        file.read_text(encoding="utf-8"),
    )


def _data_uri(file: Path) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def pages_of_targets(pdf: bytes) -> dict[str, int]:
    """Return the number of the page on which each target of a link is."""
    reader = PdfReader(io.BytesIO(pdf))
    places = reader.named_destinations
    pages = {name: reader.get_destination_page_number(place) for name, place in places.items()}
    return {name.removeprefix("/"): page + 1 for name, page in pages.items() if page is not None}


def _print(page: Path, target: Path, browser: str) -> Path:
    """Print a page, a second time with the numbers of pages in its contents."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page()
        tab.goto(page.resolve().as_uri())
        tab.emulate_media(media="print")
        tab.evaluate(
            f"sizes => {{ {PREPARE.read_text(encoding='utf-8')}\n prepare(sizes); }}",
            {"column": typeset.COLUMN, "page": typeset.PAGE, "height": PAGE_HEIGHT},
        )
        numbers = pages_of_targets(_pdf(tab))
        tab.evaluate(NUMBER_CONTENTS, numbers)
        target.write_bytes(_pdf(tab))
        chromium.close()
    return target


def _pdf(tab: Page) -> bytes:
    """Return a page as a PDF with page numbers, an outline and the structure that a screen reader
    needs."""
    return tab.pdf(
        prefer_css_page_size=True,
        print_background=True,
        tagged=True,
        outline=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER,
    )
