"""Batch normalisation whose statistics are those of one rank's examples, or of the examples of all ranks together.

The statistics are those of the examples that pass the layer together: a micro-batch, where a batch is cut into some.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib.trainers.group import Communicator
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD


class Sums(Protocol):
    """Sums tensors over ranks, and books the time."""

    def sum(self, tensor: Tensor, activity: str) -> Tensor:
        """Return the sum over ranks; the time before it belongs to `activity` (collective)."""


class BatchNorm(nn.BatchNorm2d):
    """torch's layer; with `exchange` set, a training step takes mean and variance over the examples of all ranks.

    Synchronised, a step is that of one rank with the whole micro-batch, to rounding: forward and backward pass each
    sum two numbers a channel over ranks (Ioffe and Szegedy 2015 for the gradient).
    """

    exchange: Sums | None = None

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, dtype=torch.float32)
        self.num_batches_tracked = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the normalised images [n, channels, height, width]; n may be 0 where statistics are synchronised."""
        if self.exchange is None or not self.training:
            return super().forward(inputs)
        output, mean, variance, count = _Synchronised.apply(  # type: ignore[no-untyped-call]
            inputs, self.weight, self.bias, self.eps, self.exchange)
        self._follow(mean, variance * (count / (count - 1)))
        return output  # type: ignore[no-any-return]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


class _Synchronised(torch.autograd.Function):
    """Normalise over all ranks; what a rank's weights get is its addend, for gradients are summed over ranks later."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, weight: Tensor, bias: Tensor, eps: float, exchange: Sums
                ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(inputs, exchange)
        used = mean.to(weight), variance.to(weight)
        context.save_for_backward(inputs, weight, used[0], (used[1] + eps).rsqrt())
        context.exchange, context.count = exchange, float(count)
        context.mark_non_differentiable(mean, variance, count)
        return functional.batch_norm(inputs, *used, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, inverse = context.saved_tensors
        gradient, centred = gradient.to(weight), inputs.to(weight) - _wide(mean)
        for_bias = gradient.sum((0, 2, 3))
        for_weight = (gradient * centred).sum((0, 2, 3)) * inverse
        own = torch.stack([for_bias, for_weight]).double()
        over_bias, over_weight = (context.exchange.sum(own, BACKWARD) / context.count).to(weight)
        for_inputs = torch.addcmul(gradient - _wide(over_bias), centred, _wide(over_weight * inverse), value=-1)
        return for_inputs.mul_(_wide(weight * inverse)).to(inputs), for_weight, for_bias, None, None


def _statistics(inputs: Tensor, exchange: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel, and the count behind them, over all ranks, in double precision.

    Ranks sum their squares about zero; what this loses where the mean is large, double precision can spare.
    """
    count = inputs.numel() // inputs.shape[1]
    own = inputs.new_zeros(2 * inputs.shape[1] + 1, dtype=torch.float64)
    if count:
        variance, mean = torch.var_mean(inputs.float() if inputs.dtype == torch.bfloat16 else inputs, (0, 2, 3),
                                        correction=0)
        mean, variance = mean.double(), variance.double()
        own = torch.cat([mean * count, (variance + mean**2) * count, own.new_tensor([count])])
    total = exchange.sum(own, FORWARD)
    mean, square = (total[:-1] / total[-1]).chunk(2)
    return mean, square - mean**2, total[-1]


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)


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
    for buffer, mean in zip(buffers, (flat / communicator.size).split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
