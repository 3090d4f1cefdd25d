"""What somebody's own function gets as its communicator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor

from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.mpi import MpiCommunicator
from nnpar_lib.trainers.communication.torch_distributed import (
    join_process_group,
    leave_process_group,
)


@contextmanager
def communicator_of(over: str, group: Communicator) -> Iterator[Any]:
    """Yield what the step gets as its communicator: of its own, so that no message is left over."""
    if over == "torch":
        join_process_group(group, "gloo")
        try:
            yield dist.group.WORLD
        finally:
            leave_process_group()
        return
    if not isinstance(group, MpiCommunicator):
        raise ValueError("a step over mpi4py needs ranks; start the script with mpiexec")
    communicator = group._comm.Dup()
    yield CountedMessages(MpiCommunicator(communicator)) if over == "messages" else communicator
    communicator.Free()


class CountedMessages:
    """Blocking messages of a group of ranks, see `algorithms.messages`; this rank's are counted."""

    def __init__(self, group: Communicator) -> None:
        self._group = group
        self.rank = group.rank
        self.size = group.size
        self.num_sent = 0  # numbers, over all messages

    def send(self, values: Tensor, target: int) -> None:
        """Send a tensor to a rank."""
        self.num_sent += values.numel()
        self._group.send(values, target)

    def receive_(self, values: Tensor, source: int) -> None:
        """Fill a tensor with what a rank sends, of the same shape and type."""
        self._group.receive_(values, source)

    def exchange_(self, sent: Tensor, target: int, received: Tensor, source: int) -> None:
        """Send a tensor to one rank and, at the same time, receive from one: it may be another."""
        self.num_sent += sent.numel()
        self._group.exchange_(sent, target, received, source)
