"""torch.distributed.pipelining with the same stages, as the alternative to compare with."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.torch_distributed import join_process_group
from nnpar_lib.trainers.data.batches import Batch
from nnpar_lib.trainers.strategies.pipeline import Pipeline
from nnpar_lib.trainers.timeline import FORWARD, Timeline


class TorchPipelining(Pipeline):
    """The stages of `Pipeline`, run by torch's schedules over gloo, or nccl on GPUs.

    Its forward passes, backward passes and messages are not visible; all are booked as forward.
    """

    measures_wait: bool = False

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        super().__init__(config, communicator, timeline)
        join_process_group(communicator, "nccl" if config.device == "cuda" else "gloo")
        self._schedule: Any = None

    def _compute_gradient(self, batch: Batch) -> None:
        if self._schedule is None:
            saved = [(buffer, buffer.clone()) for buffer in self._replica.model.buffers()]
            self._build_schedule()
            self._run_schedule(batch)  # learns the shapes; its running statistics are undone
            for buffer, value in saved:
                buffer.copy_(value)
        self._run_schedule(batch)

    def _run_schedule(self, batch: Batch) -> None:
        for parameter, view in self._parameter_views:
            parameter.grad = view
        self._gradient.zero_()
        losses: list[Tensor] = []
        arguments = (batch.images,) if 0 in self._local_stages else ()
        targets = {"target": batch.labels, "losses": losses} if self._has_last else {}
        self._num_global_examples = batch.num_global_examples
        self._schedule.step(*arguments, **targets)
        if losses:
            mean_parts = torch.stack([loss.detach() for loss in losses])
            self._loss_sum = mean_parts.sum() * batch.num_global_examples
        else:
            self._loss_sum = torch.zeros((), device=self._config.device)
        self._timeline.lap(FORWARD)

    def _build_schedule(self) -> None:
        """Build torch's stages; they learn the shapes of micro-batches in their first step."""
        from torch.distributed import pipelining  # takes a second

        num_stages = self._pipeline.num_stages
        device = torch.device(self._config.device)
        stages = [
            pipelining.PipelineStage(_Travelling(module), stage, num_stages, device)
            for stage, module in self._modules.items()
        ]
        kinds = {
            "gpipe": pipelining.ScheduleGPipe,
            "1f1b": pipelining.Schedule1F1B,
            "interleaved": pipelining.ScheduleInterleaved1F1B,
            "zero_bubble": pipelining.ScheduleInterleavedZeroBubble,
        }
        takes_several = self._config.schedule in ("interleaved", "zero_bubble")
        local_stages: Any = stages if takes_several else stages[0]
        kind: Any = kinds[self._config.schedule]
        self._schedule = kind(
            local_stages, self._pipeline.num_microbatches, loss_fn=self._loss, scale_grads=False
        )
        self._parameter_views = [
            (parameter, self._replica.view_of_gradient(index))
            for index, parameter in enumerate(self._replica.parameters)
        ]

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target, reduction="sum") / self._num_global_examples

    def close(self) -> None:
        """Leave torch's process group."""
        dist.destroy_process_group()


class _Travelling(nn.Module):
    """A stage whose outputs, and whose gradients of inputs, lie as torch's messages need them.

    With memory_format='channels_last' they lie otherwise.
    """

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self._stage = stage

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.requires_grad:
            inputs = _ContiguousGradient.apply(inputs)  # type: ignore[no-untyped-call]
        output: Tensor = self._stage(inputs)
        return output.contiguous()


class _ContiguousGradient(torch.autograd.Function):
    """Identity in the forward pass; the gradient is made contiguous."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, inputs: Tensor) -> Tensor:
        return inputs.view_as(inputs)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient.contiguous()
