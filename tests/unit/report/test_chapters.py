"""The chapters: hidden cells place names and compute nothing; tables and headlines find what they
show."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from nnpar_lib.analysis.claims import machines
from nnpar_lib.analysis.cost import waiting
from nnpar_lib.records import store
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


EXPERIMENT = re.compile(r'"(\d\d_\w+)"')


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_about_one_machine(report, path):
    chapter, _ = report
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    names = {name for cell in cells for name in EXPERIMENT.findall(cell)}
    if path.stem == "cpp":
        names = {file.stem for file in Path("results/mnist-full").glob("07_*.jsonl")}
    provenances = [
        record.provenance
        for name in names
        for record in store.load(f"results/mnist-full/{name}.jsonl")
    ]
    assert names or path.stem in ("claims", "machines")
    assert len(chapter.machines_of(provenances)) <= 1
    if path.stem != "machines":
        assert not any("surveys(" in cell for cell in cells)


@pytest.fixture
def two_machines(tmp_path):
    """Return a folder of the committed records, with those of notebook 06 from a machine of their
    own."""
    folder = tmp_path / "results" / "of-two-machines"
    folder.mkdir(parents=True)
    for file in (ROOT / "report" / "results" / "mnist-full").glob("*.jsonl"):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        for record in records:
            cpu = "Intel(R) Xeon(R)" if file.name.startswith("06") else "AMD EPYC"
            record["provenance"] |= {"cpu": cpu, "num_cores": 2}
        (folder / file.name).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return str(folder)


def test_a_second_machine_in_a_chapter_or_a_figure_is_refused(report, two_machines, tmp_path):
    chapter, _ = report
    pages = chapter.Chapter(two_machines, tmp_path)
    pages.records("02_ladder")
    with pytest.raises(ValueError, match="06_ranks has records of 2 cores of an Intel"):
        pages.frame("06_ranks")
    assert len(pages.frame("06_ranks", elsewhere=True))
    of_two = [*pages.records("02_ladder")[:1], *pages.records("06_ranks", elsewhere=True)[:1]]
    with pytest.raises(ValueError, match="a figure mixes 2 cores of an AMD EPYC and 2 cores of"):
        chapter.made(store.frame(of_two))


def test_a_sentence_from_another_machine_names_it(report, two_machines, tmp_path):
    chapter, headlines = report
    sentences = headlines.sentences(chapter.Chapter(two_machines, tmp_path))
    assert sentences["resnet"].startswith("On 2 cores of an Intel(R) Xeon(R): ")
    assert not sentences["ladder"].startswith("On ")


def test_under_a_figure_of_machines_are_their_names_cores_and_dates(report):
    chapter, _ = report
    under = machines.under_figures(chapter.surveys())
    for name in chapter.surveys():
        assert f"{name}: " in under
    assert "16 cores of an Intel(R) Xeon(R) Processor" in under and "2026-11-27" in under


def test_the_wait_for_the_last_rank_explains_what_it_was_not_fitted_to(report):
    chapter, _ = report
    surveys = {name: chapter.surveys()[name] for name in ("xeon-16-cores-h200",)}
    table = waiting.extrapolated(machines.side_by_side(surveys))
    by_way = table.groupby("allreduce")[["error", "error_with_waiting"]]
    for _, row in by_way.agg(lambda errors: errors.abs().median()).iterrows():
        assert row["error_with_waiting"] < 0.6 * row["error"]


def test_the_table_of_claims_has_every_source_of_a_headline_and_each_goal(report, tmp_path):
    chapter, headlines = report
    import evidence

    table = evidence.table(chapter.Chapter("results/mnist-full", tmp_path))
    records = set(", ".join(table["records"]).split(", "))
    wanted = {name for headline in headlines.HEADLINES for name in headline.records}
    assert wanted - {"04_runs"} <= records  # a study has the steps of the regimes
    assert {"bench", "regimes/mlp-sgd"} <= records
    assert list(table["commit"][table["commit"].isin(("none", ""))]) == []
    assert table["goal"].str.contains("missed|reached").any()
    assert table["value"].str.match(r"-?[\d,.]+( \[.*\])?$").all()
