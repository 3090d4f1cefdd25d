"""What the chapter on batch sizes says, from the committed studies and the records beside them."""

import pytest

from nnpar_lib.analysis import regimes
from nnpar_lib.analysis.claims import batch_sizes
from nnpar_lib.experiments import regimes_study
from nnpar_lib.records import store
from tests.conftest import ROOT

RESULTS = ROOT / "report" / "results"


@pytest.fixture(scope="module")
def studies():
    return regimes_study.load_all(str(RESULTS / "regimes"))


def test_one_family_is_read_for_every_study_and_has_the_evidence(studies):
    table = batch_sizes.studies_table(studies)
    assert table["form"].nunique() == 1 and set(table["study"]) == set(studies)
    first = table.iloc[0]
    assert first["curve"] == f"{first.q:.1f} [{first.q_low:.1f}, {first.q_high:.1f}]"
    numbers = batch_sizes.family_numbers(studies)
    assert numbers["family-all-goals"] == len(table)
    assert numbers["family-ahead"] == numbers["family-goals"] > 0 and numbers["family-least"] > 0


def test_doublings_have_verdicts_in_steps_and_in_seconds_on_one_rank_and_on_all(studies):
    measured = store.frame(store.load(RESULTS / "mnist-full" / "04_runs.jsonl"))
    hardest = batch_sizes.hardest_goal(studies["mlp-sgd"][1])
    numbers = batch_sizes.verdict_numbers(hardest, measured)
    for name in ("steps", "one", "all"):
        halves = numbers[f"doublings-{name}-halves"]
        which = numbers[f"doublings-{name}-which"]
        assert len(which.split(", ")) == max(1, halves) and (which == "none") == (halves == 0)
        parts = [numbers[f"doublings-{name}-{part}"] for part in ("no-gain", "undetermined")]
        assert halves + sum(parts) <= numbers[f"doublings-{name}-num"]
    table = batch_sizes.doublings_table(hardest, measured)
    assert len(table) == numbers["doublings-steps-num"] and table.shape[1] == 4
    halving = table["steps"].str.endswith(f" {regimes.definitions.HALVES}")
    assert (
        halving.sum()
        == numbers["doublings-steps-halves"]
        + table["steps"].str.contains(regimes.definitions.LESS).sum()
    )
