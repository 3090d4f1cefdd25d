"""The report in one piece: an HTML file that needs no other, and a PDF that Chromium prints from
it."""

from __future__ import annotations

import base64
import mimetypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bs4 import BeautifulSoup

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NAME = "nnpar"
FOOTER = (
    '<div style="width: 100%; text-align: center; font-size: 8px">'
    '<span class="pageNumber"></span> / <span class="totalPages"></span></div>'
)


def find_browser() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def render(builder: str, source: Path, target: Path, *options: str) -> None:
    """Have Sphinx build the pages of a folder anew; what it warns of is an error."""
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
    """Write the chapters as one HTML file and, where there is a Chromium, as a PDF; return the
    files."""
    pages = scratch / "pages"  # what Sphinx puts beside it is nobody else's
    render("singlehtml", source, pages, "-t", "article")
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{NAME}.html"
    page.write_text(_in_one_piece(pages / "index.html"), encoding="utf-8")
    browser = find_browser()
    return [page] if browser is None else [page, _print(page, folder / f"{NAME}.pdf", browser)]


def _in_one_piece(file: Path) -> str:
    """Return a page with its styles and pictures inside it, and without scripts: it is there to be
    read."""
    page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    for part in page.select(
        "script, .related, .sphinxsidebar, .footer"
    ):  # nothing to press, nowhere else to go
        part.decompose()
    for link in page.find_all("link"):
        if "stylesheet" in link.get("rel", []):
            style = page.new_tag("style")
            style.string = _style(file.parent / str(link["href"]).split("?")[0])
            link.replace_with(style)
        else:
            link.decompose()
    for image in page.find_all("img"):
        image["src"] = _data_uri(file.parent / str(image["src"]))
    return str(page)


def _style(file: Path) -> str:
    """Return a style sheet with the files that it names inside it."""
    return re.sub(
        r"url\((?!data:)[\"']?([^)\"']+)[\"']?\)",
        lambda found: f"url({_data_uri(file.parent / found[1])})",
        file.read_text(encoding="utf-8"),
    )


def _data_uri(file: Path) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _print(page: Path, target: Path, browser: str) -> Path:
    """Print a page with page numbers, an outline and the structure that a screen reader needs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = running.new_page()
        tab.goto(page.resolve().as_uri())
        tab.pdf(
            path=target,
            prefer_css_page_size=True,
            print_background=True,
            tagged=True,
            outline=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
        )
        running.close()
    return target
