"""Ways to sum a flat buffer over ranks: through shared memory, in one call of a library, in
buckets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.config.spread import OF_MESSAGES, TWO_LEVEL
from nnpar_lib.parts import part
from nnpar_lib.trainers.communication.algorithms import ALGORITHMS
from nnpar_lib.trainers.communication.algorithms.two_level import two_level
from nnpar_lib.trainers.communication.communicator import Communicator, Request
from nnpar_lib.trainers.timeline import BACKWARD, COMMUNICATE, OTHER, WAIT, Timeline


class Allreduce(Protocol):
    """A buffer and the way to sum it: write the addend to `buffer`, call `reduce_`, read the sum.

    Every rank reads the same bits. `measures_wait` says whether the time at the barrier before the
    exchange, which is imbalance and not communication, is booked separately.
    """

    buffer: Tensor
    measures_wait: bool

    def reduce_(self) -> None:
        """Replace the buffer by its sum over ranks (collective)."""

    def free(self) -> None:
        """Free the memory (collective)."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The algorithms of an all-reduce of two levels, and the ranks that are taken for a node, 0 for
    those that share one."""

    inside: str = "tree"
    between: str = "rabenseifner"
    ranks_per_node: int = 0

    @classmethod
    def of(cls, config: RunConfig) -> Levels:
        """Return the levels that a config names."""
        return cls(
            inside=config.inside_nodes,
            between=config.between_nodes,
            ranks_per_node=config.ranks_per_node,
        )


def build(
    kind: str,
    communicator: Communicator,
    like: Tensor,
    timeline: Timeline,
    *,
    bucket_bytes: int,
    levels: Levels = Levels(),
) -> Allreduce:
    """Return an all-reduce of this kind whose buffer has the shape, type and device of `like`
    (collective)."""
    if kind == "shared":
        return SharedAllreduce(communicator, like, timeline)
    if kind == "overlapped":
        return BucketedAllreduce(communicator, like, timeline, bucket_bytes=bucket_bytes)
    if kind == "queued":
        return QueuedAllreduce(communicator, like, timeline)
    if kind in OF_MESSAGES:
        return MessagesAllreduce(communicator, like, timeline, kind=kind, levels=levels)
    return MpiAllreduce(communicator, like, timeline)


class QueuedAllreduce:
    """One all-reduce of the whole buffer by the communicator, without a barrier before it.

    On a GPU it is queued behind the backward pass and the host continues at once, so that waiting
    for other ranks cannot be measured.
    """

    measures_wait = False

    def __init__(self, communicator: Communicator, like: Tensor, timeline: Timeline) -> None:
        self.buffer = torch.zeros_like(like)
        self._communicator = communicator
        self._timeline = timeline

    def reduce_(self) -> None:
        self._timeline.lap(OTHER)
        self._sum()

    def free(self) -> None: ...

    def _sum(self) -> None:
        self._communicator.allreduce_sum_(self.buffer)
        self._timeline.lap(COMMUNICATE)


class MpiAllreduce(QueuedAllreduce):
    """One blocking MPI_Allreduce of the whole buffer: its latency is paid once."""

    measures_wait = True

    def reduce_(self) -> None:
        self._timeline.lap(OTHER)
        self._communicator.barrier()
        self._timeline.lap(WAIT)
        self._sum()


class MessagesAllreduce(MpiAllreduce):
    """An all-reduce from plain messages (`algorithms`), after a barrier as that of MPI.

    Tensors of a GPU are copied to pinned memory of the host once, not once a message, where MPI is
    not CUDA-aware.
    """

    def __init__(
        self,
        communicator: Communicator,
        like: Tensor,
        timeline: Timeline,
        *,
        kind: str,
        levels: Levels,
    ) -> None:
        super().__init__(communicator, like, timeline)
        is_staged = like.is_cuda and not communicator.takes_gpu_tensors
        place = torch.device("cpu") if is_staged else like.device
        self._host = (
            torch.empty(like.shape, dtype=like.dtype, pin_memory=True) if is_staged else self.buffer
        )
        self._received = torch.empty_like(like, device=place)
        self._algorithm = _algorithm(kind, communicator, levels)

    def _sum(self) -> None:
        if self._host is not self.buffer:
            self._host.copy_(self.buffer)
        self._algorithm(self._host, self._received)
        if self._host is not self.buffer:
            self.buffer.copy_(self._host)
        self._timeline.lap(COMMUNICATE)


def _algorithm(
    kind: str, communicator: Communicator, levels: Levels
) -> Callable[[Tensor, Tensor], None]:
    """Return what sums a buffer over ranks, with memory for a message (collective)."""
    if kind != TWO_LEVEL:
        return partial(ALGORITHMS[kind], messages=communicator)
    if levels.ranks_per_node:
        ranks = range(communicator.size)
        node = communicator.split([rank // levels.ranks_per_node for rank in ranks])
        firsts = communicator.split([rank % levels.ranks_per_node for rank in ranks])
        leaders = firsts if node.rank == 0 else None
    else:
        node = communicator.node
        leaders = communicator.node_leaders
    return partial(
        two_level,
        node=node,
        leaders=leaders,
        inside=ALGORITHMS[levels.inside],
        between=ALGORITHMS[levels.between],
    )


class SharedAllreduce:
    """An all-reduce through memory that the ranks of a node share, with MPI between nodes.

    Each rank sums its slice of all buffers and writes the sum back to all of them, so that a number
    crosses the memory bus a few times instead of passing through messages. Of several nodes, the
    leaders, one rank of each node, then sum the nodes' results.
    """

    measures_wait = True

    def __init__(self, communicator: Communicator, like: Tensor, timeline: Timeline) -> None:
        node = communicator.node
        self._timeline = timeline
        self._memory = node.allocate_shared(like.numel(), like.dtype)
        self._leaders = communicator.node_leaders
        self._is_one_node = communicator.size == node.size
        self._local = self._memory.buffers[node.rank]
        local_part = part(like.numel(), node.size, node.rank)
        self._slices = [buffer[local_part] for buffer in self._memory.buffers]
        self.buffer = self._local if like.device.type == "cpu" else torch.zeros_like(like)

    def reduce_(self) -> None:
        self._stage(self.buffer, self._local)
        self._timeline.lap(OTHER)
        self._memory.barrier()
        self._timeline.lap(WAIT)
        self._sum_slices()
        if not self._is_one_node:
            self._sum_nodes()
        self._memory.barrier()
        self._stage(self._local, self.buffer)
        self._timeline.lap(COMMUNICATE)

    def free(self) -> None:
        self._slices.clear()
        self._local = self.buffer = torch.empty(0)
        self._memory.free()

    def _sum_slices(self) -> None:
        """Sum in the order of ranks, so that the result does not depend on the slices."""
        total, *addends = self._slices
        for addend in addends:
            total += addend
        for addend in addends:
            addend.copy_(total)

    def _sum_nodes(self) -> None:
        self._memory.barrier()
        if self._leaders is not None:
            self._leaders.allreduce_sum_(self._memory.buffers[0])
        self._memory.barrier()
        if self._leaders is None:
            self._local.copy_(self._memory.buffers[0])

    @staticmethod
    def _stage(source: Tensor, target: Tensor) -> None:
        """Copy between a GPU and the shared memory, in which gradients on a CPU are already."""
        if source is not target:
            target.copy_(source)


class BucketedAllreduce:
    """Non-blocking all-reduces of buckets, the last bucket first, as the backward pass fills them.

    MPI progresses a non-blocking operation only during calls to it, so each new bucket also tests
    the earlier ones. There is no barrier before the exchange: waiting counts as communication.
    """

    measures_wait = False

    def __init__(
        self, communicator: Communicator, like: Tensor, timeline: Timeline, *, bucket_bytes: int
    ) -> None:
        self.buffer = torch.zeros_like(like)
        self._communicator = communicator
        self._timeline = timeline
        self._bucket_elements = max(1, bucket_bytes // like.element_size())
        self._requests: list[Request] = []
        self._filled_from = self._posted_from = like.numel()

    def reduce_(self) -> None:
        self.fill_from(0)
        self._timeline.lap(OTHER)
        for request in self._requests:
            request.wait()
        self._requests.clear()
        self._filled_from = self._posted_from = self.buffer.numel()
        self._timeline.lap(COMMUNICATE)

    def fill_from(self, offset: int) -> None:
        """Mark the buffer complete from this offset to its end; start to sum whole buckets."""
        self._filled_from = offset
        due = self._posted_from - self._bucket_elements
        if offset <= due or (offset == 0 and self._posted_from > 0):
            self._post(offset)

    def free(self) -> None: ...

    def _post(self, offset: int) -> None:
        self._timeline.lap(BACKWARD)
        for request in self._requests:
            request.test()
        self._requests.append(
            self._communicator.start_allreduce_sum_(self.buffer[offset : self._posted_from])
        )
        self._posted_from = offset
        self._timeline.lap(COMMUNICATE)
