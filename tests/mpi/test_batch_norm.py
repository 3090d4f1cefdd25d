"""Batch normalisation over ranks and micro-batches does what it says, and evaluation agrees on all
ranks."""

import pytest

from nnpar_lib.config import RunConfig
from tests.conftest import mpi_results
from tests.mpi import batch_norm


@pytest.mark.parametrize("name", batch_norm.cases())
def test_statistics_are_those_of_the_examples_that_pass_a_layer_together(name):
    differences = mpi_results(batch_norm.NUM_RANKS, "tests.mpi.batch_norm")[name]
    assert differences["weights"] < 1e-12 and differences.get("logits", 0) < 1e-10


@pytest.mark.parametrize("allreduce", batch_norm.GPU_ALLREDUCES)
def test_statistics_that_travel_as_those_of_a_shared_gpu_are_the_same(allreduce):
    results = mpi_results(batch_norm.NUM_RANKS, "tests.mpi.batch_norm")
    differences = results[f"{allreduce}, as on a GPU"]
    assert differences["weights"] < 1e-12 and differences["logits"] < 1e-10


@pytest.mark.parametrize(
    "changes",
    [
        {
            "strategy": "gradient_averaging",
            "batch_norm": "local",
            "num_ranks": 4,
            "global_batch_size": 7,
        },
        {"strategy": "pipeline", "num_ranks": 2, "num_microbatches": 4, "global_batch_size": 7},
        {"global_batch_size": 11_999},  # the last batch of an epoch has one example
    ],
)
def test_parts_without_a_variance_are_refused(changes):
    with pytest.raises(
        ValueError, match=f"global_batch_size={changes['global_batch_size']} leaves [01] examples"
    ):
        RunConfig(model="resnet18", stem="imagenet", **changes)
