"""What a rank keeps in memory: weights, gradients, the optimizer's state, and the activations of
live micro-batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from nnpar_lib.trainers.step.replica import Replica


def measure(replica: Replica, compute_gradient: Callable[[], object]) -> dict[str, int]:
    """Return the bytes of a rank's `parameters`, `gradients` and `optimizer`, and the peak of its
    `activations`.

    Activations are what autograd keeps between forward and backward passes, each tensor once,
    weights left out; they are followed through one computation of the gradient. Temporary buffers
    and messages are not among them.
    """
    meter = ActivationMeter(replica.weights)
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, lambda kept: kept.tensor):
        compute_gradient()
    state = [
        value
        for values in replica.optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    ]
    gradient = replica.weights.grad
    return {
        "parameters": replica.weights.nbytes,
        "gradients": 0 if gradient is None else gradient.nbytes,
        "optimizer": sum(value.nbytes for value in state),
        "activations": meter.peak_bytes,
    }


class ActivationMeter:
    """Counts the bytes of what autograd keeps, and their peak; views of the same memory count
    once."""

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights.untyped_storage().data_ptr()
        self._num_holders: Counter[tuple[int, int]] = Counter()
        self.bytes = self.peak_bytes = 0

    def pack(self, tensor: Tensor) -> Kept:
        """Take note of a tensor that autograd keeps; return what it keeps instead."""
        is_weight = tensor.untyped_storage().data_ptr() == self._weights
        return Kept(tensor, None if is_weight else self)

    def add(self, tensor: Tensor, num_holders: int) -> None:
        """Take note that one more, or one less, holds this memory."""
        key = tensor.data_ptr(), tensor.nbytes
        was_held = self._num_holders[key] > 0
        self._num_holders[key] += num_holders
        self.bytes += tensor.nbytes * ((self._num_holders[key] > 0) - was_held)
        self.peak_bytes = max(self.peak_bytes, self.bytes)


class Kept:
    """A tensor that autograd keeps; what it holds is given back when autograd lets it go."""

    def __init__(self, tensor: Tensor, meter: ActivationMeter | None) -> None:
        self.tensor, self._meter = tensor, meter
        if meter is not None:
            meter.add(tensor, 1)

    def __del__(self) -> None:
        if self._meter is not None:
            self._meter.add(self.tensor, -1)
