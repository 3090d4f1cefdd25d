"""Flat buffers of which each rank holds a part: gathered from all ranks, and summed into parts.

A model whose ranks divide weights, gradients and optimizer state (Rajbhandari et al. 2020, ZeRO) is
a list of such buffers, one for each block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from nnpar_lib.parts import part, slot_sizes
from nnpar_lib.trainers.communication.communicator import Communicator, Done, Request


class Shards(Protocol):
    """The weights and gradients of a list of buffers, divided over the ranks of `group`.

    - `weights` are this rank's parts.
    - `wholes` is where the whole weights of each buffer are after a gather. Buffers that share a
      slot overwrite each other.
    - `addends` is where a rank writes its whole addend of each gradient; they share slots, too.
    - `num_slots` and `num_addend_slots` are the numbers of those slots.
    """

    group: Communicator
    weights: list[Tensor]
    wholes: list[Tensor]
    addends: list[Tensor]
    num_slots: int
    num_addend_slots: int

    def start_gather_(self, index: int) -> Request:
        """Begin to fill a buffer's whole weights from the parts of all ranks (collective)."""

    def start_reduce_(self, index: int) -> Request:
        """Begin to sum a buffer's addends over ranks (collective)."""

    def reduced(self, index: int) -> Tensor:
        """Return this rank's part of the sum, until the slot of its addend is written again."""

    def publish(self) -> None:
        """Let all ranks see the weights that each has written (collective)."""

    def free(self) -> None:
        """Give the memory back (collective)."""


def build(
    kind: str,
    communicator: Communicator,
    sizes: Sequence[int],
    like: Tensor,
    *,
    are_whole: bool,
    is_overlapped: bool,
) -> Shards:
    """Return zeroed shards for buffers of these sizes, of the type and device of `like`
    (collective).

    Weights stay whole on every rank where `are_whole` says so; else they are parts, and pass
    through one slot, or through two where one buffer is gathered while another is used
    (`is_overlapped`).
    """
    if kind == "shared":
        return SharedShards(communicator, sizes, like, are_whole=are_whole)
    return MpiShards(
        communicator, sizes, like, are_whole=are_whole, num_slots=1 + int(is_overlapped)
    )


def owners(kind: str, communicator: Communicator) -> Communicator:
    """Return the ranks that divide the buffers: all, or those of a node, which share its memory.

    Nodes then hold copies.
    """
    return communicator.node if kind == "shared" else communicator


class MpiShards:
    """Shards over messages: an all-gather for weights, a reduce-scatter for gradients.

    MPI progresses a non-blocking operation only during calls to it.
    """

    def __init__(
        self,
        communicator: Communicator,
        sizes: Sequence[int],
        like: Tensor,
        *,
        are_whole: bool,
        num_slots: int,
    ) -> None:
        self.group = communicator
        self._counts = [_counts(size, communicator.size) for size in sizes]
        self._local_parts = [part(size, communicator.size, communicator.rank) for size in sizes]
        self._are_whole = are_whole
        self.num_slots = len(sizes) if are_whole else num_slots
        self.num_addend_slots = num_slots
        self.wholes = _in_slots(sizes, self.num_slots, like.new_zeros)
        self.addends = _in_slots(sizes, num_slots, like.new_zeros)
        self.weights = [
            whole[local] if are_whole else like.new_zeros(local.stop - local.start)
            for whole, local in zip(self.wholes, self._local_parts, strict=True)
        ]

    def start_gather_(self, index: int) -> Request:
        whole = self.wholes[index]
        if not self._are_whole:
            whole[self._local_parts[index]].copy_(self.weights[index])
        return self.group.start_allgather_(whole, self._counts[index])

    def start_reduce_(self, index: int) -> Request:
        return self.group.start_reduce_scatter_sum_(self.addends[index], self._counts[index])

    def reduced(self, index: int) -> Tensor:
        return self.addends[index][: len(self.weights[index])]

    def publish(self) -> None: ...

    def free(self) -> None:
        self.weights = self.wholes = self.addends = []


