"""The article: ids and links of several chapters on one page, HTML and PDF together or not at
all."""

import shutil
from collections import Counter

import pytest
from bs4 import BeautifulSoup

from report import publish
from tests.conftest import ROOT

LOOKS = ("conf.py", "style.css", "article.css", "references.bib")
PAGES = {
    "index": "# First\n\nSee {cite}`hockney1994` and [the second](second.md).\n\n"
    "```{math}\n:label: line\nT = a + n b\n```\n\n```{toctree}\nsecond\nlast\n```\n",
    "second": "# Second\n\n## Section\n\nSee {cite}`hockney1994`, {eq}`line`, [below](#section).\n",
    "last": "# Last\n\n## Section\n\nSee {cite}`hockney1994`.\n\n```{bibliography}\n```\n",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a folder with a report of three short chapters."""
    folder = tmp_path_factory.mktemp("source")
    for name in LOOKS:
        shutil.copy(ROOT / "report" / name, folder)
    for name, text in PAGES.items():
        (folder / f"{name}.md").write_text(text)
    return folder


@pytest.fixture(scope="module")
def article(source, tmp_path_factory):
    """Return the parsed article of that report."""
    pages = tmp_path_factory.mktemp("pages")
    publish.render("singlehtml", source, pages, "-t", "article")
    return BeautifulSoup(publish._in_one_piece(pages / "index.html"), "html.parser")


def test_links_of_an_article_lead_to_one_place_each(article):
    ids = Counter(tag["id"] for tag in article.find_all(id=True))
    links = [tag["href"] for tag in article.find_all("a", href=True)]
    internal = [link for link in links if link.startswith("#")]
    assert [name for name, count in ids.items() if count > 1] == []
    assert len(internal) >= 8 and [link for link in internal if link[1:] not in ids] == []


def test_a_citation_leads_to_its_reference_and_back(article):
    citations = article.find_all(class_="bibtex-citation")
    assert len(citations) == 3 and len({citation.a["href"] for citation in citations}) == 1
    reference = article.find(id=citations[0].a["href"][1:])
    assert "Hockney" in reference.text
    assert reference.find("a")["href"] == f"#{citations[-1]['id']}"  # the one in its chapter


def test_a_link_that_leads_nowhere_is_named():
    page = BeautifulSoup('<a href="#document-claims#id14">14</a>', "html.parser")
    with pytest.raises(ValueError, match="a link to #document-claims#id14, which is not in it"):
        publish.link_chapters(page)


def test_without_a_browser_nothing_is_published(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is none; install Chromium") as error:
        publish.article(source, tmp_path / "single", tmp_path / "target")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "target").exists()


@pytest.mark.skipif(publish.find_browser() is None, reason="there is no Chromium on this machine")
def test_html_and_pdf_are_published_together(source, tmp_path):
    files = publish.article(source, tmp_path / "single", tmp_path / "target")
    assert [file.name for file in files] == ["nnpar.html", "nnpar.pdf"]
    assert sorted(tmp_path.glob("target/*")) == sorted(files)
    pages = publish.pages_of_targets(files[1].read_bytes())
    assert pages["document-second"] == 1


@pytest.mark.skipif(publish.find_browser() is None, reason="there is no Chromium on this machine")
def test_a_failure_of_the_pdf_keeps_the_published_files(source, tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.mkdir()
    (target / "nnpar.html").write_text("earlier")
    (tmp_path / "chromium").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "chromium").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(Exception, match=r"closed|launch"):
        publish.article(source, tmp_path / "single", target)
    assert [file.read_text() for file in target.iterdir()] == ["earlier"]
