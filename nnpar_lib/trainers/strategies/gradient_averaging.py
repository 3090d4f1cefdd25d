"""Synchronous data parallelism: every rank takes the same step with the gradient of the global
batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn

from nnpar_lib.config import RunConfig
from nnpar_lib.config.spread import BACKEND_DEVICES
from nnpar_lib.trainers.communication import allreduce
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.torch_distributed import (
    leave_process_group,
    summing_as_configured,
)
from nnpar_lib.trainers.data.batches import Batch, Batches
from nnpar_lib.trainers.models import batch_norm
from nnpar_lib.trainers.models.synchronisation import synchronise
from nnpar_lib.trainers.step.build import build_batches, build_replica
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.step.shared_update import SharedUpdate
from nnpar_lib.trainers.step.state import State
from nnpar_lib.trainers.strategies.base import WholeModel
from nnpar_lib.trainers.timeline import BACKWARD, Timeline


class GradientAveraging(WholeModel):
    """Each rank computes its addend of the global batch's gradient; ranks sum the addends.

    The update is that of a serial run with the whole batch, up to the rounding of the summation
    order, for any number of ranks and for uneven parts.
    """

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        super().__init__(communicator)
        self._replica: Replica = build_replica(config, timeline)
        self.model = self._replica.model
        communicator = summing_as_configured(communicator, config)
        self._communicator = communicator
        self._statistics = synchronise(self.model, config, communicator, timeline)
        self.batches: Batches = build_batches(config, communicator.size, communicator.rank)
        self._compute_gradient: Callable[[Batch], Tensor] = self._replica.compute_gradient
        self._apply: SharedUpdate | _ReducedUpdate
        kind = "queued" if config.allreduce in BACKEND_DEVICES else config.allreduce
        if kind == "shared" and config.device == "cpu":
            self._apply = SharedUpdate(communicator, self._replica, timeline)
        else:
            reducer = allreduce.build(
                kind,
                communicator,
                self._replica.weights.detach(),
                timeline,
                bucket_bytes=config.bucket_kib * 1024,
                levels=allreduce.Levels.of(config),
            )
            self._apply = _ReducedUpdate(self._replica, reducer)
            if isinstance(reducer, allreduce.BucketedAllreduce):
                self._compute_gradient = _OverlappedBackward(self._replica, reducer, timeline)
        self.measures_wait = self._apply.measures_wait

    def step(self, batch: Batch, step: int) -> Tensor:
        loss_sum = self._compute_gradient(batch)
        self._apply(step)
        return loss_sum

    def synchronise(self) -> None:
        batch_norm.average_running_(self.model, self._communicator)

    def state(self) -> State:
        return self._replica.state(self._apply.join)

    def restore(self, state: State) -> None:
        self._apply.restore(state)

    def reset(self) -> None:
        self._replica.reset()

    def close(self) -> None:
        self._apply.free()
        self._statistics.free()
        leave_process_group()


class _ReducedUpdate:
    """An all-reduce of the gradient, and the same update on every rank."""

    def __init__(self, replica: Replica, reducer: allreduce.Allreduce) -> None:
        self._replica = replica
        self._reducer = reducer
        self.measures_wait = reducer.measures_wait
        replica.use_gradient(reducer.buffer)

    def __call__(self, step: int) -> None:
        self._reducer.reduce_()
        self._replica.update(step)

    def join(self, local: Tensor) -> Tensor:
        return local

    def restore(self, state: State) -> None:
        self._replica.restore(state)

    def free(self) -> None:
        self._replica.unshare_weights()
        self._reducer.free()


class _OverlappedBackward:
    """A backward pass that hands each gradient to the all-reduce as soon as it is computed.

    Gradients appear from the last layer to the first, so the flat buffer fills from its end.
    """

    def __init__(
        self, replica: Replica, buckets: allreduce.BucketedAllreduce, timeline: Timeline
    ) -> None:
        self._replica = replica
        self._buckets = buckets
        self._timeline = timeline
        self._ends = list(accumulate(parameter.numel() for parameter in replica.parameters))
        self._missing: set[int] = set()
        for index, parameter in enumerate(replica.parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._take, index))

    def __call__(self, batch: Batch) -> Tensor:
        self._missing = set(range(len(self._ends)))
        loss_sum = self._replica.loss_sum(batch)
        loss_sum.backward(torch.full_like(loss_sum, 1 / batch.num_global_examples))
        self._timeline.lap(BACKWARD)
        return loss_sum.detach()

    def _take(self, index: int, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        self._replica.view_of_gradient(index).copy_(parameter.grad)
        # the next backward pass then sets its tensor here instead of adding to this one
        parameter.grad = None
        self._missing.discard(index)
        self._buckets.fill_from(self._ends[max(self._missing)] if self._missing else 0)
