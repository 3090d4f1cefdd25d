"""Batch normalisation over ranks on a GPU, by the kernels of torch's SyncBatchNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnpar_lib.trainers.models.sums import Sums
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD


class SynchronisedOnGpu(torch.autograd.Function):
    """Normalise over all ranks; weight gradients are a rank's addends, which are summed later.

    `running` are the running mean and variance, which follow those of the batch by `momentum`.
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
        inputs = _dense(inputs)
        rows = _gather(_local_statistics(inputs, running[0], eps), exchange)
        rows = rows[rows[:, -1] > 0]  # a rank without examples has no statistics
        num_channels = inputs.shape[1]
        counts = rows[:, -1].contiguous()
        mean, inverse_deviation = torch.batch_norm_gather_stats_with_counts(
            inputs,
            rows[:, :num_channels].contiguous(),
            rows[:, num_channels:-1].contiguous(),
            *running,
            momentum,
            eps,
            counts.to(running[0]),
        )
        context.save_for_backward(inputs, weight, mean, inverse_deviation, counts.int())
        context.exchange = exchange
        if not inputs.numel():
            return torch.empty_like(inputs)
        output: Tensor = torch.batch_norm_elemt(inputs, weight, bias, mean, inverse_deviation, eps)
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, inverse_deviation, counts = context.saved_tensors
        sums = torch.zeros_like(torch.stack([mean, mean]))
        for_weight = torch.zeros_like(weight)
        for_bias = torch.zeros_like(weight)
        given = (inputs, mean, inverse_deviation)
        if inputs.numel():
            *addends, for_weight, for_bias = torch.batch_norm_backward_reduce(
                _dense(gradient), *given, weight, True, True, True
            )
            sums = torch.stack(addends)
        sums = context.exchange.sum(sums, BACKWARD)
        for_inputs = torch.empty_like(inputs)
        if inputs.numel():
            for_inputs = torch.batch_norm_backward_elemt(
                _dense(gradient), *given, weight.to(mean), sums[0], sums[1], counts
            )
        return for_inputs, for_weight, for_bias, None, None, None, None


def _local_statistics(inputs: Tensor, running_mean: Tensor, eps: float) -> Tensor:
    """Return mean, 1 / standard deviation and number of values of this rank's channels, flat."""
    num_channels = inputs.shape[1]
    statistics = running_mean.new_zeros(2 * num_channels + 1)
    if inputs.numel():
        mean, inverse_deviation = torch.batch_norm_stats(inputs, eps)
        count = mean.new_full((1,), inputs.numel() // num_channels)
        statistics = torch.cat([mean, inverse_deviation, count])
    return statistics


def _gather(row: Tensor, exchange: Sums) -> Tensor:
    """Return the rows of all ranks (collective): a sum in which each is zero but for its own."""
    rows = row.new_zeros(exchange.communicator.size, len(row))
    rows[exchange.communicator.rank] = row
    return exchange.sum(rows, FORWARD)


def _dense(images: Tensor) -> Tensor:
    """Return images in an order of memory that the kernels take."""
    if images.is_contiguous(memory_format=torch.channels_last):
        return images
    return images.contiguous()
