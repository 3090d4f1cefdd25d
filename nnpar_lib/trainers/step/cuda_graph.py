"""Steps that a GPU records once and replays, on tensors that keep their place in memory.

A step falls into parts: a batch is loaded, its gradient computed, the weights updated. Each is
recorded by itself, so that ranks may exchange gradients between the last two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.parts import part
from nnpar_lib.trainers.data.batches import (
    Batch,
    BatchSource,
    load,
    normalise,
)
from nnpar_lib.trainers.step.optimizer import set_learning_rate
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.timeline import BACKWARD, UPDATE, Timeline

NUM_REHEARSALS = 3
Work = Callable[[], object]


class Recorder(Protocol):
    """Does work as it is, and records it."""

    def rehearse(self, work: Work) -> None:
        """Do the work where it will be recorded."""

    def record(self, work: Work) -> Work:
        """Return what does the same work on the same tensors, which is not done meanwhile."""


class CudaRecorder:
    """Records work as a CUDA graph, whose replay is one launch instead of one a kernel.

    Rehearsals run in the stream of the record, where libraries set themselves up for it (PyTorch's
    notes on CUDA graphs). Work must not wait for the GPU, and leaves its results in tensors that
    were there before.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def rehearse(self, work: Work) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay


class PlainRecorder:
    """Where there is nothing to record with, a replay does the work."""

    def rehearse(self, work: Work) -> None:
        work()

    def record(self, work: Work) -> Work:
        return work


class Recorded:
    """Work that is done as it is a few times, then recorded, and replayed from then on.

    A record reads and writes fixed addresses. Where one of the tensors that `tensors` names has
    moved, as a restored optimizer's do, the work is rehearsed and recorded anew.
    """

    def __init__(
        self, recorder: Recorder, work: Work, tensors: Callable[[], Iterable[Tensor]]
    ) -> None:
        self._recorder, self._work, self._tensors = recorder, work, tensors
        self._addresses: list[int] = []
        self._num_rehearsals = 0
        self._replay: Work | None = None

    def __call__(self) -> None:
        """Do the work."""
        addresses = [tensor.data_ptr() for tensor in self._tensors()]
        if addresses != self._addresses:
            self._addresses, self._num_rehearsals, self._replay = addresses, 0, None
        if self._replay is None and self._num_rehearsals < NUM_REHEARSALS:
            self._num_rehearsals += 1
            self._recorder.rehearse(self._work)
            return
        if self._replay is None:
            self._replay = self._recorder.record(self._work)
        self._replay()


@dataclass(frozen=True, slots=True)
class StaticBatch(Batch):
    """A batch whose tensors keep their place and are filled anew for every step."""


class RecordedBatches:
    """Batches in tensors that keep their place; a short one, at the end of an epoch, has tensors of
    its own."""

    def __init__(self, config: RunConfig, size: int, rank: int) -> None:
        self._source = BatchSource(load(config.dataset), config, size, rank)
        self._own, dataset = part(config.global_batch_size, size, rank), self._source.dataset
        self._indices = torch.arange(self._own.start, self._own.stop, device=config.device)
        self._batch = StaticBatch(
            self._images(),
            dataset.train_labels.index_select(0, self._indices),
            config.global_batch_size,
        )
        self._fill = Recorded(recorder(config), self._load, lambda: ())

    def batch(self, step: int) -> Batch:
        """Return this rank's part of the global batch of a step; it stays as it is until the next
        one is asked for."""
        indices = self._source.order.indices(step)
        if len(indices) < self._batch.num_global_examples:
            return self._source.batch(step)
        self._indices.copy_(indices[self._own])
        self._fill()
        return self._batch

    def _load(self) -> None:
        self._batch.images.copy_(self._images())
        torch.index_select(
            self._source.dataset.train_labels, 0, self._indices, out=self._batch.labels
        )

    def _images(self) -> Tensor:
        dataset = self._source.dataset
        return normalise(
            dataset.train_images.index_select(0, self._indices), dataset, self._source.dtype
        )


class RecordedReplica(Replica):
    """A replica whose gradient of a static batch, and whose update, are recorded.

    Inside a record forward and backward pass cannot be told apart: both are booked as backward. A
    learning rate that changes lies on the device in float32, where the record reads it.
    """

    def __init__(self, config: RunConfig, timeline: Timeline) -> None:
        super().__init__(config, timeline)
        self._batch: Batch | None = None
        self._loss_sum = torch.zeros((), dtype=self.weights.dtype, device=self.weights.device)
        self._differentiate_static = Recorded(
            recorder(config), self._compute_static, self._tensors_of_gradient
        )
        self._take_step = Recorded(recorder(config), self._step_optimizer, self._tensors_of_update)

    def compute_gradient(self, batch: Batch) -> Tensor:
        """Write this rank's addend of the mean gradient to the flat buffer; return the sum of its
        losses."""
        if not isinstance(batch, StaticBatch):
            return super().compute_gradient(batch)
        self._batch = batch
        self._differentiate_static()
        self._timeline.lap(BACKWARD)
        return self._loss_sum.clone()  # the next replay overwrites it

    def update(self, step: int) -> None:
        """Take an optimizer step with the gradient buffer as it is."""
        set_learning_rate(self.optimizer, self._config, step)
        self._take_step()
        self._timeline.lap(UPDATE)

    def renew_optimizer(self) -> None:
        """Forget momenta and other optimizer state, in place: zeros are what a fresh optimizer
        starts from."""
        optimizer = getattr(self, "optimizer", None)
        if optimizer is None or optimizer.param_groups[0]["params"][0] is not self.weights:
            super().renew_optimizer()
            return
        for tensor in _state_tensors(optimizer):
            tensor.zero_()

    def _compute_static(self) -> None:
        assert self._batch is not None
        self._loss_sum.copy_(super().compute_gradient(self._batch))

    def _step_optimizer(self) -> None:
        self.optimizer.step()  # whichever it is by then

    def _tensors_of_gradient(self) -> Iterable[Tensor]:
        assert self._batch is not None
        yield from (
            self._batch.images,
            self._batch.labels,
            self.parameters[0],
            self.view_of_gradient(0),
        )

    def _tensors_of_update(self) -> Iterable[Tensor]:
        assert self.weights.grad is not None
        yield from (self.weights, self.weights.grad, *_state_tensors(self.optimizer))
        yield from (
            group["lr"] for group in self.optimizer.param_groups if isinstance(group["lr"], Tensor)
        )


def recorder(config: RunConfig) -> Recorder:
    """Return what records on the device of a config."""
    return CudaRecorder() if config.device == "cuda" else PlainRecorder()


def _state_tensors(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    return (
        value
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    )
