"""Sharded data parallelism holds what its formula says, books each block, and spans nodes."""

import pytest

from nnpar_lib.analysis.cost import memory
from nnpar_lib.analysis.cost.cost_model import NOTHING, Block, Model
from nnpar_lib.config.spread import SHARDS
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.timeline import BACKWARD, COMMUNICATE, FORWARD
from tests.conftest import mpi_results
from tests.mpi import sharding

CASES = sharding.cases()


def results():
    return mpi_results(sharding.CONFIG.num_ranks, "tests.mpi.sharding")


@pytest.mark.parametrize("name", CASES)
def test_each_rank_holds_what_the_formula_says(name):
    config = CASES[name]
    blocks = [
        Block(
            forward=NOTHING,
            backward=NOTHING,
            parameter_bytes=4 * networks.num_parameters(block),
            output_bytes_per_example=0,
        )
        for block in networks.blocks(config)
    ]
    expected = memory.sharded_bytes(config, Model(blocks=blocks))
    for measured in results()["memory"][name]:
        assert {kind: measured[kind] for kind in expected} == pytest.approx(expected, rel=0.05)


def test_each_stage_divides_one_thing_more():
    first, second, third = (results()["memory"][f"{shard}-mpi"][0] for shard in SHARDS)
    assert first["optimizer"] == pytest.approx(first["parameters"] / 2, rel=0.05)  # adam, 4 ranks
    assert second["gradients"] == pytest.approx(first["gradients"] / 4, rel=0.05)
    assert third["parameters"] == pytest.approx(first["parameters"] / 4, rel=0.05)
    assert first["blocks"] == 0 < second["blocks"] < third["blocks"]


@pytest.mark.parametrize("name", CASES)
def test_every_block_is_booked(name):
    num_blocks = 1 if name.startswith("optimizer") else CASES[name].num_blocks
    booked = {tuple(event) for event in results()["activities"][name]}
    for activity in (FORWARD, BACKWARD, COMMUNICATE):
        assert {(activity, block) for block in range(num_blocks)} <= booked


def test_nodes_hold_copies_and_messages_of_a_gpu_pass_through_the_host():
    differences = results()["nodes"]
    assert len(differences) == 12
    assert max(differences.values()) < 1e-13, differences
