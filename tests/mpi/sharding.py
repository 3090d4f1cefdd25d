"""Run by mpiexec on 4 ranks: the memory of each stage of sharding, its events, and sharding inside
nodes.

Rank 0 prints one JSON object: `memory` has the bytes of each rank by stage and way to exchange,
`activities` what each block was booked to in a step, and `nodes` how far runs on pretended nodes
end from runs on one.
"""

from __future__ import annotations

import itertools
import json

import torch
from mpi4py import MPI

from nnpar_lib.config import RunConfig
from nnpar_lib.config.spread import SHARDS
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.mpi import STAGED, MpiCommunicator, world
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.tasks.runs import abort_all_on_error
from nnpar_lib.trainers.timeline import Timeline

CONFIG = RunConfig(
    strategy="sharded",
    num_ranks=4,
    num_threads=1,
    hidden=(101, 64, 33),
    optimizer="adam",
    global_batch_size=61,
    num_steps=3,
    num_warmup_steps=1,
    num_traced_steps=1,
    evaluate_every=0,
)


def cases() -> dict[str, RunConfig]:
    """Return a config of each stage and each way to exchange, by name."""
    configs = {}
    for shard, allreduce in itertools.product(SHARDS, ("shared", "mpi")):
        configs[f"{shard}-{allreduce}"] = CONFIG.replace(shard=shard, allreduce=allreduce)
    configs["weights-at-once"] = CONFIG.replace(allreduce="mpi", prefetch=False)
    return configs


def weights(config: RunConfig, ranks: MpiCommunicator) -> torch.Tensor:
    """Return the weights after some steps."""
    strategy = strategies.build(config, ranks, Timeline())
    for step in range(3):
        strategy.step(strategy.batches.batch(step), step)
    parameters = [value.reshape(-1).clone() for value in strategy.whole_parameters()]
    strategy.close()
    return torch.cat(parameters)


def differences() -> dict[str, float]:
    """Return the largest differences of weights on nodes of so many ranks, and of messages that
    pass through a copy as those of a GPU do."""
    config = CONFIG.replace(dtype="float64", optimizer="momentum")
    expected = weights(config, MpiCommunicator(MPI.COMM_WORLD))
    away = {}
    for shard, per_node in itertools.product(SHARDS, (1, 2, 3)):
        ranks = MpiCommunicator(MPI.COMM_WORLD, ranks_per_node=per_node)
        away[f"{shard}-{per_node}"] = weights(config.replace(shard=shard), ranks) - expected
    for shard in SHARDS:
        staged = config.replace(shard=shard, allreduce="mpi")
        ranks = MpiCommunicator(MPI.COMM_WORLD, way=STAGED)
        away[f"{shard}-staged"] = weights(staged, ranks) - expected
    return {name: world().max(float(values.abs().max())) for name, values in away.items()}


def main() -> None:
    ranks = world()
    place(CONFIG, ranks)
    memory = {}
    activities = {}
    for name, config in cases().items():
        record = train(config, ranks)
        memory[name] = record.memory
        activities[name] = [(event[0], event[1]) for event in record.events[1]]
    outcomes = {"memory": memory, "activities": activities, "nodes": differences()}
    if ranks.rank == 0:
        print("\nRESULT " + json.dumps(outcomes))


if __name__ == "__main__":
    with abort_all_on_error():
        main()
