"""Memory that the ranks of a node share, through an MPI-3 window."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnpar_lib.config.environment import MEMORY_FOLDER, free_bytes
from nnpar_lib.trainers.communication.stall import StallWatch

CACHE_LINE = 64  # bytes
NUM_LOOKS = 2000  # about 0.1 ms
WINDOW_FOLDER_VARIABLE = "OMPI_MCA_osc_sm_backing_directory"


class SharedWindow:
    """An MPI-3 shared-memory window with one zeroed buffer a rank, each on pages of its own.

    `mpi` is the module of mpi4py, and `comm` a communicator of the ranks of one node. A rank's
    memory begins with a cache line for the number of barriers that it has come to. Ranks look at
    each other's number, which needs no messages. A rank that has looked in vain for long gives way
    to others on its core, and to messages on their way.
    """

    def __init__(
        self, mpi: Any, comm: Any, num_elements: int, dtype: torch.dtype, watch: StallWatch
    ) -> None:
        num_bytes = CACHE_LINE + num_elements * dtype.itemsize
        _check_room(comm, num_bytes)
        info = mpi.Info.Create({"alloc_shared_noncontig": "true"})
        self._comm = comm
        self._watch = watch
        self._window = mpi.Win.Allocate_shared(num_bytes, 1, comm=comm, info=info)
        self._window.Lock_all()
        self._num_looks = NUM_LOOKS if _has_own_core(comm) else 0
        counts = comm.allgather(num_elements)
        memories = [memoryview(self._window.Shared_query(rank)[0]) for rank in range(len(counts))]
        self.buffers: Sequence[Tensor] = [
            _tensor(memory[CACHE_LINE:], count, dtype)
            for memory, count in zip(memories, counts, strict=True)
        ]
        arrivals = [memory[:8].cast("q") for memory in memories]
        self._arrival = arrivals.pop(comm.Get_rank())
        self._peers = arrivals
        self._num_barriers = 0
        self._arrival[0] = 0
        self.buffers[comm.Get_rank()].zero_()
        self._window.Sync()
        comm.Barrier()  # nobody may look at a number that has not been set
        self._window.Sync()

    def barrier(self) -> None:
        self._window.Sync()
        self._num_barriers += 1
        self._arrival[0] = self._num_barriers
        with self._watch("a barrier of a node's shared memory"):
            for peer in self._peers:
                self._await(peer)
        self._window.Sync()

    def free(self) -> None:
        self.buffers = ()  # the views die with the memory behind them
        for view in (self._arrival, *self._peers):
            view.release()
        self._window.Unlock_all()
        self._window.Free()

    def _await(self, peer: memoryview) -> None:
        """Return when a peer has come to this barrier; it may already have come to the next."""
        num_looks = self._num_looks
        while peer[0] < self._num_barriers:
            num_looks -= 1
            if num_looks < 0:
                os.sched_yield()
                self._comm.Iprobe()  # MPI sends large messages on only while it is called


def _tensor(memory: memoryview, num_elements: int, dtype: torch.dtype) -> Tensor:
    """Return the first numbers in this memory as a tensor."""
    if num_elements == 0:
        return torch.empty(0, dtype=dtype)
    array = np.frombuffer(memory, dtype=np.uint8, count=num_elements * dtype.itemsize)
    return torch.from_numpy(array).view(dtype)


def _has_own_core(comm: Any) -> bool:
    """Return whether there is a core for each of these ranks (collective)."""
    cores = set().union(*comm.allgather(os.sched_getaffinity(0)))
    return len(cores) >= int(comm.Get_size())


def _check_room(comm: Any, num_bytes: int) -> None:
    """Raise a ValueError on all ranks where their shared memory does not fit (collective).

    Memory that is not there is noticed when it is written to, and then it is a bus error.
    """
    folder = os.environ.get(WINDOW_FOLDER_VARIABLE, MEMORY_FOLDER)
    num_free = free_bytes(folder) if os.path.isdir(folder) else sys.maxsize
    parts = comm.allgather((num_bytes, num_free))
    total = sum(part for part, _ in parts)
    room = min(free for _, free in parts)
    if total > room:
        raise ValueError(
            f"the shared memory of {comm.Get_size()} ranks takes {total / 2**20:.1f} MiB, and"
            f" {folder} has room for {room / 2**20:.1f}; take allreduce='mpi', or make it larger"
            " (docker run --shm-size=1g)"
        )
