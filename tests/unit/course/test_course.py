"""The notebooks as one course: short cells, a path through all, terms that are explained, numbers
that are recorded."""

import itertools
import re

import nbformat
import pytest

from nnpar_lib.analysis import scaling
from nnpar_lib.records import store
from tests.conftest import ROOT

FOLDER = ROOT / "notebooks"
BOOKS = {path.stem: nbformat.read(path, 4) for path in sorted(FOLDER.glob("*.ipynb"))}
NUMBERED = [name for name in BOOKS if name[:2].isdigit()]
MAX_CELL_LINES = 15
RESULTS = ROOT / "report" / "results"


def sources(name, kind):
    return [cell.source for cell in BOOKS[name].cells if cell.cell_type == kind]


def prose(name):
    return "\n\n".join(sources(name, "markdown"))


@pytest.mark.parametrize("name", NUMBERED)
def test_no_code_cell_is_longer_than_a_reader_takes_in(name):
    assert [
        (len(source.splitlines()), source.splitlines()[0])
        for source in sources(name, "code")
        if len(source.splitlines()) > MAX_CELL_LINES
    ] == []


@pytest.mark.parametrize("name", NUMBERED)
def test_a_notebook_shows_a_picture_a_formula_and_the_code_of_the_library(name):
    code = "\n".join(sources(name, "code"))
    assert re.search(r"^(pictures|cost_pictures|explorers)\.\w+\(", code, re.MULTILINE)
    assert "notebook.show_source(" in code or "notebook.show_cpp(" in code
    assert "$$" in prose(name)


def test_where_next_leads_through_all_notebooks_in_order():
    for name, following in itertools.pairwise(NUMBERED):
        _, where_next, text = prose(name).partition("## Where next")
        assert where_next and following in re.findall(r"`(\w+)`", text)[:1], name


def test_every_link_leads_to_a_notebook_and_to_a_term_of_the_glossary():
    terms = {
        heading.strip().lower().replace(" ", "-").replace("'", "")
        for heading in re.findall(r"^###? (.+)$", prose("glossary"), re.MULTILINE)
    }
    links = [
        (name, *link)
        for name in BOOKS
        for link in re.findall(r"\]\((\w+)\.ipynb(?:#([\w-]+))?\)", prose(name))
    ]
    assert len([link for link in links if link[1] == "glossary"]) > 30
    assert [link for link in links if link[1] not in BOOKS] == []
    assert [link for link in links if link[2] and link[2] not in terms] == []


def test_the_start_page_lists_every_notebook_with_the_minutes_that_it_states():
    rows = dict(re.findall(r"^\| \[(\w+)\].*?\| (\d+) minutes? \|", prose("index"), re.MULTILINE))
    assert list(rows) == NUMBERED
    numbers = {"a minute": 1, "two minutes": 2, "three minutes": 3, "four minutes": 4}
    for name, minutes in rows.items():
        text = " ".join(prose(name).split())
        stated = re.search(r"(a|two|three|four) minutes? on two cores", text)
        assert stated and numbers[stated[0].split(" on ")[0]] == int(minutes), name


def median_rates(*parts):
    frame = store.frame(store.load(RESULTS.joinpath(*parts)))
    frame = frame[frame["global_batch_size"] == 64 * frame["num_ranks"]]
    mlp = frame[(frame["model"] == "mlp") & (frame["allreduce"] == "shared")]
    return mlp.groupby(["strategy", "num_ranks"])["samples_per_second"].median()


def test_the_rates_of_the_teachers_page_are_those_of_the_records():
    two_cores = median_rates("mnist-full", "02_weak_scaling.jsonl")
    many = median_rates("machines", "xeon-16-cores-h200", "weak_scaling_mlp.jsonl")
    rates = [
        [two_cores["serial", 1], two_cores["gradient_averaging", 2]],
        [two_cores["torch_ddp", 2]],
        [many["gradient_averaging", p] for p in (1, 2, 8, 16)],
        [many["torch_ddp", p] for p in (1, 2, 8, 16)],
    ]
    rows = re.findall(r"^\| (?:2|16) cores.*$", prose("teaching"), re.MULTILINE)
    shown = [re.findall(r"\| ([\d,]{5,}) ", row.replace("|", "| |")) for row in rows]
    assert shown == [[f"{rate:,.0f}" for rate in row] for row in rates]


def test_the_other_results_of_the_teachers_page_are_those_of_the_records():
    accuracy = store.frame(store.load(RESULTS / "mnist-full" / "01_accuracy.jsonl"))
    mlp, cnn = accuracy.set_index("model")["final_test_accuracy"][["mlp", "cnn"]]
    ladder = store.frame(store.load(RESULTS / "mnist-full" / "02_ladder.jsonl"))
    ladder = ladder[ladder["label"] != "control"]
    epoch = scaling.seconds_per_epoch(ladder).groupby(ladder["label"], sort=False).median()
    framework = store.frame(store.load(RESULTS / "mnist-full" / "07_framework.jsonl"))
    small, large = (
        scaling.paired_ratio(
            framework,
            {"strategy": "serial", "global_batch_size": size},
            {"strategy": "cpp", "global_batch_size": size},
        ).median
        for size in (8, 1024)
    )
    sentences = [
        f"the mlp reads {100 * mlp:.2f} % of the test images, the cnn {100 * cnn:.2f} %",
        f"takes {epoch['root and workers'] / epoch['serial']:.1f} times as long",
        f"the last rung {epoch['serial'] / epoch.iloc[-1]:.1f} times less",
        f"C++ is {small:.1f} times as fast as PyTorch at a batch of 8, {large:.1f} times at 1024",
    ]
    assert [sentence for sentence in sentences if sentence not in prose("teaching")] == []
