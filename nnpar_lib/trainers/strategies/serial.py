"""One process, whose threads of linear algebra are the shared-memory baseline."""

from __future__ import annotations

from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import Batch, Batches
from nnpar_lib.trainers.step.build import build_batches, build_replica
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.strategies.base import WholeModel
from nnpar_lib.trainers.timeline import Timeline


class Serial(WholeModel):
    """Take the whole global batch on one rank."""

    measures_wait: bool = True

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        super().__init__(communicator)
        self._replica: Replica = build_replica(config, timeline)
        self.model = self._replica.model
        self.batches: Batches = build_batches(config, 1, 0)

    def step(self, batch: Batch, step: int) -> Tensor:
        loss_sum = self._replica.compute_gradient(batch)
        self._replica.update(step)
        return loss_sum

    def synchronise(self) -> None: ...

    def reset(self) -> None:
        self._replica.reset()

    def close(self) -> None: ...
