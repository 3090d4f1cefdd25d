"""Model parallelism ends where a serial run ends, in every parameter of every stage, under the real
mpiexec."""

import pytest

from tests.conftest import mpi_results, on_every_mpi
from tests.mpi import model_parallelism

RANK_COUNTS = (1, 2, 3, 4)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
CASES = [
    (num_ranks, name) for num_ranks in RANK_COUNTS for name in model_parallelism.cases(num_ranks)
]


@pytest.mark.parametrize(
    ("num_ranks", "name"), on_every_mpi(CASES, lambda case: case[1] in model_parallelism.EACH_KIND)
)
def test_a_model_in_parts_ends_where_a_whole_one_ends(num_ranks, name):
    differences = mpi_results(num_ranks, "tests.mpi.model_parallelism")[name]
    tolerance = TOLERANCE[name.rsplit("-", 1)[1]]
    assert differences["weights"] < tolerance
    # a difference of nearly equal weights: digits cancel
    assert differences["first_update"] < 10 * tolerance
    assert differences["worst_parameter"] < 10 * tolerance
    assert differences["loss"] < tolerance
    assert differences["accuracy"] == 0
    assert differences["num_distinct"] == 1


@pytest.mark.parametrize("num_ranks", on_every_mpi(RANK_COUNTS))
def test_the_steps_that_are_compared_move_the_weights(num_ranks):
    cases = mpi_results(num_ranks, "tests.mpi.model_parallelism").values()
    assert min(differences["moved"] for differences in cases) > 1e-3


def test_a_model_that_does_not_fit_on_one_rank_fails_with_the_remedy():
    outcomes = mpi_results(1, "tests.mpi.memory_limit")
    assert "900 MiB" in outcomes["serial"] and "more ranks" in outcomes["serial"]


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_model_that_does_not_fit_on_one_rank_trains_on_several(num_ranks):
    assert mpi_results(num_ranks, "tests.mpi.memory_limit") == {
        "pipeline": "trained",
        "tensor": "trained",
        "sharded": "trained",
    }
