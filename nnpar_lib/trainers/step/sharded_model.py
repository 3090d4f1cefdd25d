"""A model of which each rank holds parts: the passes of a step, block by block.

A block's weights are gathered before its passes and its gradient is summed after them. In between
blocks exist whole one or two at a time (FSDP, Zhao et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib.config import RunConfig
from nnpar_lib.parts import part
from nnpar_lib.trainers.communication import shards
from nnpar_lib.trainers.communication.communicator import Communicator, Request
from nnpar_lib.trainers.data.batches import Batch
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.timeline import BACKWARD, COMMUNICATE, FORWARD, Timeline


class Layout(NamedTuple):
    """The size and the strides of a parameter, and which elements of it, in their order in memory,
    this rank holds."""

    size: torch.Size
    stride: tuple[int, ...]
    local_part: slice

    def view(self, flat: Tensor) -> Tensor:
        """Return a flat tensor in the parameter's shape."""
        return flat.as_strided(self.size, self.stride, flat.storage_offset())

    def flat(self, value: Tensor) -> Tensor:
        """Return a value for the parameter as a flat copy, in the parameter's order in memory."""
        copy = value.new_empty(value.numel())
        self.view(copy).copy_(value)
        return copy


class ShardedModel:
    """Blocks whose weights and gradients ranks divide, and their passes.

    `weights` and `gradients` are this rank's parts, one a block. Where optimizer state alone is
    divided, all blocks count as one, and there is one message in each direction.
    """

    def __init__(self, config: RunConfig, communicator: Communicator, timeline: Timeline) -> None:
        self._timeline = timeline
        self._is_overlapped = config.prefetches
        self.blocks: list[nn.Sequential] = []
        self._layouts: list[list[Layout]] = []
        self._initial: list[Tensor] = []
        owners = shards.owners(config.allreduce, communicator)
        for block in _exchange_units(config):
            self._add(block, owners)
        self._initial_buffers = [
            (buffer, buffer.clone()) for block in self.blocks for buffer in block.buffers()
        ]
        self.shards = shards.build(
            config.allreduce,
            communicator,
            [sum(layout.size.numel() for layout in layouts) for layouts in self._layouts],
            self._initial[0],
            are_whole=config.shard != "weights",
            is_overlapped=self._is_overlapped,
        )
        self._connect(config)

    def _add(self, block: nn.Sequential, owners: Communicator) -> None:
        """Keep this rank's part of a block's initial weights, and let go of the rest."""
        parameters = list(block.parameters())
        flat = torch.cat([_in_memory_order(parameter) for parameter in parameters])
        local = part(len(flat), owners.size, owners.rank)
        layouts = []
        start = 0
        for parameter in parameters:
            pieces = _overlap(local, start, parameter.numel())
            layouts.append(Layout(parameter.size(), parameter.stride(), pieces))
            start += parameter.numel()
            parameter.data = parameter.new_empty(0)
        self.blocks.append(block)
        self._layouts.append(layouts)
        self._initial.append(flat[local].clone())

    def _connect(self, config: RunConfig) -> None:
        """Let parameters and gradients be views of the shards' buffers."""
        self.weights = [nn.Parameter(weights) for weights in self.shards.weights]
        self._parameters = [list(block.parameters()) for block in self.blocks]
        self._gradient_views: list[list[Tensor]] = []
        for index, layouts in enumerate(self._layouts):
            views = _views(self.shards.wholes[index], layouts)
            for parameter, view in zip(self._parameters[index], views, strict=True):
                parameter.data = view
            self._gradient_views.append(_views(self.shards.addends[index], layouts))
        # where whole gradients are kept, the sum stays in them
        is_divided = config.shard != "optimizer"
        for index, weights in enumerate(self.weights):
            weights.grad = torch.zeros_like(weights) if is_divided else self.shards.reduced(index)
        self._has_weights: dict[int, int] = {}  # which block's weights are in each slot
        self._arriving: dict[int, Request] = {}
        self._leaving: dict[int, tuple[int, Request]] = {}

    def compute_gradient(self, batch: Batch) -> Tensor:
        """Fill this rank's parts of the global batch's mean gradient; return the sum of the losses
        of its examples, a scalar (collective)."""
        saved = self._pass_forward(batch)
        loss_sum = saved[-1][1]
        gradient = torch.full_like(loss_sum, 1 / batch.num_global_examples)
        for index in reversed(range(len(self.blocks))):
            self._hold(index, index - 1)
            inputs, output = saved.pop()
            parameters = self._parameters[index]
            leaves = [*parameters, inputs] if inputs.requires_grad else parameters
            gradients = torch.autograd.grad(output, leaves, gradient)
            self._reduce(index, gradients[: len(parameters)])
            gradient = gradients[-1]
        for slot in list(self._leaving):
            self._complete(slot)
        self._timeline.lap(COMMUNICATE)
        return loss_sum.detach()

    def _pass_forward(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Return the input and the output of each block; the last output is the sum of losses."""
        saved = []
        output = batch.images
        for index, block in enumerate(self.blocks):
            self._hold(index, index + 1)
            inputs = output.detach().requires_grad_() if index else output
            output = block(inputs)
            if index + 1 == len(self.blocks):
                output = functional.cross_entropy(output, batch.labels, reduction="sum")
            saved.append((inputs, output))
            self._timeline.lap(FORWARD, index)
        return saved

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits; all ranks call it equally often (collective)."""
        with networks.evaluating(*self.blocks):
            for index, block in enumerate(self.blocks):
                self._hold(index, index + 1)
                images = block(images)
        return images

    def publish(self) -> None:
        """Let all ranks see the weights that each has written (collective)."""
        self._has_weights.clear()
        self.shards.publish()
        self._timeline.lap(COMMUNICATE)

    def reset(self) -> None:
        """Go back to the initial weights (collective)."""
        self.shards.publish()  # no rank may still read what another overwrites
        with torch.no_grad():
            torch._foreach_copy_(list(self.weights), self._initial)
            for buffer, initial in self._initial_buffers:
                buffer.copy_(initial)
        self.publish()

    def close(self) -> None:
        """Give the memory back (collective)."""
        for parameters in self._parameters:
            for parameter in parameters:
                parameter.data = parameter.new_empty(0)
        self.weights.clear()
        self._gradient_views.clear()
        self.shards.free()

    def pieces(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Cut this rank's parts of blocks into pieces, one for each parameter of the model."""
        pieces: list[Tensor] = []
        for value, layouts in zip(values, self._layouts, strict=True):
            pieces += value.split([_length(layout.local_part) for layout in layouts])
        return pieces

    def joined(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Return the parts of blocks that pieces, one for each parameter, make up."""
        remaining = iter(pieces)
        return [torch.cat([next(remaining) for _ in layouts]) for layouts in self._layouts]

    def layouts(self) -> Iterator[Layout]:
        """Yield the layout of each parameter of the model."""
        for layouts in self._layouts:
            yield from layouts

    def _hold(self, index: int, following: int) -> None:
        """Wait for the weights of a block; begin to gather those of the next one."""
        self._gather(index)
        request = self._arriving.pop(index, None)
        if request is not None:
            request.wait()
        if self._is_overlapped and 0 <= following < len(self.blocks):
            self._gather(following)
        self._timeline.lap(COMMUNICATE, index)

    def _gather(self, index: int) -> None:
        """Begin to gather the weights of a block, unless they are here or under way."""
        slot = index % self.shards.num_slots
        if self._has_weights.get(slot) != index:
            self._has_weights[slot] = index
            self._arriving[index] = self.shards.start_gather_(index)

    def _reduce(self, index: int, gradients: Sequence[Tensor]) -> None:
        """Begin to sum a block's gradient over ranks."""
        self._timeline.lap(BACKWARD, index)
        slot = index % self.shards.num_addend_slots
        self._complete(slot)
        self._timeline.lap(COMMUNICATE, index)
        torch._foreach_copy_(self._gradient_views[index], list(gradients))
        self._timeline.lap(BACKWARD, index)
        self._leaving[slot] = index, self.shards.start_reduce_(index)
        if not self._is_overlapped:
            self._complete(slot)
        self._timeline.lap(COMMUNICATE, index)

    def _complete(self, slot: int) -> None:
        """Wait for the sum under way in a slot, if any, and keep this rank's part of it."""
        if slot not in self._leaving:
            return
        index, request = self._leaving.pop(slot)
        request.wait()
        gradient = self.weights[index].grad
        reduced = self.shards.reduced(index)
        assert gradient is not None
        if gradient.data_ptr() != reduced.data_ptr():
            gradient.copy_(reduced)


def _exchange_units(config: RunConfig) -> Iterator[nn.Sequential]:
    """Yield the blocks of the model, or all together where they are exchanged at once."""
    if config.shard == "optimizer":
        yield networks.network(config, *networks.blocks(config))
        return
    for block in networks.blocks(config):
        yield networks.network(config, block)


def _in_memory_order(parameter: Tensor) -> Tensor:
    """Return the elements of a dense tensor as a flat view, in their order in memory."""
    return parameter.detach().as_strided((parameter.numel(),), (1,))


def _views(flat: Tensor, layouts: Sequence[Layout]) -> list[Tensor]:
    pieces = flat.split([layout.size.numel() for layout in layouts])
    return [layout.view(piece) for layout, piece in zip(layouts, pieces, strict=True)]


def _overlap(items: slice, start: int, length: int) -> slice:
    """Return which of `length` elements, the first of which is number `start`, are in a slice."""
    first = min(max(items.start - start, 0), length)
    stop = min(max(items.stop - start, 0), length)
    return slice(first, stop)


def _length(items: slice) -> int:
    length: int = items.stop - items.start
    return length
