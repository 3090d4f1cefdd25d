"""Every number of a headline is computed a second time, from the records, by `tests/recompute`."""

import ast
import json
import shutil

import pytest

from tests import recompute
from tests.conftest import ROOT

RESULTS = ROOT / "report" / "results" / "mnist-full"
PREDICTED = {"cost-model", "larger"}  # the cost model's predictions are not in the records


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
