"""What the article says in its two forms, HTML and PDF: its numbers, and the commit of its
records."""

import re
from collections import Counter

from bs4 import BeautifulSoup
from pypdf import PdfReader

from nnpar_lib.records import store

COMMIT = re.compile(r"at\s+commit\s+([0-9a-f]{10}|unknown)\b")
NUMBER = re.compile(r"\d+\.\d+")


def html_text(file):
    """Return what a page says, without the contents at its side, which are on no paper."""
    page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    for part in page.select("style, script, nav"):
        part.decompose()
    return page.get_text(" ")


def pdf_text(file):
    """Return the text of all pages."""
    return " ".join(page.extract_text() for page in PdfReader(file).pages)


def differences(html, pdf):
    """Return the numbers with decimals that the HTML has and the PDF lacks, and how often.

    The PDF may have more: the text of figures, which HTML holds as pictures.
    """
    wanted, there = (Counter(NUMBER.findall(text)) for text in (html_text(html), pdf_text(pdf)))
    missing = dict(wanted - there)
    if commits(html) != set(COMMIT.findall(pdf_text(pdf))):
        missing["commit"] = 1
    return missing


def commits(html):
    """Return the commits that the text names as those of its records, 10 digits each."""
    return set(COMMIT.findall(html_text(html)))


def commits_of_records(folder, *more):
    """Return the commits of all records in a folder and in some files, 10 digits each."""
    files = [*folder.glob("*.jsonl"), *more]
    records = [record for file in files for record in store.load(file)]
    return {(record.provenance["commit"] or "unknown")[:10] for record in records}
