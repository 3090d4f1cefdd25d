"""Every number of a headline is computed a second time, from the records, by `tests/recompute`."""

import ast
import json
import math
import re
import shutil

import expected
import pytest
from bs4 import BeautifulSoup
from chapter import Chapter

from report import readme
from tests import recompute, recompute_abstract
from tests.conftest import ROOT

RESULTS = ROOT / "report" / "results" / "mnist-full"
# the predictions of the cost model are not in the records
PREDICTED = {"cost-model", "larger"}
PREDICTED_KEYS = {"abstract-model-error", "abstract-model-worst", "abstract-cores-64"}
PREDICTED_KEYS |= {"abstract-gpus-8", "abstract-gpus-16"}
OF_THE_QUESTIONS = {"batches": 8, "of C++": 1024, "layers": 128, "cores": 64, "GPUs": 8, "more": 16}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """Return a function that computes the headlines from a folder of records, as chapters do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "report")
        patch.chdir(ROOT / "report")
        import chapter
        import headlines

        figures = str(tmp_path_factory.mktemp("figures"))
        yield lambda folder: headlines.sentences(chapter.Chapter(str(folder), figures))


@pytest.fixture(scope="module")
def abstract(tmp_path_factory):
    """Return the numbers and the sentences of the abstract of the committed records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "report")
        patch.chdir(ROOT / "report")
        from abstract import answers
        from chapter import Chapter

        return answers(Chapter(str(RESULTS), str(tmp_path_factory.mktemp("figures"))))


@pytest.fixture(scope="module")
def recomputed():
    """Return the numbers of the abstract, computed by other code."""
    return recompute_abstract.abstract(recompute.Records(RESULTS))


@pytest.fixture(scope="module")
def stated(sentences):
    """Return the headlines of the committed records."""
    return sentences(RESULTS)


def test_the_second_computation_uses_nothing_of_the_library():
    tree = ast.parse((ROOT / "tests" / "recompute.py").read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [
        n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names
    ]
    assert len(modules) > 8 and [name for name in modules if name.startswith("nnpar_lib")] == []


def test_every_headline_is_recomputed_but_those_that_are_predicted(stated):
    assert set(stated) - set(recompute.CLAIMS) <= PREDICTED


@pytest.mark.parametrize("claim", recompute.CLAIMS)
def test_the_numbers_of_a_headline_agree_to_the_digits_printed(claim, stated):
    numbers = recompute.CLAIMS[claim](recompute.Records(RESULTS))
    assert len(list(recompute.printed(stated[claim]))) >= 1
    assert recompute.unexplained(stated[claim], numbers) == [], stated[claim]


def test_every_number_of_the_abstract_is_recomputed(abstract, recomputed):
    numbers, _ = abstract
    names = {name for name in numbers if not name.endswith("-way")}
    assert len(names) > 50 and names - set(recomputed) == PREDICTED_KEYS
    differing = {
        name: (numbers[name], recomputed[name])
        for name in names & set(recomputed)
        if not is_same(numbers[name], recomputed[name])
    }
    assert differing == {}


def is_same(value, again):
    """Return whether a number was recomputed: a fit to 0.1 %, a bootstrap's within its range."""
    if isinstance(again, tuple):
        none = math.isnan(value) and (again[0] == 0 or again[1] == math.inf)
        return none or again[0] <= value <= again[1]
    if isinstance(again, str):
        return value == again
    return math.isclose(value, again, rel_tol=1e-3) or (math.isnan(value) and math.isnan(again))


def test_the_sentences_of_the_abstract_print_these_numbers(abstract, recomputed):
    numbers, sentences = abstract
    predicted = {name: numbers[name] for name in PREDICTED_KEYS}
    names = {name: value for name, value in recomputed.items() if not isinstance(value, str)}
    known = {**names, **predicted, **OF_THE_QUESTIONS}
    wrong = {name: recompute.unexplained(text, known) for name, text in sentences.items()}
    assert sum(len(list(recompute.printed(text))) for text in sentences.values()) > 30
    assert {name: numbers for name, numbers in wrong.items() if numbers} == {}


@pytest.mark.parametrize(
    ("claim", "name", "column"),
    [
        ("ladder", "02_ladder", "train_seconds"),
        ("efficiency", "02_weak_scaling", "samples_per_second"),
        ("cpp", "07_framework", "samples_per_second"),
    ],
)
def test_a_record_that_was_changed_afterwards_is_noticed(claim, name, column, stated, tmp_path):
    changed = recompute.Records(RESULTS).lines(name)
    for line in changed:
        if line["strategy"] in ("serial", "tutorial"):
            line[column] *= 1.05
    shutil.copy(RESULTS / f"{name}.jsonl", tmp_path)
    (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, changed)))
    numbers = recompute.CLAIMS[claim](recompute.Records(tmp_path))
    assert recompute.unexplained(stated[claim], numbers)


