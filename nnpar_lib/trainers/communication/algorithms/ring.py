"""The ring: slices of the buffer travel round all ranks, and the sum grows on the way."""

from __future__ import annotations

from torch import Tensor

from nnpar_lib.parts import part
from nnpar_lib.trainers.communication.algorithms.messages import Messages


def ring(values: Tensor, received: Tensor, messages: Messages) -> None:
    """Replace `values` by its sum over ranks, in 2(p-1) messages of n/p numbers from each rank.

    No all-reduce sends less: 2n(p-1)/p numbers leave each rank (Patarasuk and Yuan 2009). All ranks
    read the same bits, for each slice is summed once and then copied.
    """
    rank = messages.rank
    size = messages.size
    right = (rank + 1) % size
    left = (rank - 1) % size
    slices = [values[part(len(values), size, number)] for number in range(size)]

    # Reduce-scatter: hand a slice on, add what arrives to the next. At the end, slice rank + 1 is
    # the sum over all ranks.
    for step in range(size - 1):
        total = slices[(rank - step - 1) % size]
        addend = received[: len(total)]
        messages.exchange_(slices[(rank - step) % size], right, addend, left)
        total += addend

    # All-gather: the finished slices go round once more.
    for step in range(size - 1):
        finished = slices[(rank + 1 - step) % size]
        messages.exchange_(finished, right, slices[(rank - step) % size], left)
