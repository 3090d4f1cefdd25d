"""One version: `nnpar_lib.__version__`, which the changelog and the citation repeat."""

import re
from pathlib import Path

import yaml

import nnpar_lib

ROOT = Path(__file__).parents[2]
KINDS_OF_CHANGE = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]


def changelog():
    return (ROOT / "CHANGELOG.md").read_text()


def releases():
    """Return (version, date) of each release in the changelog, the newest first."""
    return re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$", changelog(), re.MULTILINE)


def test_the_newest_release_of_the_changelog_and_the_citation_are_the_library_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = (nnpar_lib.__version__, str(citation["date-released"]))
    assert (citation["version"], releases()[0]) == (nnpar_lib.__version__, newest)


def test_the_changelog_has_the_form_of_keep_a_changelog():
    first, *rest = re.findall(r"^## (.*)$", changelog(), re.MULTILINE)
    assert first == "Unreleased"
    assert rest == [f"{version} - {date}" for version, date in releases()]
    assert set(re.findall(r"^### (.*)$", changelog(), re.MULTILINE)) <= set(KINDS_OF_CHANGE)