@pytest.mark.parametrize(
    ("number", "value", "agree"),
    [
        ("1,024", 1024.2, True),
        ("0.90", 0.9049, True),
        ("0.90", 0.9051, False),
        ("-0.05", 0.05, False),
    ],
)
def test_agreement_is_to_the_digits_printed(number, value, agree):
    assert list(recompute.printed(f"it is {number}, on ResNet-18")) == [number]
    assert recompute.agrees(number, "a number", value) is agree


UNRELEASED = re.compile(r"^## Unreleased$(.*?)^## ", re.MULTILINE | re.DOTALL)
MEASURED = re.compile(r"(\d[\d.,]*) (?:times|%)")


def test_the_readme_and_the_changelog_repeat_what_the_records_say(stated, abstract):
    _, shown, _ = readme.split((ROOT / "README.md").read_text())
    assert shown == readme.in_markdown(stated, abstract[1]), "run `python report/readme.py`"
    changes = UNRELEASED.search((ROOT / "CHANGELOG.md").read_text())
    assert changes is not None
    numbers = set(recompute.printed(" ".join([shown, *stated.values(), *abstract[1].values()])))
    assert set(MEASURED.findall(changes[1])) <= numbers


def test_only_what_stands_between_the_comments_of_a_file_is_replaced(tmp_path):
    before, _, after = readme.split((ROOT / "README.md").read_text())
    file = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", file)
    readme.put(file, "- 1\n- 2")
    assert file.read_text() == f"{before}\n- 1\n- 2\n{after}"
    file.write_text("no comments")
    with pytest.raises(ValueError, match="has no comments"):
        readme.put(file, "")


def test_the_teachers_page_repeats_what_the_records_say(tmp_path):
    results = expected.results(Chapter(str(RESULTS), str(tmp_path)))
    (source,) = [
        text for text in cells(ROOT / "notebooks/teaching.ipynb") if "the records," in text
    ]
    assert readme.split(source)[1] == results, "run `python report/readme.py`"


def test_a_notebook_keeps_all_but_what_stands_between_its_comments(tmp_path):
    page = ROOT / "notebooks" / "teaching.ipynb"
    file = tmp_path / page.name
    shutil.copy(page, file)
    (position,) = [i for i, source in enumerate(cells(page)) if "from the records" in source]
    before, shown, after = readme.split(cells(page)[position])
    readme.put(file, "- 1\n- 2")
    wanted = cells(page)
    wanted[position] = f"{before}\n- 1\n- 2\n{after}"
    assert cells(file) == wanted
    readme.put(file, shown)
    assert file.read_bytes() == page.read_bytes()


def cells(notebook):
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]


def test_the_published_article_has_these_sentences(abstract):
    page = BeautifulSoup((ROOT / "report/published/nnpar.html").read_text(), "html.parser")
    text = " ".join(page.get_text().split()).replace("’", "'")
    if "doublings of the batch" not in text:
        pytest.skip("the article was published before its abstract answered questions")
    absent = [name for name, sentence in abstract[1].items() if sentence not in text]
    assert absent == [], "render the article again: `make report-from-results`"
