"""MPI's own all-reduce, told by the messages that Open MPI counts."""

import pytest

from nnpar_lib.course import mpi_algorithm
from nnpar_lib.launch import mpi_messages
from nnpar_lib.launch.mpi_messages import Counts


def test_few_numbers_are_summed_by_recursive_doubling():
    if not mpi_messages.are_told():
        pytest.skip("this MPI does not count its messages")
    (row,) = mpi_algorithm.taken_by_mpi([100], 4).to_dict("records")
    assert row["messages"] == 8  # two exchanges of four ranks
    assert row["bytes"] == 8 * 4 * 100
    assert row["as"] == "recursive_doubling"


@pytest.mark.parametrize(
    ("name", "num_messages", "num_elements"),
    [
        ("ring", 24, 600),
        ("recursive_doubling", 8, 800),
        ("rabenseifner", 16, 600),
        ("tree", 6, 600),
    ],
)
def test_each_algorithm_has_counts_of_its_own(name, num_messages, num_elements):
    counts = Counts(num_messages, 4 * num_elements)
    assert mpi_algorithm.counts_of(name, 100, 4) == counts
    assert mpi_algorithm.matching(counts, 100, 4) == [name]
