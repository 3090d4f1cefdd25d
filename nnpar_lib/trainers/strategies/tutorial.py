"""The loop that tutorials show: the baseline of a first script."""

from __future__ import annotations

from torch import Tensor, nn

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import Batch, Batches, batch_source, load
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step.optimizer import build_optimizer, set_learning_rate
from nnpar_lib.trainers.strategies.base import WholeModel
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD, UPDATE, Timeline


class Tutorial(WholeModel):
    """One process, torch's DataLoader with ToTensor and Normalize, torch's default optimizer."""

    measures_wait: bool = True

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        super().__init__(communicator)
        self._config = config
        self._timeline = timeline
        data = load(config.dataset)
        self.batches: Batches = batch_source(
            data, config.replace(data_loading="loader"), size=1, rank=0
        )
        self._loss = nn.CrossEntropyLoss()
        self.reset()

    def step(self, batch: Batch, step: int) -> Tensor:
        set_learning_rate(self._optimizer, self._config, step)
        self._optimizer.zero_grad()
        loss: Tensor = self._loss(self.model(batch.images), batch.labels)
        self._timeline.lap(FORWARD)
        loss.backward()
        self._timeline.lap(BACKWARD)
        self._optimizer.step()
        self._timeline.lap(UPDATE)
        return loss.detach() * len(batch.labels)

    def synchronise(self) -> None: ...

    def reset(self) -> None:
        self.model = networks.build(self._config).to(self._config.device)
        self._optimizer = build_optimizer(self.model.parameters(), self._config, fused=None)

    def close(self) -> None: ...
