"""Run by mpiexec: a model under a memory budget that one rank cannot hold; prints what became of
it."""

from __future__ import annotations

import json

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.tasks.runs import abort_all_on_error

LARGE = {
    "hidden": (2048,) * 16,  # blocks are small beside the model, as is what is gathered of it
    "num_steps": 2,
    "num_warmup_steps": 1,
    "global_batch_size": 16,
    "evaluate_every": 0,
    "memory_budget_mib": 900,
    "num_threads": 1,
    "num_microbatches": 2,
    "allreduce": "mpi",
}


def outcome(config: RunConfig) -> str:
    """Return "trained", or the error where one rank alone has the whole model; several end together
    with theirs."""
    try:
        record = train(config, world())
    except MemoryError as error:
        if config.num_ranks > 1:
            raise
        return str(error)
    return "diverged" if record.diverged else "trained"


def main() -> None:
    ranks = world()
    strategies = ("pipeline", "tensor", "sharded") if ranks.size > 1 else ("serial",)
    outcomes = {
        name: outcome(RunConfig(strategy=name, num_ranks=ranks.size, **LARGE))
        for name in strategies
    }
    if ranks.rank == 0:
        print("\nRESULT " + json.dumps(outcomes))


if __name__ == "__main__":
    with abort_all_on_error():
        main()
