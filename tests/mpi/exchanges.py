"""Run by mpiexec: all-reduces of every kind and size, on one node and on nodes that are pretended."""

from __future__ import annotations

import json

import torch
from mpi4py import MPI

from nnpar_lib.trainers import allreduce
from nnpar_lib.trainers.communicator import MpiCommunicator
from nnpar_lib.trainers.measurement import abort_all_on_error
from nnpar_lib.trainers.timeline import Timeline

SIZES = (1, 2, 3, 17, 1000, 100_003)


def check(kind: str, size: int, dtype: torch.dtype, ranks_per_node: int | None) -> dict[str, bool]:
    """Sum a buffer three times over; whole numbers keep the sums exact, so that any mistake shows."""
    ranks = MpiCommunicator(MPI.COMM_WORLD, ranks_per_node=ranks_per_node)
    reducer = allreduce.build(kind, ranks, torch.zeros(size, dtype=dtype), Timeline(), bucket_bytes=4096)
    exact = []
    for turn in range(3):
        numbers = torch.arange(size, dtype=dtype) % 1000 + turn
        reducer.buffer.copy_(numbers * (ranks.rank + 1))
        reducer.reduce_()
        exact.append(torch.equal(reducer.buffer, numbers * (ranks.size * (ranks.size + 1) // 2)))
    rounded = torch.rand(size, dtype=dtype, generator=torch.Generator().manual_seed(ranks.rank))
    reducer.buffer.copy_(rounded)
    reducer.reduce_()
    same_bits = len(set(ranks.allgather_objects(reducer.buffer.numpy().tobytes()))) == 1
    reducer.free()
    return {"exact": all(ranks.allgather_objects(all(exact))), "same_bits": same_bits}


def main() -> None:
    found = {}
    for kind in ("shared", "mpi", "overlapped"):
        for ranks_per_node in (None, 1, 2, 3) if kind == "shared" else (None,):
            for dtype in (torch.float32, torch.float64):
                for size in SIZES:
                    name = f"{kind}-{size}-{dtype}-{ranks_per_node}-a-node"
                    found[name] = check(kind, size, dtype, ranks_per_node)
    if MPI.COMM_WORLD.rank == 0:
        print("\nRESULT " + json.dumps(found))


if __name__ == "__main__":
    with abort_all_on_error():
        main()
