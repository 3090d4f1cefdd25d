"""Run by mpiexec: all-reduces of every kind and size, on one node and on pretended ones; ways to
hand tensors over."""

from __future__ import annotations

import json
import time

import torch
from mpi4py import MPI

from nnpar_lib.config.spread import OF_MESSAGES, TWO_LEVEL
from nnpar_lib.trainers.communication import allreduce
from nnpar_lib.trainers.communication.mpi import ADDRESS, STAGED, MpiCommunicator, is_cuda_aware
from nnpar_lib.trainers.communication.shared_sums import SharedSums
from nnpar_lib.trainers.tasks.runs import abort_all_on_error
from nnpar_lib.trainers.timeline import FORWARD, Timeline

SIZES = (0, 1, 3, 1000, 100_003)
NODES = {"shared": (None, 1, 2, 3), TWO_LEVEL: (None, 2, 3)}  # real and pretended ones


def check(
    kind: str,
    size: int,
    dtype: torch.dtype,
    ranks_per_node: int | None,
    *,
    is_elsewhere: bool = False,
) -> dict[str, bool]:
    """Sum a buffer three times over; whole numbers keep the sums exact, so that any mistake
    shows. `is_elsewhere` puts the buffer beside the shared memory, as that of a GPU."""
    ranks = MpiCommunicator(MPI.COMM_WORLD, ranks_per_node=ranks_per_node)
    reducer = allreduce.build(
        kind,
        ranks,
        torch.zeros(size, dtype=dtype),
        Timeline(),
        bucket_bytes=4096,
        levels=allreduce.Levels(ranks_per_node=ranks_per_node or 0),
    )
    if is_elsewhere:
        reducer.buffer = torch.zeros(size, dtype=dtype)
    exact = []
    for turn in range(3):
        numbers = torch.arange(size, dtype=dtype) % 1000 + turn
        reducer.buffer.copy_(numbers * (ranks.rank + 1))
        reducer.reduce_()
        exact.append(torch.equal(reducer.buffer, numbers * (ranks.size * (ranks.size + 1) // 2)))
    rounded = torch.rand(size, dtype=dtype, generator=torch.Generator().manual_seed(ranks.rank))
    reducer.buffer.copy_(rounded)
    reducer.reduce_()
    ranks.allreduce_sum_(rounded)  # by MPI, which may add in another order
    tolerance = ranks.size * torch.finfo(dtype).eps
    exact.append(torch.allclose(reducer.buffer, rounded, rtol=tolerance, atol=0))
    same_bits = len(set(ranks.allgather_objects(reducer.buffer.numpy().tobytes()))) == 1
    reducer.free()
    return {"exact": all(ranks.allgather_objects(all(exact))), "same_bits": same_bits}


def check_way(way: str, dtype: torch.dtype) -> dict[str, bool]:
    """Sum, broadcast and pass round tensors that are handed to MPI as those of a GPU are."""
    ranks = MpiCommunicator(MPI.COMM_WORLD, way=way)
    numbers = torch.arange(1003).to(dtype) % 25  # sums that fit into a byte
    total, begun, spread = (numbers + ranks.rank for _ in range(3))
    expected = (numbers * ranks.size + ranks.size * (ranks.size - 1) // 2).to(dtype)
    ranks.allreduce_sum_(total)
    ranks.start_allreduce_sum_(begun).wait()
    ranks.broadcast_(spread, ranks.size - 1)
    arriving = torch.empty_like(numbers)
    receive = ranks.start_receive_(arriving, (ranks.rank - 1) % ranks.size, 7)
    send = ranks.start_send(numbers + ranks.rank, (ranks.rank + 1) % ranks.size, 7)
    receive.wait()
    send.wait()
    exact = [
        torch.equal(total, expected),
        torch.equal(begun, expected),
        torch.equal(spread, (numbers + ranks.size - 1).to(dtype)),
        torch.equal(arriving, numbers + (ranks.rank - 1) % ranks.size),
    ]
    return {"exact": all(ranks.allgather_objects(all(exact))), "same_bits": True}


def check_strided() -> dict[str, bool]:
    """Spread a tensor whose numbers do not lie side by side."""
    ranks = MpiCommunicator(MPI.COMM_WORLD)
    tensor = torch.full((2, 3, 4, 5), float(ranks.rank)).to(memory_format=torch.channels_last)
    ranks.broadcast_(tensor, ranks.size - 1)
    exact = bool((tensor == ranks.size - 1).all()) and tensor.is_contiguous(
        memory_format=torch.channels_last
    )
    return {"exact": all(ranks.allgather_objects(exact)), "same_bits": True}


def check_shared_sums() -> dict[str, bool]:
    """Sum vectors of many lengths in quick succession, with ranks that come late in turn."""
    ranks = MpiCommunicator(MPI.COMM_WORLD)
    sums = SharedSums(ranks, 257, Timeline())
    exact = []
    for turn in range(300):
        if turn % 50 == ranks.rank:
            time.sleep(0.002)
        numbers = torch.arange(1 + turn % 257, dtype=torch.float64) + turn
        total = sums.sum(numbers * (ranks.rank + 1), FORWARD)
        exact.append(torch.equal(total, numbers * (ranks.size * (ranks.size + 1) // 2)))
    sums.free()
    return {"exact": all(ranks.allgather_objects(all(exact))), "same_bits": True}


def check_barrier_with_messages() -> dict[str, bool]:
    """Wait in a barrier of shared memory for a rank that first receives what this one sends."""
    ranks = MpiCommunicator(MPI.COMM_WORLD)
    memory = ranks.allocate_shared(1, torch.float64)
    large = torch.full((1_000_003,), float(ranks.rank))
    exact = True
    if ranks.size > 1 and ranks.rank == 0:
        send = ranks.start_send(large, 1, 8)
        memory.barrier()
        send.wait()
    else:
        if ranks.rank == 1:
            ranks.start_receive_(large, 0, 8).wait()
            exact = bool((large == 0).all())
        memory.barrier()
    memory.free()
    return {"exact": all(ranks.allgather_objects(exact)), "same_bits": True}


def main() -> None:
    outcomes = {"shared-sums": check_shared_sums(), "message": check_barrier_with_messages()}
    for way in (STAGED, ADDRESS):
        for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8):
            outcomes[f"{way}-{dtype}"] = check_way(way, dtype)
    for ranks_per_node in (None, 2):
        name = f"shared-elsewhere-{ranks_per_node}-a-node"
        outcomes[name] = check("shared", 1000, torch.float64, ranks_per_node, is_elsewhere=True)
    outcomes["strided"] = check_strided()
    outcomes["cuda_aware"] = is_cuda_aware()
    for kind in ("shared", "mpi", "overlapped", *OF_MESSAGES):
        for ranks_per_node in NODES.get(kind, (None,)):
            for dtype in (torch.float32, torch.float64):
                for size in SIZES:
                    name = f"{kind}-{size}-{dtype}-{ranks_per_node}-a-node"
                    outcomes[name] = check(kind, size, dtype, ranks_per_node)
    if MPI.COMM_WORLD.rank == 0:
        print("\nRESULT " + json.dumps(outcomes))


if __name__ == "__main__":
    with abort_all_on_error():
        main()
