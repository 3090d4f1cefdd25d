"""What sharding costs, against what can be worked out by hand."""

import pytest

from nnpar_lib.analysis.cost import cost_model, memory
from nnpar_lib.analysis.cost.cost_model import Block, Machine, Model
from nnpar_lib.analysis.scaling import AlphaBeta
from nnpar_lib.config import RunConfig

MESSAGE = AlphaBeta(1e-3, 1e-6)
MACHINE = Machine(message=MESSAGE, allreduces={"mpi": MESSAGE})
SIZES = (4000, 8000, 2000, 1000)
BLOCKS = [
    Block(
        forward=AlphaBeta(0, 1e-3),
        backward=AlphaBeta(0, 2e-3),
        parameter_bytes=size,
        output_bytes_per_example=0,
    )
    for size in SIZES
]
MODEL = Model(blocks=BLOCKS, update=AlphaBeta(0, 1e-6))
CONFIG = RunConfig(
    strategy="sharded",
    allreduce="mpi",
    num_ranks=4,
    global_batch_size=40,
    hidden=(8, 8, 8),
    optimizer="adam",
)
TOTAL = sum(SIZES)


def test_stages_one_and_two_send_what_an_all_reduce_sends():
    averaging = CONFIG.replace(strategy="gradient_averaging")
    for config in (averaging, CONFIG.replace(shard="optimizer"), CONFIG.replace(shard="gradients")):
        assert cost_model.sent_bytes(config, MODEL) == pytest.approx(2 * TOTAL * 3 / 4)


def test_stage_three_gathers_all_but_the_last_blocks_again():
    assert cost_model.sent_bytes(CONFIG, MODEL) == pytest.approx((2 * TOTAL + 12_000) * 3 / 4)
    at_once = CONFIG.replace(prefetch=False)
    assert cost_model.sent_bytes(at_once, MODEL) == pytest.approx((3 * TOTAL - 1000) * 3 / 4)


@pytest.mark.parametrize(
    ("shard", "num_messages", "num_bytes"),
    [
        ("optimizer", 6, 2 * TOTAL),
        ("gradients", 24, 2 * TOTAL),
        ("weights", 30, 2 * TOTAL + 12_000),
    ],
)
def test_a_step_pays_each_message(shard, num_messages, num_bytes):
    seconds = cost_model.step_seconds(CONFIG.replace(shard=shard), MODEL, MACHINE)
    passes = 10 * 4 * 3e-3
    update = TOTAL / 4 * 1e-6
    messages = num_messages * 1e-3 + num_bytes * 3 / 4 * 1e-6
    assert seconds == pytest.approx(passes + update + messages)


@pytest.mark.parametrize(
    ("shard", "expected"),
    [
        ("optimizer", (TOTAL, TOTAL, TOTAL / 2, 0)),
        ("gradients", (TOTAL, TOTAL / 4, TOTAL / 2, 4000 + 8000)),
        ("weights", (TOTAL / 4, TOTAL / 4, TOTAL / 2, 2 * (4000 + 8000))),
    ],
)
def test_each_stage_divides_one_thing_more(shard, expected):
    held = memory.sharded_bytes(CONFIG.replace(shard=shard), MODEL)
    assert tuple(held.values()) == pytest.approx(expected)
    assert list(held) == ["parameters", "gradients", "optimizer", "blocks"]


def test_what_a_large_model_takes_in_parts():
    large = RunConfig(hidden=(30, 20), num_ranks=2, global_batch_size=16, strategy="tensor")
    sizes = memory.mlp_sizes(large)
    assert sizes.parameter_bytes == 4 * (785 * 30 + 31 * 20 + 21 * 10)
    assert cost_model.exchanged_bytes(large, sizes) == 16 * 4 * 20
    sharded = large.replace(strategy="sharded", allreduce="shared")
    gathered = 2 * sizes.parameter_bytes + 4 * (785 * 30 + 31 * 20)
    assert cost_model.sent_bytes(sharded, sizes) == pytest.approx(gathered / 2)
