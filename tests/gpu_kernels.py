"""The kernels of torch's SyncBatchNorm, which exist on a GPU alone, written down for a CPU.

They follow the signatures that torch declares; a call with other arguments fails.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nnpar_lib.trainers.models import batch_norm

CHANNELS = (1, -1, 1, 1)
REST = (0, 2, 3)


def stats(inputs, eps):
    variance, mean = torch.var_mean(inputs, REST, correction=0)
    return mean, (variance + eps).rsqrt()


def gather_stats(inputs, means, deviations, running_mean, running_var, momentum, eps, counts):
    counts = counts.view(-1, 1)
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    squares = (deviations**-2 - eps + means**2) * counts
    variance = squares.sum(0) / total - mean**2
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


def elemt(inputs, weight, bias, mean, deviation, eps):
    scaled = (inputs - mean.view(CHANNELS)) * (deviation * weight).view(CHANNELS)
    return scaled + bias.view(CHANNELS)


def backward_reduce(gradient, inputs, mean, deviation, weight, for_inputs, for_weight, for_bias):
    assert for_inputs and for_weight and for_bias
    sums = gradient.sum(REST)
    products = (gradient * (inputs - mean.view(CHANNELS))).sum(REST)
    return sums, products, products * deviation, sums


def backward_elemt(gradient, inputs, mean, deviation, weight, sums, products, counts):
    assert counts.dtype == torch.int32
    means = (sums / counts.sum()).view(CHANNELS)
    slopes = (products * deviation**2 / counts.sum()).view(CHANNELS)
    inner = gradient - means - (inputs - mean.view(CHANNELS)) * slopes
    return inner * (deviation * weight).view(CHANNELS)


KERNELS = {
    "batch_norm_stats": stats,
    "batch_norm_gather_stats_with_counts": gather_stats,
    "batch_norm_elemt": elemt,
    "batch_norm_backward_reduce": backward_reduce,
    "batch_norm_backward_elemt": backward_elemt,
}


@contextmanager
def gpu_kernels() -> Iterator[None]:
    """Meanwhile, images on a CPU are normalised over ranks as those on a GPU are."""
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in KERNELS.items():
        library.impl(name, kernel, "CPU")
    before = batch_norm.has_gpu_kernels
    batch_norm.has_gpu_kernels = lambda inputs: True
    try:
        yield
    finally:
        batch_norm.has_gpu_kernels = before
        library._destroy()
