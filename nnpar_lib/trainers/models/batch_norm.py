"""Batch normalisation with statistics of one rank's examples, or of the examples of all ranks.

Statistics are taken over the examples that pass the layer together: a micro-batch, where batches
are cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD


class Sums(Protocol):
    """Sums tensors over ranks, and books the time."""

    def sum(self, tensor: Tensor, activity: str) -> Tensor:
        """Return the sum over ranks; the time before it belongs to `activity` (collective)."""


class BatchNorm(nn.BatchNorm2d):
    """torch's layer; with `exchange` set, training normalises over the examples of all ranks.

    A synchronised step equals that of one rank with the whole micro-batch up to rounding: forward
    and backward pass each sum two numbers per channel over ranks (the gradient is that of Ioffe and
    Szegedy 2015).
    """

    exchange: Sums | None = None
    follows: bool = True  # whether the running statistics follow those of a batch

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, dtype=torch.float32)
        self.num_batches_tracked = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the normalised images [n, channels, height, width]; n may be 0 where statistics
        are synchronised."""
        if self.exchange is None or not self.training:
            if self.training and not self.follows:
                return functional.batch_norm(
                    inputs, None, None, self.weight, self.bias, training=True, eps=self.eps
                )
            return super().forward(inputs)
        output, mean, variance, count = _Synchronised.apply(  # type: ignore[no-untyped-call]
            inputs, self.weight, self.bias, self.eps, self.exchange
        )
        if self.follows:
            self._follow(mean, variance * (count / (count - 1)))
        return output  # type: ignore[no-any-return]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert (
            self.running_mean is not None
            and self.running_var is not None
            and self.momentum is not None
        )
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


class _Synchronised(torch.autograd.Function):
    """Normalise over all ranks; weight gradients are a rank's addends, which are summed later.

    torch's kernels compute with given statistics, so that their input gradient is that for constant
    statistics; the part through mean and variance is added to it.
    """

    @staticmethod
    def forward(
        context: Any, inputs: Tensor, weight: Tensor, bias: Tensor, eps: float, exchange: Sums
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(inputs, weight, exchange)
        statistics = (mean.to(weight), variance.to(weight))
        context.save_for_backward(inputs, weight, *statistics)
        context.exchange = exchange
        context.count = float(count)
        context.eps = eps
        context.mark_non_differentiable(mean, variance, count)
        output = functional.batch_norm(inputs, *statistics, weight, bias, eps=eps)
        return output, mean, variance, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, variance = context.saved_tensors
        for_inputs, for_weight, for_bias = _gradients(
            gradient, inputs, weight, mean, variance, context.eps
        )
        addends = torch.stack([for_weight, for_bias]).double()
        sums = context.exchange.sum(addends, BACKWARD)
        over_weight, over_bias = -(sums / context.count).to(weight)
        scale = weight * (variance + context.eps).rsqrt()
        for_inputs += functional.batch_norm(
            inputs, mean, variance, scale * over_weight, scale * over_bias, eps=context.eps
        )
        return for_inputs, for_weight, for_bias, None, None


def _gradients(
    gradient: Tensor, inputs: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of inputs, weight and bias for constant statistics."""
    if not inputs.numel():  # the kernel does not accept empty inputs
        return torch.zeros_like(inputs), torch.zeros_like(weight), torch.zeros_like(weight)
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        gradient, inputs, weight, mean, variance, None, None, False, eps, [True, True, True]
    )
    return gradients


def _statistics(inputs: Tensor, weight: Tensor, exchange: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and number of values of each channel over all ranks, in float64.

    Ranks sum their squares about zero: float64 can afford what this loses where the mean is large.
    """
    count = inputs.numel() // inputs.shape[1]
    addends = inputs.new_zeros(2 * inputs.shape[1] + 1, dtype=torch.float64)
    if count:
        running = (torch.zeros_like(weight), torch.zeros_like(weight))  # only their type matters
        mean, variance = map(
            torch.Tensor.double, torch.batch_norm_update_stats(inputs, *running, 0.0)
        )
        squares = variance + mean**2
        addends = torch.cat([mean * count, squares * count, addends.new_tensor([count])])
    total = exchange.sum(addends, FORWARD)
    mean, square = (total[:-1] / total[-1]).chunk(2)
    return mean, square - mean**2, total[-1]


def synchronise_(model: nn.Module, exchange: Sums) -> None:
    """Let every normalisation of a model take its statistics over all ranks."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.exchange = exchange


@contextmanager
def running_statistics_kept(*models: nn.Module) -> Iterator[None]:
    """Meanwhile, normalise with a batch's statistics without taking them into the running ones."""
    layers = [
        layer for model in models for layer in model.modules() if isinstance(layer, BatchNorm)
    ]
    for layer in layers:
        layer.follows = False
    try:
        yield
    finally:
        for layer in layers:
            layer.follows = True


@torch.no_grad()
def average_running_(model: nn.Module, communicator: Communicator) -> None:
    """Replace the running statistics of all ranks by their mean (collective)."""
    buffers = list(model.buffers())
    if communicator.size == 1 or not buffers:
        return
    flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
    communicator.allreduce_sum_(flat)
    means = (flat / communicator.size).split([buffer.numel() for buffer in buffers])
    for buffer, mean in zip(buffers, means, strict=True):
        buffer.copy_(mean.view_as(buffer))