class SharedShards:
    """Shards in memory that the ranks of a node share: nothing is sent, ranks wait at barriers.

    Whole weights exist once a node; parts are copied from the memory of their ranks. The addends of
    a gradient are summed where they are. They alternate between two slots, so that a rank may fill
    one while another still sums the other: a barrier a buffer is enough. Several nodes hold copies
    of the weights, and their leaders sum the nodes' gradients.
    """

    def __init__(
        self, communicator: Communicator, sizes: Sequence[int], like: Tensor, *, are_whole: bool
    ) -> None:
        node = communicator.node
        self.group = node
        self._is_one_node = communicator.size == node.size
        self._leaders = communicator.node_leaders
        self._parts = [[part(size, node.size, rank) for rank in range(node.size)] for size in sizes]
        self._local_parts = [parts[node.rank] for parts in self._parts]
        self._are_whole = are_whole
        self._place_weights(sizes, like)
        self.num_addend_slots = min(2, len(sizes))
        lengths = slot_sizes(sizes, self.num_addend_slots)
        self._memory = node.allocate_shared(sum(lengths), like.dtype)
        slots = [buffer.split(lengths) for buffer in self._memory.buffers]
        self._addends = [
            [of_rank[index % self.num_addend_slots][:size] for of_rank in slots]
            for index, size in enumerate(sizes)
        ]
        self.addends = [of_ranks[node.rank] for of_ranks in self._addends]

    def _place_weights(self, sizes: Sequence[int], like: Tensor) -> None:
        node = self.group
        if self._are_whole:
            num_elements = sum(sizes) if node.rank == 0 else 0
            self._window = node.allocate_shared(num_elements, like.dtype)
            self.num_slots = len(sizes)
            self.wholes = list(self._window.buffers[0].split(list(sizes)))
            self.weights = _taken(self.wholes, self._local_parts)
            return
        lengths = [[_length(parts[rank]) for parts in self._parts] for rank in range(node.size)]
        self._window = node.allocate_shared(sum(lengths[node.rank]), like.dtype)
        buffers = self._window.buffers
        self._shards = [list(buffers[rank].split(lengths[rank])) for rank in range(node.size)]
        self.weights = self._shards[node.rank]
        self.num_slots = 1
        self.wholes = _in_slots(sizes, 1, like.new_zeros)

    def start_gather_(self, index: int) -> Request:
        if not self._are_whole:
            for rank, rank_part in enumerate(self._parts[index]):
                self.wholes[index][rank_part].copy_(self._shards[rank][index])
        return Done()

    def start_reduce_(self, index: int) -> Request:
        self._memory.barrier()
        total, *addends = [addend[self._local_parts[index]] for addend in self._addends[index]]
        for addend in addends:  # in the order of ranks, so that every part sums alike
            total += addend
        if not self._is_one_node:
            self._sum_nodes(index)
        return Done()

    def reduced(self, index: int) -> Tensor:
        total: Tensor = self._addends[index][0]
        return total[self._local_parts[index]]

    def publish(self) -> None:
        self._window.barrier()

    def free(self) -> None:
        self.weights = self.wholes = self.addends = []
        self._shards = []
        self._addends = []
        self._window.free()
        self._memory.free()

    def _sum_nodes(self, index: int) -> None:
        self._memory.barrier()
        if self._leaders is not None:
            self._leaders.allreduce_sum_(self._addends[index][0])
        self._memory.barrier()


def _counts(size: int, num_ranks: int) -> list[int]:
    return [_length(part(size, num_ranks, rank)) for rank in range(num_ranks)]


def _length(items: slice) -> int:
    length: int = items.stop - items.start
    return length


def _taken(buffers: Sequence[Tensor], slices: Sequence[slice]) -> list[Tensor]:
    return [buffer[items] for buffer, items in zip(buffers, slices, strict=True)]


def _in_slots(
    sizes: Sequence[int], num_slots: int, allocate: Callable[[int], Tensor]
) -> list[Tensor]:
    """Return a place for each buffer; the buffers take turns on so many slots."""
    slots = [allocate(size) for size in slot_sizes(sizes, num_slots)]
    return [slots[index % num_slots][:size] for index, size in enumerate(sizes)]
