"""The program in C++ takes the same steps as PyTorch: loss by loss, weight by weight, with any
ranks and threads."""

import numpy as np
import pytest
import torch
from torch import nn

from nnpar_lib.config import RunConfig
from nnpar_lib.launch import native
from nnpar_lib.trainers.data.batches import Batch, BatchSource, load
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.tasks import cpp_inputs
from nnpar_lib.trainers.timeline import Timeline

# 131 is odd and no multiple of 3, and 12,000 / 131 leaves a short last batch within the 100 steps;
# at larger learning rates training amplifies rounding a thousandfold and more, in either program
BASE = RunConfig(
    strategy="cpp",
    num_steps=100,
    num_epochs=2,
    global_batch_size=131,
    lr=0.01,
    num_threads=1,
    evaluate_every=0,
    binding="none",
)
NUM_STEPS = 100


def run_program(program, config, folder, environment=None):
    """Run the program; return the mean loss of each step and the final weights."""
    names = ("initial", "order", "out", "final", "losses")
    weights, order, out, final, losses = (str(folder / name) for name in names)
    cpp_inputs.export_start(config.to_dict(), weights, order)
    words = [
        *native._options(config),
        "--data",
        native._data("digits"),
        "--weights",
        weights,
        "--order",
        order,
        "--out",
        out,
        "--save-weights",
        final,
        "--save-losses",
        losses,
    ]
    native.start(config.num_ranks, words, str(folder), program)
    return np.fromfile(losses), np.fromfile(final, dtype=np.float32)


@pytest.fixture(scope="module")
def expected():
    return {
        optimizer: train_in_torch(BASE.replace(optimizer=optimizer))
        for optimizer in ("momentum", "sgd")
    }


def train_in_torch(config):
    replica = Replica(config, Timeline())
    source = BatchSource(load(config.dataset), config, 1, 0)
    losses = []
    for step in range(NUM_STEPS):
        batch = source.batch(step)
        losses.append(float(replica.compute_gradient(batch)) / batch.num_global_examples)
        replica.update(step)
    return np.array(losses), flat(replica.model)


def flat(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()


def assert_close(found, wanted):
    assert len(found[0]) == NUM_STEPS
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("num_ranks", "num_threads", "allreduce"),
    [
        (1, 1, "shared"),
        (1, 2, "shared"),
        (1, 3, "mpi"),
        pytest.param(2, 1, "shared", marks=pytest.mark.every_mpi),
        (2, 1, "mpi"),
        (2, 1, "overlapped"),
        (3, 1, "shared"),
        (3, 1, "mpi"),
        pytest.param(3, 1, "overlapped", marks=pytest.mark.every_mpi),
        (2, 2, "shared"),
        (2, 2, "mpi"),
        (2, 2, "overlapped"),
        (4, 1, "shared"),
    ],
)
def test_every_step_is_that_of_pytorch(
    build, expected, tmp_path, num_ranks, num_threads, allreduce
):
    config = BASE.replace(num_ranks=num_ranks, num_threads=num_threads, allreduce=allreduce)
    assert_close(run_program(build("release"), config, tmp_path), expected["momentum"])


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_plain_sgd_is_that_of_pytorch(build, expected, tmp_path, num_ranks):
    config = BASE.replace(num_ranks=num_ranks, optimizer="sgd")
    assert_close(run_program(build("release"), config, tmp_path), expected["sgd"])


def test_without_mpi_the_steps_are_the_same(build, expected, tmp_path):
    assert_close(run_program(build("serial"), BASE, tmp_path), expected["momentum"])


@pytest.mark.parametrize(("num_ranks", "allreduce"), [(2, "mpi"), (3, "shared")])
def test_averaging_weights_after_each_plain_step_is_averaging_gradients(
    build, expected, tmp_path, num_ranks, allreduce
):
    config = BASE.replace(
        strategy="cpp_weight_averaging",
        num_ranks=num_ranks,
        allreduce=allreduce,
        average_every=1,
        optimizer="sgd",
    )
    assert_close(run_program(build("release"), config, tmp_path), expected["sgd"])


def test_averaging_weights_with_momentum_is_local_sgd(build, tmp_path):
    config = BASE.replace(
        strategy="cpp_weight_averaging", num_ranks=2, average_every=7, num_steps=21
    )
    wanted = simulate_local_sgd(config, num_ranks=2, interval=7)
    np.testing.assert_allclose(
        run_program(build("release"), config, tmp_path)[1], wanted, atol=1e-4, rtol=0
    )


def simulate_local_sgd(config, num_ranks, interval):
    """Train the ranks' copies one after the other in this process, and average them by the examples
    they have seen."""
    copies = [Replica(config, Timeline()) for _ in range(num_ranks)]
    sources = [
        BatchSource(load(config.dataset), config, num_ranks, rank) for rank in range(num_ranks)
    ]
    seen = np.zeros(num_ranks)
    for step in range(config.total_steps):
        for rank, (copy, source) in enumerate(zip(copies, sources, strict=True)):
            batch = source.batch(step)
            copy.compute_gradient(Batch(batch.images, batch.labels, len(batch.labels)))
            copy.update(step)
            seen[rank] += len(batch.labels)
        if (step + 1) % interval == 0:
            shares = torch.from_numpy(seen / seen.sum()).float()
            mean = sum(
                share * copy.weights.detach() for share, copy in zip(shares, copies, strict=True)
            )
            for copy in copies:
                copy.weights.data.copy_(mean)
            seen[:] = 0
    return flat(copies[0].model)


@pytest.mark.parametrize(
    ("num_ranks", "num_threads", "allreduce"),
    [(1, 2, "shared"), (3, 1, "shared"), (2, 2, "overlapped"), (2, 1, "mpi")],
)
def test_the_sanitizers_find_nothing(
    build, tmp_path, monkeypatch, num_ranks, num_threads, allreduce
):
    monkeypatch.setenv(
        "ASAN_OPTIONS", "detect_leaks=0"
    )  # MPI keeps what it allocates until the process ends
    config = BASE.replace(
        num_ranks=num_ranks,
        num_threads=num_threads,
        allreduce=allreduce,
        num_steps=12,
        evaluate_every=1,
    )
    losses, _ = run_program(build("sanitized"), config, tmp_path)
    assert np.isfinite(losses).all()
