"""Local SGD: each rank trains a copy on its part of the data; the copies are averaged
periodically."""

from __future__ import annotations

import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication import allreduce
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.data.batches import Batch, Batches, batch_source, load
from nnpar_lib.trainers.models import batch_norm
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.step.state import State
from nnpar_lib.trainers.strategies.base import WholeModel
from nnpar_lib.trainers.timeline import Timeline


class WeightAveraging(WholeModel):
    """Average the weights every `average_every` steps, or every epoch, weighted by examples seen.

    Momenta stay with their rank. Ranks take the same parts of the same global batches as with
    gradient averaging; with plain SGD and an average after each step the two are the same algorithm
    (McMahan et al. 2017, federated averaging).
    """

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        super().__init__(communicator)
        self._replica: Replica = Replica(config, timeline)
        self.model = self._replica.model
        data = load(config.dataset)
        self.batches: Batches = batch_source(
            data, config, size=communicator.size, rank=communicator.rank
        )
        self._communicator = communicator
        self._interval = config.average_every or config.num_steps_per_epoch
        self._allreduce = allreduce.build(
            config.allreduce,
            communicator,
            self._replica.weights.detach(),
            timeline,
            bucket_bytes=config.bucket_kib * 1024,
            levels=allreduce.Levels.of(config),
        )
        self.measures_wait = self._allreduce.measures_wait
        self._forget_steps()

    def step(self, batch: Batch, step: int) -> Tensor:
        # the gradient of the mean over this rank's examples
        local = Batch(batch.images, batch.labels, max(1, len(batch.labels)))
        loss_sum = self._replica.compute_gradient(local)
        if len(batch.labels):
            self._replica.update(step)
        self._num_steps += 1
        self._num_local_examples += len(batch.labels)
        self._num_global_examples += batch.num_global_examples
        if (step + 1) % self._interval == 0:
            self.synchronise()
        return loss_sum

    @torch.no_grad()
    def synchronise(self) -> None:
        if not self._num_steps:
            return
        share = self._num_local_examples / self._num_global_examples
        torch.mul(self._replica.weights, share, out=self._allreduce.buffer)
        self._allreduce.reduce_()
        self._replica.weights.copy_(self._allreduce.buffer)
        batch_norm.average_running_(self.model, self._communicator)
        self._forget_steps()

    def state(self) -> State:
        state = super().state()
        state.counters = {
            "num_steps": self._num_steps,
            "num_local_examples": self._num_local_examples,
            "num_global_examples": self._num_global_examples,
        }
        return state

    def restore(self, state: State) -> None:
        super().restore(state)
        self._num_steps = state.counters.get("num_steps", 0)
        self._num_local_examples = state.counters.get("num_local_examples", 0)
        self._num_global_examples = state.counters.get("num_global_examples", 0)

    def reset(self) -> None:
        self._replica.reset()
        self._forget_steps()

    def close(self) -> None:
        self._allreduce.free()

    def _forget_steps(self) -> None:
        self._num_steps = self._num_local_examples = self._num_global_examples = 0
