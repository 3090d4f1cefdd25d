"""Sums of short vectors over the ranks of a node, through memory that they share.

What counts for a few thousand numbers is latency, and that is one barrier here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.timeline import COMMUNICATE, Timeline

NUM_TURNS = 2


class SharedSums:
    """Each rank writes its addends to a row; after a barrier every rank sums all rows.

    Two sets of rows take turns: who writes to one has passed the barrier of the other, so that all
    have read what lay here before. Rows are summed in the order of ranks: all read the same bits.
    """

    def __init__(self, communicator: Communicator, num_elements: int, timeline: Timeline) -> None:
        """Allocate the memory for vectors of up to `num_elements` numbers in float64
        (collective)."""
        self.communicator = communicator
        self._timeline = timeline
        shape = (NUM_TURNS, communicator.size, num_elements)
        count = shape[0] * shape[1] * shape[2] if communicator.rank == 0 else 0
        self._memory = communicator.allocate_shared(count, torch.float64)
        self._rows: npt.NDArray[np.float64] = self._memory.buffers[0].numpy().reshape(shape)
        self._turn = 0

    def sum(self, tensor: Tensor, activity: str) -> Tensor:
        """Return the sum over ranks of a tensor in float64 on the CPU; the time before it belongs
        to `activity` (collective)."""
        self._turn = (self._turn + 1) % NUM_TURNS
        rows = self._rows[self._turn, :, : tensor.numel()]
        rows[self.communicator.rank] = tensor.numpy().reshape(-1)
        self._timeline.lap(activity)
        self._memory.barrier()
        total = torch.from_numpy(rows.sum(0)).view(tensor.shape)
        self._timeline.lap(COMMUNICATE)
        return total

    def free(self) -> None:
        """Give the memory back (collective)."""
        self._rows = np.empty((NUM_TURNS, 1, 0))
        self._memory.free()
