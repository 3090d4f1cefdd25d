"""Gradient averaging inside a node without messages: its ranks share the memory of gradients and
weights.

Each rank sums its slice of all gradients and takes the optimizer's step on its slice of the
weights; all ranks read the same weights. No sum is written back, and the ranks divide the update
and the optimizer's state, as in stage 1 of ZeRO (Rajbhandari et al. 2020). The numbers are those of
an all-reduce followed by a whole update on every rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnpar_lib.parts import part
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.step.state import State
from nnpar_lib.trainers.timeline import COMMUNICATE, OTHER, WAIT, Timeline


class SharedUpdate:
    """The exchange and the update of a step: shared memory in a node, MPI between node leaders."""

    measures_wait = True

    def __init__(self, communicator: Communicator, replica: Replica, timeline: Timeline) -> None:
        """Move the replica's weights and gradient into shared memory (collective)."""
        node = communicator.node
        weights = replica.weights.detach()
        self._node = node
        self._replica = replica
        self._timeline = timeline
        self._is_one_node = communicator.size == node.size
        self._leaders = communicator.node_leaders
        self._gradients = node.allocate_shared(weights.numel(), weights.dtype)
        self._weights = node.allocate_shared(
            weights.numel() if node.rank == 0 else 0, weights.dtype
        )
        local_part = part(weights.numel(), node.size, node.rank)
        self._slices = [buffer[local_part] for buffer in self._gradients.buffers]
        replica.use_gradient(self._gradients.buffers[node.rank])
        replica.share_weights(self._weights.buffers[0], local_part, gradient=self._slices[0])
        self._weights.barrier()

    def __call__(self, step: int) -> None:
        """Sum the ranks' gradients and take the optimizer's step with the sum (collective)."""
        self._timeline.lap(OTHER)
        self._gradients.barrier()
        self._timeline.lap(WAIT)
        total, *addends = self._slices
        for addend in addends:  # in the order of ranks, so that every rank's slice sums alike
            total += addend
        if not self._is_one_node:
            self._sum_nodes()
        self._timeline.lap(COMMUNICATE)
        self._replica.update(step)
        self._weights.barrier()
        self._timeline.lap(COMMUNICATE)

    def join(self, local_slice: Tensor) -> Tensor:
        """Return the slices of a node's ranks as one flat tensor (collective)."""
        return torch.cat(self._node.allgather_objects(local_slice))

    def restore(self, state: State) -> None:
        """Go on from a state (collective)."""
        self._weights.barrier()  # no rank may still read what another overwrites
        self._replica.restore(state)
        self._weights.barrier()

    def free(self) -> None:
        """Give the memory back, after the replica has moved its weights to private memory
        (collective)."""
        self._replica.unshare_weights()
        self._slices.clear()
        self._gradients.free()
        self._weights.free()

    def _sum_nodes(self) -> None:
        self._gradients.barrier()
        if self._leaders is not None:
            self._leaders.allreduce_sum_(self._gradients.buffers[0])
        self._gradients.barrier()
