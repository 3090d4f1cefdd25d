"""A first all-reduce, which shows whether ranks find each other and over which MPI."""

from __future__ import annotations

import json
import time

import torch

from nnpar_lib.records.provenance import loaded_mpi
from nnpar_lib.trainers.communication.mpi import world

NUM_REPEATS = 100


def main() -> None:
    """Sum 1, 2, ... over the ranks; print sum, seconds and library as JSON on the first rank."""
    ranks = world()
    number = torch.tensor([ranks.rank + 1.0])
    ranks.allreduce_sum_(number)
    ranks.barrier()
    start = time.perf_counter()
    for _ in range(NUM_REPEATS):
        ranks.allreduce_sum_(torch.ones(1))
    seconds = (time.perf_counter() - start) / NUM_REPEATS
    if ranks.rank == 0:
        outcome = {
            "num_ranks": ranks.size,
            "sum": float(number),
            "seconds": seconds,
            "library": loaded_mpi(),
        }
        print(json.dumps(outcome))


if __name__ == "__main__":
    main()
