"""Steps that a CPU records are those of autograd and torch's optimizer."""

import itertools

import pytest
import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.config.training import OPTIMIZERS
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.loop.steps import take_steps
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.step.build import build_batches, build_replica
from nnpar_lib.trainers.step.operations import OperationTape
from nnpar_lib.trainers.strategies.serial import Serial
from nnpar_lib.trainers.timeline import Timeline

SMALL = RunConfig(
    hidden=(9, 7),
    global_batch_size=360,
    num_epochs=2,
    lr=0.01,
    dtype="float64",
    num_threads=1,
    evaluate_every=0,
)  # 5 steps an epoch, the last one short
HOW = {
    "whole": {},
    "micro-batches": {"microbatch_size": 100},
    "falling rate": {"lr_schedule": "linear"},
    "one layer": {"hidden": ()},
}


def steps_of(config, num_steps):
    """Return the losses of some steps and the parameters after them."""
    strategy = Serial(config, SingleCommunicator(), Timeline())
    losses = [step.loss_sum for step in take_steps(strategy, Timeline(), 0, num_steps)]
    return [*losses, *(parameter.detach() for parameter in strategy.model.parameters())]


@pytest.mark.parametrize(("optimizer", "how"), list(itertools.product(OPTIMIZERS, HOW)))
def test_recorded_steps_end_where_plain_ones_end(optimizer, how):
    config = SMALL.replace(optimizer=optimizer, **HOW[how])
    torch.testing.assert_close(
        steps_of(config.replace(record=True), 10), steps_of(config, 10), rtol=1e-11, atol=1e-13
    )


def test_a_gradient_is_computed_without_autograd_and_from_the_weights_as_they_are_now():
    replica = build_replica(SMALL.replace(record=True), Timeline())
    plain = build_replica(SMALL, Timeline())
    batch = build_batches(SMALL, 1, 0).batch(0)
    for seed in (0, 1):
        torch.manual_seed(seed)
        moved = torch.randn_like(plain.weights)
        for each in (replica, plain):
            with torch.no_grad():
                each.weights.copy_(moved)
        loss_sum = replica.compute_gradient(batch)
        assert not loss_sum.requires_grad
        torch.testing.assert_close(loss_sum, plain.compute_gradient(batch))
        torch.testing.assert_close(replica.weights.grad, plain.weights.grad)


def test_a_gradient_goes_to_the_buffer_that_was_given_last():
    replica = build_replica(SMALL.replace(record=True), Timeline())
    batch = build_batches(SMALL, 1, 0).batch(0)
    replica.compute_gradient(batch)
    first = replica.weights.grad.clone()
    buffer = torch.zeros_like(first)
    replica.use_gradient(buffer)
    replica.compute_gradient(batch)
    assert torch.equal(buffer, first)
    replica.unshare_weights()
    replica.compute_gradient(batch)
    assert torch.equal(replica.weights.grad, first)


def test_a_run_that_goes_on_from_a_checkpoint_ends_where_a_whole_one_ends(tmp_path):
    config = SMALL.replace(record=True, checkpoint=str(tmp_path / "run"))
    train(config.replace(num_steps=6), SingleCommunicator())
    resumed = train(config, SingleCommunicator())
    whole = train(config.replace(checkpoint=None), SingleCommunicator())
    assert resumed.resumed_at == [6]
    assert resumed.weights_sha256 == whole.weights_sha256


def test_what_a_rank_holds_in_memory_does_not_depend_on_the_record():
    memory = []
    for config in (SMALL, SMALL.replace(record=True)):
        strategy = Serial(config, SingleCommunicator(), Timeline())
        strategy.step(strategy.batches.batch(0), 0)
        memory.append(strategy.memory_bytes(strategy.batches.batch(1)))
    assert memory[0] == memory[1] and memory[0]["activations"] > 0


def test_a_tape_refuses_an_operation_whose_result_would_not_reach_the_next_replay():
    values = torch.ones(3)
    with OperationTape() as tape:
        values.add_(1)
    tape.replay()
    assert values.tolist() == [3, 3, 3]
    with pytest.raises(RuntimeError, match=r"aten::add\.Tensor is not in place"), OperationTape():
        values + 1


def test_a_network_that_a_cpu_does_not_record_is_refused_where_steps_are_built():
    with pytest.raises(ValueError, match="model='cnn'"):
        build_replica(SMALL.replace(record=True, model="cnn"), Timeline())
