"""The bytes that a rank holds: weights, gradients, optimizer state, activations of live
micro-batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from nnpar_lib.trainers.step.replica import Replica


def measure(replica: Replica, compute_gradient: Callable[[], object]) -> dict[str, int]:
    """Return the bytes of a rank's `parameters`, `gradients`, `optimizer` and, at their peak,
    `activations`.

    Activations are the tensors that autograd saves for the backward pass, weights excluded, each
    counted once; they are followed through one call of `compute_gradient`. Temporary buffers and
    messages are not counted.
    """
    activations = peak_activations(compute_gradient, replica.weights)
    gradient = replica.weights.grad
    return {
        "parameters": replica.weights.nbytes,
        "gradients": 0 if gradient is None else gradient.nbytes,
        "optimizer": optimizer_bytes(replica.optimizer),
        "activations": activations,
    }


def peak_activations(compute_gradient: Callable[[], object], *weights: Tensor) -> int:
    """Return the most bytes that autograd holds for the backward pass in one call.

    `weights` are the buffers in which weights lie, which are not counted.
    """
    meter = ActivationMeter(*weights)
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, lambda saved: saved.tensor):
        compute_gradient()
    return meter.peak_bytes


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimizer's state."""
    num_bytes = 0
    for state in optimizer.state.values():
        num_bytes += sum(value.nbytes for value in state.values() if torch.is_tensor(value))
    return num_bytes


class ActivationMeter:
    """Counts the bytes of the tensors that autograd saves beside weights, and their peak; views
    count once."""

    def __init__(self, *weights: Tensor) -> None:
        self._weights = {buffer.untyped_storage().data_ptr() for buffer in weights}
        self._num_holders: Counter[tuple[int, int]] = Counter()
        self.bytes = self.peak_bytes = 0

    def pack(self, tensor: Tensor) -> SavedTensor:
        """Count a tensor that autograd saves; return what it saves instead."""
        is_weight = tensor.untyped_storage().data_ptr() in self._weights
        # without its graph: a node that saves its output would hold itself, and never be freed
        return SavedTensor(tensor.detach(), None if is_weight else self)

    def add(self, tensor: Tensor, num_holders: int) -> None:
        """Count one holder more, or one less, of this memory."""
        key = tensor.data_ptr(), tensor.nbytes
        was_held = self._num_holders[key] > 0
        self._num_holders[key] += num_holders
        self.bytes += tensor.nbytes * ((self._num_holders[key] > 0) - was_held)
        self.peak_bytes = max(self.peak_bytes, self.bytes)


class SavedTensor:
    """A tensor that autograd saves; it is no longer counted when autograd frees it."""

    def __init__(self, tensor: Tensor, meter: ActivationMeter | None) -> None:
        self.tensor = tensor
        self._meter = meter
        if meter is not None:
            meter.add(tensor, 1)

    def __del__(self) -> None:
        if self._meter is not None:
            self._meter.add(self.tensor, -1)
