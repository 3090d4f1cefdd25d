"""Batch normalisation whose statistics are those of one rank's examples, or of the examples of all
ranks together.

The statistics are those of the examples that pass the layer together: a micro-batch, where a batch
is cut into some.
"""

from __future__ import annotations

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
    """torch's layer; with `exchange` set, a training step takes mean and variance over the examples
    of all ranks.

    Synchronised, a step is that of one rank with the whole micro-batch, to rounding: forward and
    backward pass each sum two numbers a channel over ranks (Ioffe and Szegedy 2015 for the
    gradient).
    """

    exchange: Sums | None = None

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, dtype=torch.float32)
        self.num_batches_tracked = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the normalised images [n, channels, height, width]; n may be 0 where statistics
        are synchronised."""
        if self.exchange is None or not self.training:
            return super().forward(inputs)
        output, mean, variance, count = _Synchronised.apply(  # type: ignore[no-untyped-call]
            inputs, self.weight, self.bias, self.eps, self.exchange
        )
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
    """Normalise over all ranks; what a rank's weights get is its addend, for gradients are summed
    over ranks later.

    torch's own kernels do the work: with statistics that are given, their gradient is the one for
    constant statistics, to which the part that flows through mean and variance is added.
    """

    @staticmethod
    def forward(
        context: Any, inputs: Tensor, weight: Tensor, bias: Tensor, eps: float, exchange: Sums
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(inputs, weight, exchange)
        used = mean.to(weight), variance.to(weight)
        context.save_for_backward(inputs, weight, *used)
        context.exchange, context.count, context.eps = exchange, float(count), eps
        context.mark_non_differentiable(mean, variance, count)
        return functional.batch_norm(inputs, *used, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, variance = context.saved_tensors
        for_inputs, for_weight, for_bias = _gradients(
            gradient, inputs, weight, mean, variance, context.eps
        )
        own = torch.stack([for_weight, for_bias]).double()
        over_weight, over_bias = -(context.exchange.sum(own, BACKWARD) / context.count).to(weight)
        scale = weight * (variance + context.eps).rsqrt()
        for_inputs += functional.batch_norm(
            inputs, mean, variance, scale * over_weight, scale * over_bias, eps=context.eps
        )
        return for_inputs, for_weight, for_bias, None, None


def _gradients(
    gradient: Tensor, inputs: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients for inputs, weight and bias of a normalisation with constant
    statistics."""
    if not inputs.numel():  # for which the kernel is not made
        return torch.zeros_like(inputs), torch.zeros_like(weight), torch.zeros_like(weight)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        gradient, inputs, weight, mean, variance, None, None, False, eps, [True, True, True]
    )
    return found


def _statistics(inputs: Tensor, weight: Tensor, exchange: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel, and the count behind them, over all ranks, in
    double precision.

    Ranks sum their squares about zero; what this loses where the mean is large, double precision
    can spare.
    """
    count = inputs.numel() // inputs.shape[1]
    own = inputs.new_zeros(2 * inputs.shape[1] + 1, dtype=torch.float64)
    if count:
        unused = (
            torch.zeros_like(weight),
            torch.zeros_like(weight),
        )  # their type is the one to compute in
        mean, variance = (
            value.double() for value in torch.batch_norm_update_stats(inputs, *unused, 0.0)
        )
        own = torch.cat([mean * count, (variance + mean**2) * count, own.new_tensor([count])])
    total = exchange.sum(own, FORWARD)
    mean, square = (total[:-1] / total[-1]).chunk(2)
    return mean, square - mean**2, total[-1]


def synchronise_(model: nn.Module, exchange: Sums) -> None:
    """Let every normalisation of a model take its statistics over ranks from now on."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.exchange = exchange


@torch.no_grad()
def average_running_(model: nn.Module, communicator: Communicator) -> None:
    """Give all ranks the mean of their running statistics, which evaluation uses (collective)."""
    buffers = list(model.buffers())
    if communicator.size == 1 or not buffers:
        return
    flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
    communicator.allreduce_sum_(flat)
    for buffer, mean in zip(
        buffers, (flat / communicator.size).split([b.numel() for b in buffers]), strict=True
    ):
        buffer.copy_(mean.view_as(buffer))
