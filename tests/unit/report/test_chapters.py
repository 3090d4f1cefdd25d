"""The chapters: hidden cells place names and compute nothing; tables and headlines find what they
show."""

import nbformat
import pytest

from tests.conftest import ROOT

CHAPTERS = sorted((ROOT / "report").glob("*.ipynb"))
MAX_LINES = 12


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_hidden_cells_of_a_chapter_only_place_names(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    lengths = [len(cell.source.splitlines()) for cell in cells]
    assert len(cells) >= 2 and [length for length in lengths if length > MAX_LINES] == []
    assert not [cell.source for cell in cells if "lambda" in cell.source or "def " in cell.source]


@pytest.fixture
def report(monkeypatch):
    """Import the modules of the report as its chapters do."""
    monkeypatch.syspath_prepend(ROOT / "report")
    monkeypatch.chdir(ROOT / "report")
    import chapter
    import headlines

    return chapter, headlines


def test_every_headline_is_computed_from_the_committed_records(report, tmp_path):
    chapter, headlines = report
    measured = headlines.sentences(chapter.Chapter("results/mnist-full", tmp_path))
    assert len(measured) == len(headlines.HEADLINES)
    assert [text for text in measured.values() if "missing" in text or "nan" in text] == []


def test_a_headline_without_records_says_which_are_missing(report, tmp_path):
    chapter, headlines = report
    missing = headlines.sentences(chapter.Chapter(str(tmp_path), str(tmp_path)))
    assert missing["ladder"] == "not measured (02_ladder is missing)"
