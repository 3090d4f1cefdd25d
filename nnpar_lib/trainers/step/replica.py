"""A copy of the model whose weights, and whose gradient, are each one flat buffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib.config import RunConfig
from nnpar_lib.parts import part
from nnpar_lib.trainers.data.batches import Batch
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step.optimizer import build_optimizer, set_learning_rate
from nnpar_lib.trainers.step.state import (
    State,
    read_state,
    running_statistics,
    write_running_statistics,
    write_state,
)
from nnpar_lib.trainers.timeline import BACKWARD, FORWARD, UPDATE, Timeline


class Replica:
    """The model on one rank, or its part of the model, with its optimizer.

    The model's parameters are views of one flat tensor, so that an exchange or an update is one
    operation instead of one per parameter. `weights` is the slice of it that this rank updates,
    which is all of it unless ranks divide the update. The optimizer is torch's, on that one flat
    parameter.
    """

    def __init__(
        self, config: RunConfig, timeline: Timeline, model: nn.Module | None = None
    ) -> None:
        self._config = config
        self._timeline = timeline
        self.model = networks.build(config) if model is None else model
        self.parameters = list(self.model.parameters())
        flat = torch.cat([_in_memory_order(parameter) for parameter in self.parameters])
        self._initial = flat.clone()
        self._initial_buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        self.share_weights(flat, slice(None), gradient=torch.zeros_like(flat))
        self.use_gradient(torch.zeros_like(flat))

    def use_gradient(self, buffer: Tensor) -> None:
        """Let this flat buffer, such as that of an all-reduce, hold the gradient."""
        self.weights.grad = buffer[self._local_part]
        self._gradient_views = _views(buffer, self.parameters)

    def share_weights(self, flat: Tensor, local_part: slice, *, gradient: Tensor) -> None:
        """Let this flat buffer hold the weights of all ranks of a node; update the local part only.

        `gradient` is where the optimizer finds the gradient of that part. The local part gets its
        initial weights at once; the rest is there after a barrier.
        """
        for parameter, view in zip(self.parameters, _views(flat, self.parameters), strict=True):
            parameter.data = view
        self._flat = flat
        self._local_part = local_part
        self.weights = nn.Parameter(flat[local_part])
        self.weights.grad = gradient
        self.reset()

    def unshare_weights(self) -> None:
        """Move the weights, as they are, into memory that no other rank sees."""
        flat = self._flat.clone()
        for parameter, view in zip(self.parameters, _views(flat, self.parameters), strict=True):
            parameter.data = view
        self._flat = flat
        self._local_part = slice(None)
        self.weights = nn.Parameter(flat)
        self.use_gradient(torch.zeros_like(flat))

    def reset(self) -> None:
        """Go back to the initial weights and a fresh optimizer."""
        with torch.no_grad():
            self.weights.copy_(self._initial[self._local_part])
            for buffer, initial in self._initial_buffers:
                buffer.copy_(initial)
        self.renew_optimizer()

    def renew_optimizer(self) -> None:
        """Forget momenta and other optimizer state."""
        self.optimizer = build_optimizer([self.weights], self._config)

    def state(self, join: Callable[[Tensor], Tensor] = lambda local: local) -> State:
        """Return the parameters and the optimizer's state for each of them.

        `join` makes one flat tensor for all parameters out of the tensors that ranks hold for their
        parts.
        """
        flat = read_state([self.weights], self.optimizer)
        tensors = {name: self._split(join(value)) for name, (value,) in flat.optimizer.items()}
        return State(
            [parameter.detach() for parameter in self.parameters],
            tensors,
            flat.numbers,
            running=running_statistics(self.model),
        )

    def restore(self, state: State) -> None:
        """Go on from a state; where ranks share weights, the local part is there at once."""
        tensors = {name: [self._joined_part(values)] for name, values in state.optimizer.items()}
        flat = State([self._joined_part(state.parameters)], tensors, state.numbers)
        write_state(flat, [self.weights], self.optimizer)
        write_running_statistics(state, self.model)

    def _joined_part(self, values: Sequence[Tensor]) -> Tensor:
        """Return the local part of the flat tensor that values for all parameters make."""
        flat = torch.empty_like(self._flat)
        torch._foreach_copy_(self._split(flat), list(values))
        return flat[self._local_part]

    def _split(self, flat: Tensor) -> list[Tensor]:
        return _views(flat, self.parameters)

    def compute_gradient(self, batch: Batch) -> Tensor:
        """Write this rank's addend of the global batch's mean gradient to the flat buffer.

        The sum of the addends over ranks is the gradient of the mean loss over the global batch,
        however unevenly it is split. Return the sum of the losses of this rank's examples, a scalar
        tensor.
        """
        first, *later = self._microbatches(batch)
        total = self._differentiate(first, torch._foreach_copy_)
        for microbatch in later:
            total = total + self._differentiate(microbatch, torch._foreach_add_)
        return total

    def _differentiate(self, batch: Batch, put: Callable[..., None]) -> Tensor:
        """Copy the gradient of a micro-batch to the buffer, or add it; return its sum of losses."""
        loss_sum = self.loss_sum(batch)
        scale = torch.full_like(loss_sum, 1 / batch.num_global_examples)
        put(self._gradient_views, torch.autograd.grad(loss_sum, self.parameters, scale))
        self._timeline.lap(BACKWARD)
        return loss_sum.detach()

    def _microbatches(self, batch: Batch) -> list[Batch]:
        """Cut this rank's part of a batch into micro-batches, the same number on all ranks."""
        size = self._config.microbatch_size
        if not size:
            return [batch]
        most = max(len(batch.labels), -(-batch.num_global_examples // self._config.num_data_ranks))
        count = -(-most // size)
        slices = [part(len(batch.labels), count, index) for index in range(count)]
        return [
            Batch(batch.images[piece], batch.labels[piece], batch.num_global_examples)
            for piece in slices
        ]

    def loss_sum(self, batch: Batch) -> Tensor:
        """Return the differentiable sum of the cross-entropy losses of this rank's examples."""
        loss_sum = functional.cross_entropy(self.model(batch.images), batch.labels, reduction="sum")
        self._timeline.lap(FORWARD)
        return loss_sum

    def update(self, step: int) -> None:
        """Take an optimizer step with the gradient buffer as it is."""
        set_learning_rate(self.optimizer, self._config, step)
        self.optimizer.step()
        self._timeline.lap(UPDATE)

    def view_of_gradient(self, index: int) -> Tensor:
        """Return the part of the gradient buffer that belongs to this parameter, in its shape."""
        return self._gradient_views[index]


def _in_memory_order(parameter: Tensor) -> Tensor:
    """Return the elements of a dense tensor as a flat view, in their order in memory."""
    return parameter.detach().as_strided((parameter.numel(),), (1,))


def _views(flat: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return the parts of a flat tensor in the shapes of the parameters, and in their order in
    memory."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return [
        part.as_strided(parameter.size(), parameter.stride(), part.storage_offset())
        for part, parameter in zip(parts, parameters, strict=True)
    ]
