"""Every bug of the catalogue is caught by a check, and told in words where a gradient shows it."""

import pytest

from tests.conftest import mpi_results
from tests.mpi import planted_bugs

RIGHT = [bug for bug in planted_bugs.BUGS if bug.startswith("none")]
WRONG = [bug for bug in planted_bugs.BUGS if bug not in RIGHT]
NEEDED = {  # a check that shows the bug, and the smallest number of ranks on which it does
    "mean of means over uneven parts": ("uneven parts", 2),
    "reused receive buffer": ("even parts", 3),
    "short batch filled up with repeated examples": ("short last batch", 2),
    "wrong scale of micro-batches": ("uneven parts", 1),
    "momentum lost at a resume": ("resume", 1),
    "every rank adds in an order of its own": ("even parts", 3),
}
WORDS = {
    "mean of means over uneven parts": "the mean of each rank's part counts the same, though",
    "sum of means instead of their mean": "times what it has to be",
    "sum that is not divided": "the sum over the examples is not divided by their number",
    "a rank left out": "rank 1's part is left out",
    "no exchange": "nothing comes from the other ranks",
    "reused receive buffer": "rank 2's part is counted twice",
    "short batch filled up with repeated examples": "of rank 1's part is counted twice",
    "wrong scale of micro-batches": "is counted 1.5 times",
    "every rank adds in an order of its own": "copies drift apart",
    "stale weights": "taken at the weights from before the last update",
    "statistics of one rank only": "only buffers differ",
    "momentum lost at a resume": "the optimizer's momenta",
}


@pytest.fixture(scope="module")
def catalogue():
    return mpi_results(4, "tests.mpi.planted_bugs")


@pytest.mark.parametrize("bug", RIGHT)
def test_a_right_step_passes_every_check(catalogue, bug):
    assert catalogue["caught"][bug] == {}


@pytest.mark.parametrize("bug", WRONG)
def test_every_bug_is_caught(catalogue, bug):
    assert catalogue["caught"][bug] != {}


@pytest.mark.parametrize(("bug", "check", "num_ranks"), [(b, *w) for b, w in NEEDED.items()])
def test_a_bug_shows_first_where_it_has_to(catalogue, bug, check, num_ranks):
    assert min(catalogue["caught"][bug][check]) == num_ranks


def test_no_bug_of_parts_shows_where_parts_are_even(catalogue):
    for bug in ("mean of means over uneven parts", "short batch filled up with repeated examples"):
        assert "even parts" not in catalogue["caught"][bug]


@pytest.mark.parametrize(("bug", "words"), WORDS.items())
def test_a_cause_is_told_in_words(catalogue, bug, words):
    assert any(words in text for text in catalogue["words"][bug]), catalogue["words"][bug]
