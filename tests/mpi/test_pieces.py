"""What exchanges in a step does what it says by itself, under the real mpiexec."""

import os

from tests.conftest import mpi_results
from tests.mpi import pieces


def test_each_piece_does_what_it_says():
    wrong = mpi_results(pieces.NUM_RANKS, "tests.mpi.pieces")
    assert len(wrong) == 38 or os.environ.get(pieces.KIND_VARIABLE)
    assert {name: checks for name, checks in wrong.items() if checks} == {}
