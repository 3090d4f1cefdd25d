"""Batch normalisation with statistics of one rank's examples, or of the examples of all ranks.

Statistics are taken over the examples that pass the layer together: a micro-batch, where batches
are cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.models.gpu_batch_norm import SynchronisedOnGpu
from nnpar_lib.trainers.models.sums import Sums
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD

Vector = npt.NDArray[np.float64]


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
        assert self.running_mean is not None and self.running_var is not None
        running = (self.running_mean, self.running_var)
        if not self.follows:
            running = (running[0].clone(), running[1].clone())
        function = SynchronisedOnGpu if has_gpu_kernels(inputs) else _Synchronised
        output: Tensor = function.apply(  # type: ignore[no-untyped-call]
            inputs, self.weight, self.bias, running, self.momentum, self.eps, self.exchange
        )
        return output


def has_gpu_kernels(inputs: Tensor) -> bool:
    """Return whether torch has kernels for synchronised statistics of such images."""
    return inputs.is_cuda


class _Synchronised(torch.autograd.Function):
    """Normalise over all ranks; weight gradients are a rank's addends, which are summed later.

    `running` are the running mean and variance, which follow those of the batch by `momentum`.
    torch's kernels compute with given statistics, so that their input gradient is that for constant
    statistics; the part through mean and variance is added to it.
    """

    @staticmethod
    def forward(
        context: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        running: tuple[Tensor, Tensor],
        momentum: float,
        eps: float,
        exchange: Sums,
    ) -> Tensor:
        mean, variance, count = _statistics(inputs, running, exchange)
        unbiased = variance * (count / max(count - 1, 1))
        for follower, value in zip(running, (mean, unbiased), strict=True):
            follower.lerp_(torch.from_numpy(value).to(follower), momentum)
        statistics = (torch.from_numpy(mean).to(weight), torch.from_numpy(variance).to(weight))
        context.save_for_backward(inputs, weight, *statistics)
        context.exchange = exchange
        context.count = count
        context.eps = eps
        return functional.batch_norm(inputs, *statistics, weight, bias, eps=eps)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, variance = context.saved_tensors
        for_inputs, for_weight, for_bias = _gradients(
            gradient, inputs, weight, mean, variance, context.eps
        )
        addends = torch.stack([for_weight, for_bias]).double()
        sums = context.exchange.sum(addends, BACKWARD)
        scale = weight * (variance + context.eps).rsqrt() / -context.count
        over_weight, over_bias = scale * sums.to(weight)
        for_inputs += functional.batch_norm(
            inputs, mean, variance, over_weight, over_bias, eps=context.eps
        )
        return for_inputs, for_weight, for_bias, None, None, None, None


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


def _statistics(
    inputs: Tensor, running: tuple[Tensor, Tensor], exchange: Sums
) -> tuple[Vector, Vector, float]:
    """Return mean, variance and number of values of each channel over all ranks.

    Ranks sum their squares about zero: float64 can afford what this loses where the mean is large.
    NumPy takes a fraction of torch's time for vectors as short as these.
    """
    num_channels = inputs.shape[1]
    count = inputs.numel() // num_channels
    addends = np.zeros(2 * num_channels + 1)
    if count:
        unread = torch.zeros_like(running[0])  # only its type matters
        moments = torch.batch_norm_update_stats(inputs, unread, unread.clone(), 0.0)
        mean, variance = (moment.double().numpy() for moment in moments)
        addends[:num_channels] = mean * count
        addends[num_channels:-1] = (variance + mean**2) * count
        addends[-1] = count
    total: Vector = exchange.sum(torch.from_numpy(addends), FORWARD).numpy()
    mean, square = (total[:-1] / total[-1]).reshape(2, num_channels)
    return mean, square - mean**2, float(total[-1])


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
