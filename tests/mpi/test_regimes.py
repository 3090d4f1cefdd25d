"""Regimes belong to the parallel system: any number of ranks takes the same steps to a goal."""

import pytest
import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.mpi import SingleCommunicator
from nnpar_lib.trainers.data.batches import Batch, BatchSource, normalise
from nnpar_lib.trainers.data.validation import load_split
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.tasks.goal_run import check_steps
from nnpar_lib.trainers.tasks.gradient_noise import gradient_norms
from nnpar_lib.trainers.timeline import Timeline
from tests.conftest import mpi_results
from tests.mpi import regimes


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_ranks_reach_each_goal_in_the_steps_of_serial_training(num_ranks):
    steps = mpi_results(num_ranks, "tests.mpi.regimes")
    assert steps["parallel"] == steps["pair"] == steps["serial"]
    assert None not in steps["serial"]


def test_local_sgd_counts_steps_without_averaging_more_often_than_it_says():
    assert mpi_results(2, "tests.mpi.regimes")["local"] == steps_of_local_sgd(2)


def steps_of_local_sgd(num_ranks):
    """Return the steps to the goals of copies that are trained apart and averaged now and then, in
    this process."""
    config = RunConfig.from_parameters(regimes.parallel(1))
    data = load_split("digits")
    copies = [Replica(config, Timeline()) for _ in range(num_ranks)]
    sources = [BatchSource(data, config, size=num_ranks, rank=rank) for rank in range(num_ranks)]
    images = normalise(data.test_images, data, torch.float64)
    reached = []
    checks = check_steps(regimes.AVERAGE_EVERY)
    next_check = next(checks)
    for step in range(1, regimes.LIMITS[0] + 1):
        for replica, source in zip(copies, sources, strict=True):
            batch = source.batch(step - 1)
            replica.compute_gradient(Batch(batch.images, batch.labels, len(batch.labels)))
            replica.update(step - 1)
        if step % regimes.AVERAGE_EVERY == 0:
            mean = torch.stack([replica.weights.detach() for replica in copies]).mean(dim=0)
            for replica in copies:
                replica.weights.detach().copy_(mean)
        if step == next_check:
            next_check = next(checks)
            wrong = (copies[0].model(images).argmax(dim=1) != data.test_labels).double().mean()
            reached += [step for goal in regimes.GOALS[len(reached) :] if wrong <= goal]
    return [*reached, *[None] * (len(regimes.GOALS) - len(reached))]


def serial_norms(num_ranks, steps):
    """Return squared norms of the parts' and of the whole batch's mean gradients, from serial
    training."""
    config = RunConfig.from_parameters(regimes.parallel(1))
    place(config, SingleCommunicator())
    data = load_split("digits")
    replica = Replica(config, Timeline())
    source = BatchSource(data, config, size=1, rank=0)
    norms = {}
    for step in range(max(steps) + 1):
        batch = source.batch(step)
        size = len(batch.labels) // num_ranks
        slices = [slice(rank * size, (rank + 1) * size) for rank in range(num_ranks)]
        parts = [Batch(batch.images[local], batch.labels[local], size) for local in slices]
        small = [square(replica, part) for part in parts] if step in steps else [0.0]
        norms[step] = sum(small) / len(small), square(replica, batch)
        replica.update(step)
    return norms


def square(replica, batch):
    replica.compute_gradient(batch)
    return float(
        torch.cat([parameter.reshape(-1) for parameter in replica.weights.grad.split(1000)])
        .square()
        .sum()
    )


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_norms_before_and_after_the_sum_are_those_of_serial_gradients(num_ranks):
    norms = mpi_results(num_ranks, "tests.mpi.regimes")["norms"]
    assert [row["step"] for row in norms] == [0, 3, 7, 92]  # the short batch is left out
    expected = serial_norms(num_ranks, regimes.NORM_STEPS)
    for row in norms:
        small, big = expected[row["step"]]
        assert row["small_square_norm"] == pytest.approx(small, rel=1e-9)
        assert row["big_square_norm"] == pytest.approx(big, rel=1e-9)
        assert (row["small_batch_size"], row["big_batch_size"]) == (120 // num_ranks, 120)


def test_parts_of_unequal_size_are_refused():
    config = RunConfig(strategy="gradient_averaging", num_ranks=2, global_batch_size=9)
    with pytest.raises(ValueError, match="do not divide a batch of 9"):
        gradient_norms(config.to_dict(), [0])
