"""Tensor parallelism: every rank works on every example with its share of the features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import Batch, Batches, BatchSource, load
from nnpar_lib.trainers.models import networks, sharding
from nnpar_lib.trainers.step.memory import measure
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.step.state import State
from nnpar_lib.trainers.timeline import Timeline


class TensorParallel:
    """Each rank holds and updates a share of each pair of layers, and a copy of the rest."""

    measures_wait: bool = False
    data_size: int = 1
    data_rank: int = 0

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        self._communicator = communicator
        exchange = sharding.Exchange(communicator, timeline)
        self._replica = Replica(config, timeline, sharding.build(config, exchange))
        self.batches: Batches = BatchSource(
            load(config.dataset), config, 1, 0, is_counted=communicator.rank == 0
        )

    def step(self, batch: Batch, step: int) -> Tensor:
        """Train on a global batch; all ranks compute its loss, the first one returns it."""
        loss_sum = self._replica.compute_gradient(batch)
        self._replica.update(step)
        return loss_sum if self._communicator.rank == 0 else torch.zeros_like(loss_sum)

    def synchronise(self) -> None:
        """Make the copies of what is not split equal in every bit (collective)."""
        sharding.align_whole_parameters(self._replica.model, self._communicator)

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits on the first rank (collective)."""
        with networks.evaluating(self._replica.model):
            logits: Tensor = self._replica.model(images)
        return logits if self._communicator.rank == 0 else logits.new_empty(0, networks.NUM_CLASSES)

    def whole_parameters(self) -> Iterator[Tensor]:
        """Yield the parameters, joined from the ranks' shares (collective)."""
        return self.whole_values([parameter.detach() for parameter in self._replica.parameters])

    def whole_values(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the values, joined from the ranks' shares (collective)."""
        return sharding.whole_values(self._replica.model, values, self._communicator)

    def local_values(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """Return this rank's shares."""
        return sharding.local_values(self._replica.model, whole, self._communicator)

    def state(self) -> State:
        """Return this rank's shares and their optimizer's state."""
        return self._replica.state()

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self._replica.restore(state)

    def memory_bytes(self, batch: Batch) -> dict[str, int]:
        """Return the bytes that this rank holds (collective)."""
        return measure(self._replica, lambda: self._replica.compute_gradient(batch))

    def reset(self) -> None:
        """Go back to the initial weights."""
        self._replica.reset()

    def close(self) -> None: ...
