"""The operations of a group of ranks, and a group of one rank that needs no MPI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

NO_OTHER = "a group of one rank has no other to exchange messages with"


class Request(Protocol):
    """A non-blocking operation under way."""

    def test(self) -> bool:
        """Drive the operation on a little; return whether it is complete."""

    def wait(self) -> None:
        """Return when the operation is complete."""


class SharedMemory(Protocol):
    """A buffer for each rank of a node; every rank of the node can read and write all of them."""

    buffers: Sequence[Tensor]

    def barrier(self) -> None:
        """Return when every rank has arrived and what each wrote before is visible to all."""

    def free(self) -> None:
        """Give the memory back (collective)."""


class Communicator(Protocol):
    """A group of ranks. All of them call its collective operations, in the same order."""

    rank: int
    size: int

    @property
    def takes_gpu_tensors(self) -> bool:
        """Whether tensors pass from GPU to GPU, and not through pinned memory of the host."""

    def summing_by(self, sum_: Callable[[Tensor], None]) -> Communicator:
        """Return the same group with another function, instead of MPI's, that sums over ranks."""

    def barrier(self) -> None:
        """Return when every rank has arrived."""

    def idle_barrier(self, poll_seconds: float = 0.002) -> None:
        """Return when every rank has arrived; meanwhile sleep and leave the cores to the others."""

    def allreduce_sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over ranks; it has the same shape on all of them."""

    def start_allreduce_sum_(self, tensor: Tensor) -> Request:
        """Begin to replace a tensor by its sum; nobody may use it before `wait` has returned."""

    def start_allgather_(self, whole: Tensor, counts: Sequence[int]) -> Request:
        """Begin to fill a flat tensor with the parts of all ranks, in their order.

        `counts` has the elements of each rank's part; a rank's part is in its place already.
        """

    def start_reduce_scatter_sum_(self, whole: Tensor, counts: Sequence[int]) -> Request:
        """Begin to sum a flat tensor over ranks; each gets its part, at the beginning of `whole`.

        `counts` has the elements of each rank's part, in their order. What lies behind a rank's
        part has no meaning then.
        """

    def start_send(self, tensor: Tensor, target: int, tag: int) -> Request:
        """Begin to send a tensor to a rank; it must not be changed before the send is complete."""

    def start_receive_(self, tensor: Tensor, source: int, tag: int) -> Request:
        """Begin to fill a tensor of the sender's shape and type; `wait` completes it."""

    def send(self, values: Tensor, target: int) -> None:
        """Send a tensor to a rank; it may wait until the rank receives."""

    def receive_(self, values: Tensor, source: int) -> None:
        """Fill a tensor of the sender's shape and type with what it sends by `send`."""

    def exchange_(self, sent: Tensor, target: int, received: Tensor, source: int) -> None:
        """Send a tensor to one rank and, at the same time, receive one from another."""

    def broadcast_(self, tensor: Tensor, source: int) -> None:
        """Fill a tensor, of the same shape and type on all ranks, with that of one of them."""

    def split(self, colors: Sequence[int]) -> Communicator:
        """Return the group of the ranks with this rank's colour, in their order (collective)."""

    def sum(self, value: float) -> float:
        """Return the sum of a number over ranks, on all ranks."""

    def max(self, value: float) -> float:
        """Return the maximum of a number over ranks, on all ranks."""

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's value on all ranks (pickled)."""

    def gather_objects(self, value: Any) -> list[Any] | None:
        """Return all ranks' values on rank 0 and None elsewhere (pickled)."""

    def allgather_objects(self, value: Any) -> list[Any]:
        """Return all ranks' values on all ranks (pickled)."""

    def first_ranks(self, num_ranks: int) -> Communicator | None:
        """Return a group of the first ranks (collective), None on the ranks that are not in it."""

    @property
    def node(self) -> Communicator:
        """The group of the ranks that share this rank's node (collective)."""

    @property
    def node_leaders(self) -> Communicator | None:
        """The group of the lowest rank of each node, None on all others (collective)."""

    def allocate_shared(self, num_elements: int, dtype: torch.dtype) -> SharedMemory:
        """Return zeroed shared memory; every rank of this group has to be on one node (collective).

        Each rank names the number of elements of its own buffer. A ValueError on all ranks says
        that the memory does not fit.
        """

    def stall_watch(self, seconds: float) -> AbstractContextManager[None]:
        """Meanwhile, let a rank that waits for longer than this end the run; 0 lets it wait."""

    def abort(self, status: int = 1) -> None:
        """End all ranks of the world at once, with this exit status."""


class SingleCommunicator:
    """A group of one rank: every exchange is already done."""

    rank = 0
    size = 1
    takes_gpu_tensors = False

    def summing_by(self, sum_: Callable[[Tensor], None]) -> Communicator:
        return self

    def barrier(self) -> None: ...

    def idle_barrier(self, poll_seconds: float = 0.002) -> None: ...

    def allreduce_sum_(self, tensor: Tensor) -> None: ...

    def start_allreduce_sum_(self, tensor: Tensor) -> Request:
        return Done()

    def start_allgather_(self, whole: Tensor, counts: Sequence[int]) -> Request:
        return Done()

    def start_reduce_scatter_sum_(self, whole: Tensor, counts: Sequence[int]) -> Request:
        return Done()

    def start_send(self, tensor: Tensor, target: int, tag: int) -> Request:
        raise ValueError(NO_OTHER)

    def start_receive_(self, tensor: Tensor, source: int, tag: int) -> Request:
        raise ValueError(NO_OTHER)

    def send(self, values: Tensor, target: int) -> None:
        raise ValueError(NO_OTHER)

    def receive_(self, values: Tensor, source: int) -> None:
        raise ValueError(NO_OTHER)

    def exchange_(self, sent: Tensor, target: int, received: Tensor, source: int) -> None:
        raise ValueError(NO_OTHER)

    def broadcast_(self, tensor: Tensor, source: int) -> None: ...

    def split(self, colors: Sequence[int]) -> Communicator:
        return self

    def sum(self, value: float) -> float:
        return value

    def max(self, value: float) -> float:
        return value

    def broadcast_object(self, value: Any) -> Any:
        return value

    def gather_objects(self, value: Any) -> list[Any] | None:
        return [value]

    def allgather_objects(self, value: Any) -> list[Any]:
        return [value]

    def first_ranks(self, num_ranks: int) -> Communicator | None:
        check_group(num_ranks, self.size)
        return self

    @property
    def node(self) -> Communicator:
        return self

    @property
    def node_leaders(self) -> Communicator | None:
        return self

    def allocate_shared(self, num_elements: int, dtype: torch.dtype) -> SharedMemory:
        return _PrivateMemory(torch.zeros(num_elements, dtype=dtype))

    def stall_watch(self, seconds: float) -> AbstractContextManager[None]:
        return nullcontext()

    def abort(self, status: int = 1) -> None:
        raise SystemExit(status)


class Done:
    """An operation that is complete already."""

    def test(self) -> bool:
        return True

    def wait(self) -> None: ...


class _PrivateMemory:
    def __init__(self, buffer: Tensor) -> None:
        self.buffers: Sequence[Tensor] = [buffer]

    def barrier(self) -> None: ...

    def free(self) -> None: ...


def check_group(num_ranks: int, size: int) -> None:
    """Raise a ValueError where a group cannot have so many ranks."""
    if not 1 <= num_ranks <= size:
        raise ValueError(
            f"num_ranks={num_ranks} is outside 1..{size}, the ranks that were launched; "
            "launch more or take fewer"
        )
