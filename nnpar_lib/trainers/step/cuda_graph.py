"""Steps that a GPU records once and replays, on tensors that keep their place in memory.

A step has three parts: a batch is loaded, its gradient computed, the weights updated. Each is
recorded separately, so that ranks may exchange gradients between the last two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
from nnpar_lib.trainers.step.optimizer import build_optimizer, set_learning_rate
from nnpar_lib.trainers.step.recording import Recorded, Work, state_tensors
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.timeline import BACKWARD, UPDATE, Timeline


class CudaRecorder:
    """Records work as a CUDA graph, whose replay is one launch instead of one for each kernel.

    Rehearsals run in the stream of the record, where libraries initialise themselves for it
    (PyTorch's notes on CUDA graphs). Work must not wait for the GPU, and must leave its results in
    tensors that exist already.
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
        graph.replay()
        return graph.replay


@dataclass(frozen=True, slots=True)
class StaticBatch(Batch):
    """A batch whose tensors keep their place in memory and are refilled for every step."""


class RecordedBatches:
    """Batches in tensors that keep their place; a short batch at the end of an epoch is a plain
    one."""

    def __init__(self, config: RunConfig, size: int, rank: int) -> None:
        self._source = BatchSource(load(config.dataset), config, size, rank)
        self._local_part = part(config.global_batch_size, size, rank)
        start, stop, _ = self._local_part.indices(config.global_batch_size)
        self._indices = torch.arange(start, stop, device=config.device)
        self._batch = StaticBatch(
            self._images(),
            self._source.dataset.train_labels.index_select(0, self._indices),
            config.global_batch_size,
        )
        self._fill = Recorded(CudaRecorder(), self._load, lambda: ())

    def batch(self, step: int) -> Batch:
        """Return this rank's part of the global batch of a step; the next call overwrites it."""
        indices = self._source.order.indices(step)
        if len(indices) < self._batch.num_global_examples:
            return self._source.batch(step)
        self._indices.copy_(indices[self._local_part])
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

    Forward and backward pass are one record, booked as backward. A learning rate that changes is a
    float32 tensor on the device, where the record reads it.
    """

    def __init__(self, config: RunConfig, timeline: Timeline) -> None:
        super().__init__(config, timeline)
        self._batch: Batch | None = None
        self._loss_sum = torch.zeros((), dtype=self.weights.dtype, device=self.weights.device)
        self._differentiate_static = Recorded(
            CudaRecorder(), self._compute_static, self._tensors_of_gradient
        )
        self._take_step = Recorded(CudaRecorder(), self._step_optimizer, self._tensors_of_update)

    def compute_gradient(self, batch: Batch) -> Tensor:
        """Write this rank's addend of the mean gradient to the flat buffer; return its sum of
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
        """Set momenta and other optimizer state to zero in place, as in a fresh optimizer."""
        optimizer = getattr(self, "optimizer", None)
        if optimizer is None or optimizer.param_groups[0]["params"][0] is not self.weights:
            self.optimizer = build_optimizer([self.weights], self._config, in_graph=True)
            return
        for tensor in state_tensors(optimizer):
            tensor.zero_()

    def _compute_static(self) -> None:
        assert self._batch is not None
        self._loss_sum.copy_(super().compute_gradient(self._batch))

    def _step_optimizer(self) -> None:
        self.optimizer.step()  # looked up at each call: a restored replica has a new optimizer

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
        yield from (self.weights, self.weights.grad, *state_tensors(self.optimizer))
        yield from (
            group["lr"] for group in self.optimizer.param_groups if isinstance(group["lr"], Tensor)
        )
