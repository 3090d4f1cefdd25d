"""Run by mpiexec: weight averaging and root-worker training against a simulation of all ranks in
one process."""

from __future__ import annotations

import json

import torch
from mpi4py import MPI
from torch.nn.functional import cross_entropy

from nnpar_lib.config import RunConfig
from nnpar_lib.parts import part
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import Communicator, SingleCommunicator
from nnpar_lib.trainers.communication.mpi import MpiCommunicator, world
from nnpar_lib.trainers.data.batches import global_batch_indices, load, normalise
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.tasks.runs import abort_all_on_error
from nnpar_lib.trainers.timeline import Timeline

BATCH_SIZE = 1777  # 7 steps an epoch, the last one short; uneven on 2, 3 and 4 ranks
NUM_STEPS = 17
COMMON = {
    "num_threads": 1,
    "hidden": (16,),
    "dtype": "float64",
    "global_batch_size": BATCH_SIZE,
    "num_epochs": 3,
    "lr": 0.05,
    "optimizer": "momentum",
}


def cases(num_ranks: int) -> dict[str, RunConfig]:
    """Return the runs by name."""
    parallel = {**COMMON, "num_ranks": num_ranks}
    configs = {}
    for steps in (0, 3):
        configs[f"every-{steps}-steps"] = RunConfig(
            strategy="weight_averaging", average_every=steps, **parallel
        )
    configs["every-3-steps-mpi"] = configs["every-3-steps"].replace(allreduce="mpi")
    configs["root-worker-sharded"] = RunConfig(strategy="root_worker", **parallel)
    if num_ranks > 1:
        configs["root-worker-whole-sets"] = RunConfig(
            strategy="root_worker", shard_data=False, **parallel
        )
    return configs


def differences_on_pretended_nodes(ranks: Communicator) -> dict[str, float]:
    """Return how far gradient averaging through shared memory ends from serial training, on nodes
    of 1 to 3 ranks."""
    config = RunConfig(strategy="gradient_averaging", num_ranks=ranks.size, **COMMON)
    expected = train(config.replace(strategy="serial", num_ranks=1), SingleCommunicator())
    differences = {}
    for ranks_per_node in (1, 2, 3):
        weights = train(config, MpiCommunicator(MPI.COMM_WORLD, ranks_per_node=ranks_per_node))
        difference = float((weights - expected).norm() / expected.norm())
        differences[f"{ranks_per_node}-ranks-a-node"] = max(ranks.allgather_objects(difference))
    return differences


def train(config: RunConfig, ranks: Communicator) -> torch.Tensor:
    """Return this rank's weights after the steps."""
    strategy = strategies.build(config, ranks, Timeline())
    for step in range(NUM_STEPS):
        strategy.step(strategy.batches.batch(step), step)
    strategy.synchronise()
    weights = vector(strategy.model)
    strategy.close()
    return weights


class Copy:
    """One simulated rank: a plain torch model and optimizer, its part of the batches, and the
    examples it has seen."""

    def __init__(self, config: RunConfig, size: int, rank: int, seed: int) -> None:
        self.config = config
        self.size = size
        self.rank = rank
        self.seed = seed
        self.data = load(config.dataset)
        self.model = networks.build(config)
        self.weight = 0
        self.renew_optimizer()

    def renew_optimizer(self) -> None:
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=self.config.lr, momentum=self.config.momentum
        )

    def step(self, step: int) -> None:
        indices = global_batch_indices(len(self.data.train_labels), BATCH_SIZE, self.seed, step)
        local = indices[part(len(indices), self.size, self.rank)]
        images = normalise(self.data.train_images[local], self.data, torch.float64)
        self.optimizer.zero_grad()
        cross_entropy(self.model(images), self.data.train_labels[local]).backward()
        self.optimizer.step()
        self.weight += len(local)


def simulate(config: RunConfig) -> torch.Tensor:
    """Return the averaged weights of simulated ranks after the steps."""
    is_root_worker = config.strategy == "root_worker"
    if is_root_worker and not config.shard_data:
        copies = [Copy(config, 1, 0, config.seed + rank) for rank in range(1, config.num_ranks)]
    else:
        copies = [
            Copy(config, config.num_ranks, rank, config.seed) for rank in range(config.num_ranks)
        ]
    interval = config.average_every or config.num_steps_per_epoch
    for step in range(NUM_STEPS):
        for copy in copies:
            copy.step(step)
        if (step + 1) % interval == 0 or step + 1 == NUM_STEPS:
            average(copies, equally=is_root_worker)
    return vector(copies[0].model)


@torch.no_grad()
def average(copies: list[Copy], *, equally: bool) -> None:
    weights = torch.tensor(
        [1.0 if equally else copy.weight for copy in copies], dtype=torch.float64
    )
    mean = (
        torch.stack([vector(copy.model) for copy in copies]) * (weights / weights.sum())[:, None]
    ).sum(0)
    for copy in copies:
        torch.nn.utils.vector_to_parameters(mean.clone(), copy.model.parameters())
        copy.weight = 0
        if equally:
            copy.renew_optimizer()


def vector(model: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def main() -> None:
    ranks = world()
    place(RunConfig(num_threads=1), ranks)
    differences = differences_on_pretended_nodes(ranks)
    for name, config in cases(ranks.size).items():
        all_weights = ranks.allgather_objects(train(config, ranks))
        if ranks.rank == 0:
            expected = simulate(config)
            differences[name] = max(
                float((weights - expected).norm() / expected.norm()) for weights in all_weights
            )
        ranks.barrier()
    if ranks.rank == 0:
        print("\nRESULT " + json.dumps(differences))


if __name__ == "__main__":
    with abort_all_on_error():
        main()
