"""The published article: HTML and PDF say the same, of the committed records."""

import pytest

from tests.conftest import ROOT
from tests.notebooks import article

REPORT = ROOT / "report"
PUBLISHED = REPORT / "published"


@pytest.mark.slow
def test_html_and_pdf_say_the_same_of_records_of_one_commit():
    assert article.differences(PUBLISHED / "nnpar.html", PUBLISHED / "nnpar.pdf") == {}
    results = REPORT / "results"
    measured = article.commits_of_records(results / "mnist-full", results / "bench.jsonl")
    assert len(measured) == 1
    assert article.commits(PUBLISHED / "nnpar.html") == measured
