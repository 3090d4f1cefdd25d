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

WINDOW_FOLDER_VARIABLE = "OMPI_MCA_osc_sm_backing_directory"


class SharedWindow:
    """An MPI-3 shared-memory window with one zeroed buffer a rank, each on pages of its own.

    `mpi` is the module of mpi4py, and `comm` a communicator of the ranks of one node.
    """

    def __init__(
        self, mpi: Any, comm: Any, num_elements: int, dtype: torch.dtype, watch: StallWatch
    ) -> None:
        itemsize = dtype.itemsize
        _check_room(comm, num_elements * itemsize)
        info = mpi.Info.Create({"alloc_shared_noncontig": "true"})
        self._comm = comm
        self._watch = watch
        self._window = mpi.Win.Allocate_shared(
            num_elements * itemsize, itemsize, comm=comm, info=info
        )
        self._window.Lock_all()
        counts = comm.allgather(num_elements)
        self.buffers: Sequence[Tensor] = [
            self._view(rank, count, dtype) for rank, count in enumerate(counts)
        ]
        self.buffers[comm.Get_rank()].zero_()
        self.barrier()

    def barrier(self) -> None:
        self._window.Sync()
        with self._watch("a barrier of a node's shared memory"):
            self._comm.Barrier()
        self._window.Sync()

    def free(self) -> None:
        self.buffers = ()  # the views die with the memory behind them
        self._window.Unlock_all()
        self._window.Free()

    def _view(self, rank: int, num_elements: int, dtype: torch.dtype) -> Tensor:
        if num_elements == 0:
            return torch.empty(0, dtype=dtype)
        memory, _ = self._window.Shared_query(rank)
        array = np.frombuffer(memory, dtype=np.uint8, count=num_elements * dtype.itemsize)
        return torch.from_numpy(array).view(dtype)


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
