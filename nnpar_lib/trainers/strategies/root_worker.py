"""A root averages the weights of workers, as a first attempt might; kept to measure what it
costs."""

from __future__ import annotations

import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import Batch, Batches, batch_source, load
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step.optimizer import build_optimizer, set_learning_rate
from nnpar_lib.trainers.step.state import State
from nnpar_lib.trainers.strategies.base import WholeModel
from nnpar_lib.trainers.timeline import BACKWARD, COMMUNICATE, FORWARD, OTHER, UPDATE, Timeline


class RootWorker(WholeModel):
    """Workers train for an epoch and send their pickled weights to a root, which returns the mean.

    Without `shard_data` each worker goes through the whole training set in an order of its rank,
    and the root does not train. With `shard_data` the root trains too, and each rank takes its part
    of every global batch. Every rank starts a new optimizer after each exchange.
    """

    measures_wait: bool = False

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        super().__init__(communicator)
        self._config = config
        self._communicator = communicator
        self._timeline = timeline
        self._trains = config.shard_data or communicator.rank > 0
        self.batches = _batches(config, communicator)
        self.reset()

    def step(self, batch: Batch, step: int) -> Tensor:
        self._num_steps += 1
        has_examples = self._trains and len(batch.labels)
        loss_sum = self._train(batch, step) if has_examples else torch.zeros(())
        if (step + 1) % self._config.num_steps_per_epoch == 0:
            self.synchronise()
        return loss_sum

    def synchronise(self) -> None:
        if not self._num_steps:
            return
        self._timeline.lap(OTHER)
        state = self.model.state_dict() if self._trains else None
        states = self._communicator.gather_objects(state)
        mean = None if states is None else _mean([state for state in states if state is not None])
        self.model.load_state_dict(self._communicator.broadcast_object(mean))
        self._timeline.lap(COMMUNICATE)
        self._renew()

    def state(self) -> State:
        state = super().state()
        state.counters = {"num_steps": self._num_steps}
        return state

    def restore(self, state: State) -> None:
        super().restore(state)
        self._num_steps = state.counters.get("num_steps", 0)

    def reset(self) -> None:
        self.model = networks.build(self._config).to(self._config.device)
        self._renew()

    def close(self) -> None: ...

    def _train(self, batch: Batch, step: int) -> Tensor:
        set_learning_rate(self._optimizer, self._config, step)
        self._optimizer.zero_grad()
        loss: Tensor = torch.nn.functional.cross_entropy(self.model(batch.images), batch.labels)
        self._timeline.lap(FORWARD)
        loss.backward()
        self._timeline.lap(BACKWARD)
        self._optimizer.step()
        self._timeline.lap(UPDATE)
        return loss.detach() * len(batch.labels)

    def _renew(self) -> None:
        self._optimizer = build_optimizer(self.model.parameters(), self._config, fused=None)
        self._num_steps = 0


class NoBatches:
    """The batches of a root that does not train."""

    def batch(self, step: int) -> Batch:
        """Return an empty batch."""
        return Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), 0)


def _batches(config: RunConfig, communicator: Communicator) -> Batches:
    if config.shard_data:
        return batch_source(
            load(config.dataset), config, size=communicator.size, rank=communicator.rank
        )
    if communicator.rank == 0:
        return NoBatches()
    return batch_source(
        load(config.dataset), config, size=1, rank=0, seed=config.seed + communicator.rank
    )


def _mean(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}
